/** The stage `train`: persona-conditioned preference optimisation on the run's pairs. */
import { openPairs, storedRows } from "../../engine/reference.js";
import type { PairSource } from "../../engine/reference.js";
import { train } from "../../engine/training.js";
import type { TrainFacts, TrainJob } from "../../engine/training.js";
import { RlhiError } from "../../errors.js";
import { readJsonl } from "../../files.js";
import { pairsIdentity } from "../../pairs/build.js";
import type { PairRecord } from "../../pairs/types.js";
import type { PairRow } from "../../tokens/arrow.js";
import { isTooLong, tokenizePair } from "../../tokens/pair-tokens.js";
import type { ChatTokenizer } from "../../tokens/types.js";
import type { Stage, StageContext } from "../stage.js";

export const trainStage: Stage = async (context) => {
  const { folder, config, progress, signal, clock } = context;
  await context.closeModels();
  const pairs = await runPairs(context);
  const facts = await trainOf(context, {
    model: config.model, reference: config.reference, dtype: config.dtype, device: config.device, threads: config.threads, seed: config.seed, settings: config.train, pairs,
    files: { pairs: folder.pairsArrow, metrics: folder.metrics, checkpoints: folder.checkpoints, model: folder.model }, progress, signal, clock, tokenizer: () => context.tokenizer(),
  });
  return { ...facts, dropped_too_long: pairs.count - facts.pairs - facts.held_out_pairs };
};

/** The engine's advice is for a training with a folder of its own; here the run makes it again. */
async function trainOf({ folder }: StageContext, job: TrainJob): Promise<TrainFacts> {
  try {
    return await train(job);
  } catch (error) {
    if (!(error instanceof RlhiError) || error.code !== "ERR_OTHER_TRAINING") throw error;
    throw new RlhiError(error.code, { ...error.facts, todo: `train again on the pairs as they are now: rlhi-native run ${folder.dir} --force train`, cause: error });
  }
}

/** Pairs of pairs.jsonl; their ids from pairs.arrow where that was made from them by this model's tokenizer. One by one: nothing holds them all. */
async function runPairs({ folder, config, tokenizer: open }: StageContext): Promise<PairSource> {
  let count = 0;
  for await (const _ of readJsonl<PairRecord>(folder.pairs)) count += 1;
  if (count === 0) {
    throw new RlhiError("ERR_EMPTY", {
      what: "there are no pairs to train on",
      where: folder.pairs,
      expected: "at least one pair",
      todo: "see filtered.jsonl for why candidates gave none; looser `pairs` settings or more conversations may help",
    });
  }
  const source = await pairsIdentity(folder.pairs, config.pairs.max_tokens);
  return {
    identity: source,
    count,
    async *rows() {
      const tokenizer = open();
      const made = await openPairs(folder.pairsArrow, { tokens: tokenizer.fingerprint, source, reference: "" }, 0);
      yield* made === undefined ? tokenized(folder.pairs, tokenizer, config.pairs.max_tokens) : storedRows(made);
    },
  };
}

async function* tokenized(path: string, tokenizer: ChatTokenizer, max_tokens: number): AsyncGenerator<PairRow> {
  for await (const { id, held_out, prompt, chosen, rejected } of readJsonl<PairRecord>(path)) {
    const tokens = tokenizePair(tokenizer, { prompt, chosen: chosen[0].content, rejected: rejected[0].content }, max_tokens);
    // An answer is never cut: such a pair is left out, and counted in the facts.
    if (!isTooLong(tokens)) yield { id, held_out, prompt_ids: tokens.prompt_ids, chosen_ids: tokens.chosen_ids, rejected_ids: tokens.rejected_ids };
  }
}
