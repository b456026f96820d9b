/** The tokenised pairs of a training with their reference log-probabilities: made once, kept in an Arrow file, made again when anything behind them changed. */
import { existsSync } from "node:fs";
import type { Progress } from "../progress.js";
import { rowsPerBatch, writePairsArrow } from "../tokens/arrow.js";
import type { PairRow, PairsMetadata, ReferenceLogps } from "../tokens/arrow.js";
import type { TokenLimits } from "../tokens/data-files.js";
import { PairsFile } from "../tokens/pairs-file.js";
import { listAt } from "./columns.js";
import type { Engine } from "./engine.js";
import { scorePairs } from "./pair-scores.js";

export interface PairSource {
  /** Hash of the pairs as they were given, with what else decides their ids. */
  readonly identity: string;
  readonly count: number;
  rows(limits: Pick<TokenLimits, "vocabSize"> & { context: number }): AsyncIterable<PairRow>;
}

/** The file, if it holds these pairs scored by this reference. `keepBytes`: ids held in memory at once, as of PairsFile.open. */
export async function openPairs(path: string, expected: PairsMetadata, keepBytes?: number): Promise<PairsFile | undefined> {
  if (!existsSync(path)) return undefined;
  let file: PairsFile;
  try {
    file = await PairsFile.open(path, keepBytes);
  } catch {
    return undefined;
  }
  const { tokens, source, reference } = file.metadata;
  if (tokens === expected.tokens && source === expected.source && reference === expected.reference) return file;
  await file.close();
  return undefined;
}

/** The rows of a file in its order, and then the file is closed: a record batch's ids at a time, as views of its buffers. */
export async function* storedRows(file: PairsFile): AsyncGenerator<PairRow> {
  try {
    for (let from = 0; from < file.rows; from += rowsPerBatch) {
      const rows = Array.from({ length: Math.min(rowsPerBatch, file.rows - from) }, (_, index) => from + index);
      const { prompt, chosen, rejected } = await file.batch(rows);
      for (const [at, row] of rows.entries()) {
        yield {
          id: file.ids[row] as string, held_out: file.heldOut[row] as boolean,
          prompt_ids: listAt(prompt, at), chosen_ids: listAt(chosen, at), rejected_ids: listAt(rejected, at),
        };
      }
    }
  } finally {
    await file.close();
  }
}

/** Writes the file: tokenising runs ahead while the engine scores. Without a reference in `metadata` nothing is scored. */
export async function makePairs(path: string, source: PairSource, metadata: PairsMetadata, engine: Engine, progress: Progress, signal: AbortSignal): Promise<PairsFile> {
  const scored = metadata.reference !== "";
  progress.start(scored ? "reference log-probabilities" : "tokenising pairs", source.count);
  const rows = source.rows({ vocabSize: engine.info.vocabSize, context: engine.context });
  let before = 0;
  await writePairsArrow(path, scored ? rows : counted(rows, progress), metadata, scored ? async (group) => {
    const first = before;
    before += group.length;
    const logps = await referenceLogps(engine, group, first, signal);
    progress.advance(group.length);
    return logps;
  } : undefined);
  progress.stop();
  return PairsFile.open(path);
}

async function* counted(rows: AsyncIterable<PairRow>, progress: Progress): AsyncGenerator<PairRow> {
  for await (const row of rows) {
    progress.advance();
    yield row;
  }
}

/** `first`: how many rows were before these, for messages. */
async function referenceLogps(engine: Engine, rows: readonly PairRow[], first: number, signal: AbortSignal): Promise<ReferenceLogps> {
  const scores = await scorePairs(engine, rows, { signal, nameOf: (index) => `pair row ${first + index + 1} (id ${JSON.stringify(rows[index]?.id)})` });
  return {
    ref_chosen_logps: Float32Array.from(scores, ({ chosen }) => chosen.logps),
    ref_rejected_logps: Float32Array.from(scores, ({ rejected }) => rejected.logps),
  };
}
