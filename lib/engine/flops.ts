/** Useful work, by the formulas of docs/benchmarks.md: what a perfect implementation has to compute, nothing computed twice. */
import type { ModelShape } from "./addon.js";

/** Weights in matrix products: of one layer, and of the output head. */
function matmulWeights(shape: ModelShape): { layer: number; head: number } {
  const queries = shape.heads * shape.headDim;
  const layer = shape.hiddenSize * (queries + 2 * shape.kvHeads * shape.headDim) + queries * shape.hiddenSize + 3 * shape.hiddenSize * shape.intermediateSize;
  return { layer, head: shape.hiddenSize * shape.vocabSize };
}

/** One layer's forward on one pair, the prompt once; its backward is twice as much. */
export function layerForwardFlops(shape: ModelShape, prompt: number, chosen: number, rejected: number): number {
  const seen = prompt ** 2 / 2 + prompt * chosen + chosen ** 2 / 2 + prompt * rejected + rejected ** 2 / 2;
  return 2 * matmulWeights(shape).layer * (prompt + chosen + rejected) + 4 * shape.heads * shape.headDim * seen;
}

/** Full fine-tuning on one pair with the reference cached: forward and backward, the prompt once, the head on answer tokens only. */
export function pairFlops(shape: ModelShape, prompt: number, chosen: number, rejected: number): number {
  return 3 * shape.layers * layerForwardFlops(shape, prompt, chosen, rejected) + 6 * matmulWeights(shape).head * (chosen + rejected);
}

/** Forward only, with the log-probability of every token. */
export function forwardFlops(shape: ModelShape, tokens: number): number {
  return shape.layers * layerForwardFlops(shape, tokens, 0, 0) + 2 * matmulWeights(shape).head * tokens;
}
