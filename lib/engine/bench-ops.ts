/** Each operation of the engine at a model's shapes, beside the read bandwidth and the matrix peak of the same run. */
import { loadAddon } from "./addon.js";
import { matrixPeak } from "./bench.js";
import type { BenchModel } from "./bench.js";

export interface OperationBench extends BenchModel {
  /** Rows of the activations: tokens of a micro-batch. */
  tokens: number;
}

/** One row an operation; `share_of_peak` is null for those that make no products. In the caches an operation may be faster than memory. */
export async function benchOperations({ model, dtype, steps, tokens, ...options }: OperationBench): Promise<Record<string, unknown>[]> {
  const addon = loadAddon();
  const { logicalCores, defaultIsa } = addon.systemInfo();
  const threads = options.threads || logicalCores;
  const before = { peak: await matrixPeak(threads, dtype), bandwidth: await addon.measureReadBandwidth(threads) };
  const speeds = await addon.measureOperations(model, dtype, tokens, threads, steps);
  const peak = Math.max(before.peak, await matrixPeak(threads, dtype));
  const bandwidth = Math.max(before.bandwidth, await addon.measureReadBandwidth(threads));
  return speeds.map(({ operation, part, shape, seconds, flops, bytes }) => ({
    operation, part, shape, dtype, seconds, bytes, bytes_per_s: bytes / seconds, share_of_bandwidth: bytes / seconds / bandwidth, flops, flops_per_s: flops / seconds,
    share_of_peak: flops > 0 ? flops / seconds / peak : null, read_bandwidth_bytes_per_s: bandwidth, matrix_peak_flops: peak, path: defaultIsa, threads,
  }));
}
