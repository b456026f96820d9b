/** Useful work, by the formulas of docs/benchmarks.md: what a perfect implementation has to compute, nothing computed twice. */
import type { ModelInfo } from "./addon.js";

/** Weights in matrix products: of the layers, and of the output head. */
export function matmulWeights(info: ModelInfo): { body: number; head: number } {
  const queries = info.heads * info.headDim;
  const layer = info.hiddenSize * (queries + 2 * info.kvHeads * info.headDim) + queries * info.hiddenSize + 3 * info.hiddenSize * info.intermediateSize;
  return { body: info.layers * layer, head: info.hiddenSize * info.vocabSize };
}

/** Full fine-tuning on one pair with the reference cached: forward and backward, the prompt once, the head on answer tokens only. */
export function pairFlops(info: ModelInfo, prompt: number, chosen: number, rejected: number): number {
  const { body, head } = matmulWeights(info);
  const attention = info.layers * info.heads * info.headDim;
  const seen = prompt ** 2 / 2 + prompt * chosen + chosen ** 2 / 2 + prompt * rejected + rejected ** 2 / 2;
  return 6 * body * (prompt + chosen + rejected) + 6 * head * (chosen + rejected) + 12 * attention * seen;
}

/** Forward only, with the log-probability of every token. */
export function forwardFlops(info: ModelInfo, tokens: number): number {
  const { body, head } = matmulWeights(info);
  return 2 * (body + head) * tokens + 4 * info.layers * info.heads * info.headDim * (tokens ** 2 / 2);
}
