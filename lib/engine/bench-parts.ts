/** Speed of a model's parts on the CPU or a GPU, beside the peak measured in the same run: its matrix products, and one layer. No weights are loaded. */
import { loadAddon } from "./addon.js";
import type { Dtype, GemmShape, ModelShape } from "./addon.js";
import { devicePeak, median, placeOf } from "./bench.js";
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
  const { dtype, device, steps, shape } = options;
  const addon = loadAddon();
  const { threads, facts } = placeOf(options);
  const products = shape === undefined
    ? modelProducts(addon.modelShape(options.model), options.tokens, dtype)
    : [givenProduct(shape, options.form ?? "nt", dtype)];
  const peak = await devicePeak(options, threads);
  const rows: Record<string, unknown>[] = [];
  // A GPU packs no weights.
  for (const { name, pass, ...product } of products.filter(({ packed }) => device === "cpu" || shape !== undefined || !packed)) {
    const seconds = await addon.measureGemm(product, device, threads, steps);
    const flopsAt = (time: number): number => (2 * product.m * product.n * product.k) / time;
    const flops = flopsAt(median(seconds));
    rows.push({
      name, pass, ...product, seconds: median(seconds),
      flops, flops_lowest: flopsAt(Math.max(...seconds)), flops_highest: flopsAt(Math.min(...seconds)),
      share_of_peak: flops / peak, matrix_peak_flops: peak, ...facts,
    });
  }
  return rows;
}

const passOf: Readonly<Record<GemmShape["form"], string>> = { nt: "forward, packed", nn: "input gradient", tn: "weight gradient" };

/** nt with the weight packed beforehand: for the other forms there is no such thing. */
function givenProduct([m, n, k]: readonly [number, number, number], form: GemmShape["form"], dtype: Dtype): Product {
  return { name: "given", pass: passOf[form], form, m, n, k, dtype, out: "f32", accumulate: false, packed: form === "nt" };
}

/** Columns of the vocabulary for which the head's gradients are made at a time (native/ops/cpu/linear_logprob.cc). */
const vocabBlock = 2048;

/** Every weight in its passes, with layer.cc's types and sums; the head's gradients for one block of the vocabulary. */
export function modelProducts(shape: ModelShape, tokens: number, dtype: Dtype): Product[] {
  const queries = shape.heads * shape.headDim;
  const { hiddenSize, intermediateSize, vocabSize } = shape;
  const [narrow, wide, sum] = [{ out: dtype, accumulate: false }, { out: "f32", accumulate: false }, { out: "f32", accumulate: true }] as const;
  const weights: Weight[] = [
    { name: "qkv", n: queries + 2 * shape.kvHeads * shape.headDim, k: hiddenSize, forward: narrow, inputGradient: wide },
    { name: "attention_out", n: hiddenSize, k: queries, forward: sum, inputGradient: narrow },
    { name: "gate_up", n: 2 * intermediateSize, k: hiddenSize, forward: narrow, inputGradient: wide },
    { name: "down", n: hiddenSize, k: intermediateSize, forward: sum, inputGradient: narrow },
    { name: "head", n: vocabSize, k: hiddenSize, forward: wide, inputGradient: sum, gradientRows: Math.min(vocabBlock, vocabSize) },
  ];
  return weights.flatMap((weight) => passes(weight, tokens, dtype));
}

type Sum = Pick<GemmShape, "out" | "accumulate">;

interface Weight {
  name: string;
  n: number;
  k: number;
  forward: Sum;
  inputGradient: Sum;
  /** Rows of the n for which gradients are made at a time; default all. */
  gradientRows?: number;
}

/** y = x W^T, dx = dy W and dW += dy^T x. */
function passes({ name, n, k, forward, inputGradient, gradientRows = n }: Weight, tokens: number, dtype: Dtype): Product[] {
  const common = { name, dtype, packed: false };
  return [
    { ...common, pass: "forward", form: "nt", m: tokens, n, k, ...forward },
    { ...common, pass: "forward, packed", form: "nt", m: tokens, n, k, ...forward, packed: true },
    { ...common, pass: "input gradient", form: "nn", m: tokens, n: k, k: gradientRows, ...inputGradient },
    { ...common, pass: "weight gradient", form: "tn", m: gradientRows, n: k, k: tokens, out: "f32", accumulate: true },
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
export async function benchLayer(options: LayerBench): Promise<Record<string, unknown>> {
  const { model, dtype, device, steps, pairs, prompt, answer } = options;
  const addon = loadAddon();
  const { threads, facts } = placeOf(options);
  const before = await devicePeak(options, threads);
  const speed = await addon.measureLayer(model, dtype, { count: pairs, prompt, answer }, device, threads, steps);
  const peak = Math.max(before, await devicePeak(options, threads));
  const flops = pairs * layerForwardFlops(addon.modelShape(model), prompt, answer, answer);
  const [forward, backward] = [flops / median(speed.forwardSeconds), (2 * flops) / median(speed.backwardSeconds)];
  const both = (3 * flops) / median(speed.forwardSeconds.map((seconds, step) => seconds + (speed.backwardSeconds[step] as number)));
  return {
    flops: both, share_of_peak: both / peak, forward_flops: forward, forward_share: forward / peak,
    backward_flops: backward, backward_share: backward / peak, matrix_peak_flops: peak,
    forward_seconds: speed.forwardSeconds, backward_seconds: speed.backwardSeconds, gradient_norm: speed.gradientNorm,
    model, dtype, pairs, prompt, answer, tokens: pairs * (prompt + 2 * answer), ...facts,
  };
}
