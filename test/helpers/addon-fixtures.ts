/** What tests of the native engine share: tiny models, columns, requests and options with sensible values. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GenerateRequest, ListColumn, LoadOptions, NativeModel, PairBatch, TrainOptions } from "../../lib/engine/addon.js";
import { loadAddon } from "../../lib/engine/addon.js";
import { listColumn } from "../../lib/engine/columns.js";
import type { TinyModelOptions } from "./tiny-model.js";
import { seededRandom, tinyVocabSize, writeTinyModel } from "./tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-addon-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
let made = 0;

/** A folder of this process's own, removed at its end. */
export function freshFolder(): string {
  return join(folder, String(made++));
}

export function tinyModelFolder(options: TinyModelOptions = {}): string {
  return writeTinyModel(freshFolder(), options).path;
}

export async function loadTiny(options: TinyModelOptions = {}, load: Partial<LoadOptions> = {}): Promise<NativeModel> {
  return loadAddon().loadModel({ path: tinyModelFolder(options), dtype: "f32", threads: 1, ...load });
}

export function randomIds(seed: number, length: number): number[] {
  const random = seededRandom(seed);
  return Array.from({ length }, () => Math.floor(random() * tinyVocabSize));
}

export function request(prompt: number[], options: Partial<GenerateRequest> = {}): GenerateRequest {
  const n = options.n ?? 1;
  return {
    prompt: Int32Array.from(prompt), n, maxNewTokens: 16, temperature: 1, topP: 1, topK: 0, minP: 0, seeds: BigUint64Array.from({ length: n }, (_, i) => BigInt(i)),
    stopTokens: new Int32Array(), stopStrings: [], ...options,
  };
}

export interface PlainPair { prompt: number[]; chosen: number[]; rejected: number[]; refs?: [number, number] }

export function randomPairs(seed: number, rows: number, longest = 24): PlainPair[] {
  const random = seededRandom(seed);
  const ids = (): number[] => randomIds(Math.floor(random() * 1e9), 1 + Math.floor(random() * longest));
  return Array.from({ length: rows }, () => {
    const chosen = ids(), rejected = ids();
    return { prompt: ids(), chosen, rejected, refs: [-6 * chosen.length + random(), -6 * rejected.length + random()] };
  });
}

export function pairBatch(pairs: readonly PlainPair[]): PairBatch {
  return {
    rows: pairs.length, prompt: listColumn(pairs.map((p) => p.prompt)), chosen: listColumn(pairs.map((p) => p.chosen)), rejected: listColumn(pairs.map((p) => p.rejected)),
    refChosen: Float32Array.from(pairs, (p) => p.refs?.[0] ?? 0), refRejected: Float32Array.from(pairs, (p) => p.refs?.[1] ?? 0),
  };
}

export const trainOptions: TrainOptions = {
  lossType: "sigmoid", beta: 0.1, labelSmoothing: 0, simpoGamma: 0.5, rpoAlpha: 0, learningRate: 1e-3, adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8,
  weightDecay: 0, gradients: "f32", moments: "f32", momentMemory: "auto", maxGradNorm: 1, lrSchedulerType: "constant", warmupSteps: 0, totalSteps: 0, maxTokensPerMicroBatch: 256, maxPairTokens: 256, memoryLimitBytes: 0, recompute: "norms",
};

/** Scores pairs' answers: [chosen, rejected] summed log-probabilities of each. */
export async function scorePairs(model: NativeModel, pairs: readonly PlainPair[], budget = 256): Promise<[number, number][]> {
  const { logps } = await model.score({
    rows: pairs.length, prompt: listColumn(pairs.map((p) => p.prompt)), continuations: listColumn(pairs.flatMap((p) => [p.chosen, p.rejected])),
    parents: Int32Array.from(pairs.flatMap((_, i) => [i, i])),
  }, budget);
  return pairs.map((_, i) => [logps[2 * i] as number, logps[2 * i + 1] as number]);
}

/** The same column with elements before its first list and after its last, as a slice of a padded buffer has them. */
export function slicedAndPadded(column: ListColumn, rows: number): ListColumn {
  const offsets = new Int32Array(rows + 4).fill(0x7fffffff);
  for (let i = 0; i <= rows; i++) offsets[i] = (column.offsets[i] as number) + 3;
  const values = new Int32Array(column.values.length + 10).fill(-5);
  values.set(column.values, 3);
  return { offsets, values };
}

/** Moves the array's buffer away: its length becomes 0. */
export function detach(array: ArrayBufferView): void {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
}
