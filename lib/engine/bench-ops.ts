/** Each operation of the engine at a model's shapes, on the CPU or a GPU, beside the bandwidth and the matrix peak of the same run. */
import { loadAddon } from "./addon.js";
import { deviceLimits, placeOf } from "./bench.js";
import type { BenchModel } from "./bench.js";

export interface OperationBench extends BenchModel {
  /** Rows of the activations: tokens of a micro-batch. */
  tokens: number;
}

/** One row an operation; `share_of_peak` is null for those that make no products. In the caches an operation may be faster than memory. */
export async function benchOperations(options: OperationBench): Promise<Record<string, unknown>[]> {
  const { model, dtype, device, steps, tokens } = options;
  const { threads, facts } = placeOf(options);
  const before = await deviceLimits(options, threads);
  const speeds = await loadAddon().measureOperations(model, dtype, tokens, device, threads, steps);
  const after = await deviceLimits(options, threads);
  const [peak, bandwidth] = [Math.max(before.peak, after.peak), Math.max(before.bandwidth, after.bandwidth)];
  return speeds.map(({ operation, part, shape, seconds, flops, bytes }) => ({
    operation, part, shape, dtype, seconds, bytes, bytes_per_s: bytes / seconds, share_of_bandwidth: bytes / seconds / bandwidth, flops, flops_per_s: flops / seconds,
    share_of_peak: flops > 0 ? flops / seconds / peak : null, [device === "cpu" ? "read_bandwidth_bytes_per_s" : "copy_bandwidth_bytes_per_s"]: bandwidth, matrix_peak_flops: peak, ...facts,
  }));
}
