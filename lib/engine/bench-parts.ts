/** Speed of a model's parts, beside the peak measured in the same run: its matrix products, and one layer. No weights are loaded. */
import { loadAddon } from "./addon.js";
import type { Dtype, GemmShape, ModelShape } from "./addon.js";
import { matrixPeak, median } from "./bench.js";
import type { BenchModel } from "./bench.js";
import { layerForwardFlops } from "./flops.js";

export interface GemmBench extends BenchModel {
  /** Rows of the activations: tokens of a micro-batch. */
  tokens: number;
  /** One product m, n, k instead of a model's. */
  shape?: readonly [m: number, n: number, k: number] | undefined;
  /** Of that one product. */
  form?: GemmShape["form"] | undefined;
}

export interface Product extends GemmShape {
  name: string;
  pass: string;
}

/** The matrix products of a training step and of a generation's prefill, one by one. */
export async function benchGemm(options: GemmBench): Promise<Record<string, unknown>[]> {
  const { dtype, steps, shape } = options;
  const addon = loadAddon();
  const { logicalCores, defaultIsa } = addon.systemInfo();
  const threads = options.threads || logicalCores;
  const products = shape === undefined ? modelProducts(addon.modelShape(options.model), options.tokens, dtype) : [givenProduct(shape, options.form ?? "nt", dtype)];
  const peak = await matrixPeak(threads, dtype);
  const rows: Record<string, unknown>[] = [];
  for (const { name, pass, ...product } of products) {
    const seconds = await addon.measureGemm(product, threads, steps);
    const flopsAt = (time: number): number => (2 * product.m * product.n * product.k) / time;
    const flops = flopsAt(median(seconds));
    rows.push({
      name, pass, ...product, seconds: median(seconds), flops, flops_lowest: flopsAt(Math.max(...seconds)), flops_highest: flopsAt(Math.min(...seconds)),
      share_of_peak: flops / peak, matrix_peak_flops: peak, path: defaultIsa, threads,
    });
  }
  return rows;
}

/** nt with the weight packed, nn and tn as they are: what of each is repeated with the same weight. */
function givenProduct([m, n, k]: readonly [number, number, number], form: GemmShape["form"], dtype: Dtype): Product {
  return { name: "given", pass: form === "nt" ? "forward, packed" : form === "nn" ? "input gradient" : "weight gradient", form, m, n, k, dtype, out: "f32", accumulate: false, packed: form === "nt" };
}

/** Columns of the vocabulary for which the head's gradients are made at a time (native/ops/cpu/linear_logprob.cc). */
const vocabBlock = 2048;

/** Every weight in its passes, with the types and sums that native/model/layer.cc gives them; the head's gradients for one block of the vocabulary. */
export function modelProducts(shape: ModelShape, tokens: number, dtype: Dtype): Product[] {
  const queries = shape.heads * shape.headDim;
  const block = Math.min(vocabBlock, shape.vocabSize);
  return [
    ...passes("qkv", queries + 2 * shape.kvHeads * shape.headDim, shape.hiddenSize, tokens, dtype, { out: dtype, accumulate: false }, { out: "f32", accumulate: false }),
    ...passes("attention_out", shape.hiddenSize, queries, tokens, dtype, { out: "f32", accumulate: true }, { out: dtype, accumulate: false }),
    ...passes("gate_up", 2 * shape.intermediateSize, shape.hiddenSize, tokens, dtype, { out: dtype, accumulate: false }, { out: "f32", accumulate: false }),
    ...passes("down", shape.hiddenSize, shape.intermediateSize, tokens, dtype, { out: "f32", accumulate: true }, { out: dtype, accumulate: false }),
    ...passes("head", shape.vocabSize, shape.hiddenSize, tokens, dtype, { out: "f32", accumulate: false }, { out: "f32", accumulate: true }, block),
  ];
}

type Sum = Pick<GemmShape, "out" | "accumulate">;

/** Of a weight [n, k]: y = x W^T, dx = dy W, dW += dy^T x; the gradients for `rows` of its n rows. */
function passes(name: string, n: number, k: number, tokens: number, dtype: Dtype, forward: Sum, inputGradient: Sum, rows = n): Product[] {
  const common = { name, dtype, packed: false };
  return [
    { ...common, pass: "forward", form: "nt", m: tokens, n, k, ...forward },
    { ...common, pass: "forward, packed", form: "nt", m: tokens, n, k, ...forward, packed: true },
    { ...common, pass: "input gradient", form: "nn", m: tokens, n: k, k: rows, ...inputGradient },
    { ...common, pass: "weight gradient", form: "tn", m: rows, n: k, k: tokens, out: "f32", accumulate: true },
  ];
}

export interface LayerBench extends BenchModel {
  /** Pairs of the micro-batch. */
  pairs: number;
  prompt: number;
  /** Tokens of each answer. */
  answer: number;
}

/** One layer of a model, forward and backward on one micro-batch of pairs. */
export async function benchLayer({ model, dtype, steps, pairs, prompt, answer, ...options }: LayerBench): Promise<Record<string, unknown>> {
  const addon = loadAddon();
  const { logicalCores, defaultIsa } = addon.systemInfo();
  const threads = options.threads || logicalCores;
  const before = await matrixPeak(threads, dtype);
  const speed = await addon.measureLayer(model, dtype, { count: pairs, prompt, answer }, threads, steps);
  const peak = Math.max(before, await matrixPeak(threads, dtype));
  const flops = pairs * layerForwardFlops(addon.modelShape(model), prompt, answer, answer);
  const [forward, backward] = [flops / median(speed.forwardSeconds), (2 * flops) / median(speed.backwardSeconds)];
  const both = (3 * flops) / median(speed.forwardSeconds.map((seconds, step) => seconds + (speed.backwardSeconds[step] as number)));
  return {
    flops: both, share_of_peak: both / peak, forward_flops: forward, forward_share: forward / peak, backward_flops: backward, backward_share: backward / peak, matrix_peak_flops: peak,
    forward_seconds: speed.forwardSeconds, backward_seconds: speed.backwardSeconds, gradient_norm: speed.gradientNorm, model, dtype, pairs, prompt, answer,
    tokens: pairs * (prompt + 2 * answer), path: defaultIsa, threads,
  };
}
