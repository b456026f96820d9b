/** The stage `train`: persona-conditioned preference optimisation on the run's pairs. */
import { openPairs } from "../../engine/reference.js";
import type { PairSource } from "../../engine/reference.js";
import { train } from "../../engine/training.js";
import { RlhiError } from "../../errors.js";
import { readAllJsonl } from "../../files.js";
import { pairsIdentity } from "../../pairs/build.js";
import type { PairRecord } from "../../pairs/types.js";
import type { PairRow } from "../../tokens/arrow.js";
import { openTokenizer } from "../../tokens/open.js";
import { isTooLong, tokenizePair } from "../../tokens/pair-tokens.js";
import type { ChatTokenizer } from "../../tokens/types.js";
import type { Stage, StageContext } from "../stage.js";

export const trainStage: Stage = async (context) => {
  const { folder, config, progress, signal } = context;
  await context.closeModels();
  const pairs = new RunPairs(context, await readAllJsonl<PairRecord>(folder.pairs), await pairsIdentity(folder.pairs, config.pairs.max_tokens));
  const facts = await train({
    model: config.model, reference: config.reference, dtype: config.dtype, threads: config.threads, seed: config.seed, settings: config.train, pairs,
    files: { pairs: folder.pairsArrow, metrics: folder.metrics, checkpoints: folder.checkpoints, model: folder.model }, progress, signal,
  });
  return { ...facts, dropped_too_long: pairs.count - facts.pairs - facts.held_out_pairs };
};

/** Pairs of pairs.jsonl; their ids from pairs.arrow where that was made from them by this model's tokenizer. */
class RunPairs implements PairSource {
  constructor(private readonly context: StageContext, private readonly records: readonly PairRecord[], readonly identity: string) {
    if (records.length === 0) {
      throw new RlhiError("ERR_EMPTY", {
        what: "there are no pairs to train on",
        where: context.folder.pairs,
        expected: "at least one pair",
        todo: "see filtered.jsonl for why candidates gave none; looser `pairs` settings or more conversations may help",
      });
    }
  }

  get count(): number {
    return this.records.length;
  }

  async *rows(): AsyncGenerator<PairRow> {
    const tokenizer = openTokenizer(this.context.config.model);
    const made = await openPairs(this.context.folder.pairsArrow, { tokens: tokenizer.fingerprint, source: this.identity, reference: "" });
    if (made === undefined) {
      yield* this.#tokenized(tokenizer);
      return;
    }
    const rows = await made.allRows();
    await made.close();
    yield* rows;
  }

  *#tokenized(tokenizer: ChatTokenizer): Generator<PairRow> {
    for (const { id, held_out, prompt, chosen, rejected } of this.records) {
      const tokens = tokenizePair(tokenizer, { prompt, chosen: chosen[0].content, rejected: rejected[0].content }, this.context.config.pairs.max_tokens);
      // An answer is never cut: such a pair is left out, and counted in the facts.
      if (!isTooLong(tokens)) yield { id, held_out, prompt_ids: tokens.prompt_ids, chosen_ids: tokens.chosen_ids, rejected_ids: tokens.rejected_ids };
    }
  }
}
