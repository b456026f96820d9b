/** The stage `train`: persona-conditioned preference optimisation on the run's pairs. */
import { RlhiError } from "../../errors.js";
import { existsSync } from "node:fs";
import { readAllJsonl, sha256, sha256File } from "../../files.js";
import { train } from "../../engine/training.js";
import type { PairSource } from "../../engine/reference.js";
import type { PairRecord } from "../../pairs/types.js";
import type { PairRow } from "../../tokens/arrow.js";
import type { CheckpointTokenizer } from "../../tokens/chat-tokenizer.js";
import { openTokenizer } from "../../tokens/open.js";
import { isTooLong, tokenizePair } from "../../tokens/pair-tokens.js";
import { PairsFile } from "../../tokens/pairs-file.js";
import type { Stage, StageContext } from "../stage.js";

export const trainStage: Stage = async (context) => {
  const { folder, config, progress, signal } = context;
  await context.closeModels();
  const pairs = new RunPairs(context, await readAllJsonl<PairRecord>(folder.pairs), sha256(JSON.stringify([await sha256File(folder.pairs), config.pairs.max_tokens])));
  const facts = await train({
    model: config.model, reference: config.reference, dtype: config.dtype, threads: config.threads, seed: config.seed, settings: config.train, pairs,
    files: { pairs: folder.pairsArrow, metrics: folder.metrics, checkpoints: folder.checkpoints, model: folder.model }, progress, signal,
  });
  return { ...facts, dropped_too_long: pairs.dropped };
};

/** Pairs of pairs.jsonl; their ids from pairs.arrow where that was made from them by this model's tokenizer. */
class RunPairs implements PairSource {
  dropped = 0;

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
    const made = await this.#fromArrow(tokenizer);
    if (made !== undefined) yield* made;
    else yield* this.#tokenized(tokenizer);
  }

  /** Undefined where the file is of other pairs or another tokenizer. */
  async #fromArrow(tokenizer: CheckpointTokenizer): Promise<PairRow[] | undefined> {
    const path = this.context.folder.pairsArrow;
    if (!existsSync(path)) return undefined;
    const file = await PairsFile.open(path);
    try {
      const same = file.metadata.tokens === tokenizer.fingerprint && file.rows === this.records.length && this.records.every((record, row) => record.id === file.ids[row]);
      return same ? await file.allRows() : undefined;
    } finally {
      await file.close();
    }
  }

  *#tokenized(tokenizer: CheckpointTokenizer): Generator<PairRow> {
    this.dropped = 0;
    for (const { id, held_out, prompt, chosen, rejected } of this.records) {
      const tokens = tokenizePair(tokenizer, { prompt, chosen: chosen[0].content, rejected: rejected[0].content }, this.context.config.pairs.max_tokens);
      if (isTooLong(tokens)) this.dropped += 1;
      else yield { id, held_out, prompt_ids: tokens.prompt_ids, chosen_ids: tokens.chosen_ids, rejected_ids: tokens.rejected_ids };
    }
  }
}
