/** Throughput and memory of the engine, beside the limit of the machine measured in the same run. */
import { readFileSync } from "node:fs";
import { UsageError } from "../errors.js";
import { seededRandom } from "../random.js";
import { loadAddon } from "./addon.js";
import type { Dtype, Moments, PairBatch, TrainOptions } from "./addon.js";
import { listColumn } from "./columns.js";
import { Engine } from "./engine.js";
import { forwardFlops, pairFlops } from "./flops.js";

export interface BenchModel {
  /** A path or a shape's name (random weights). */
  model: string;
  dtype: Dtype;
  /** "cpu", "cuda" or "cuda:N". */
  device: string;
  threads: number;
  steps: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** Highest resident memory of this process so far. */
export function peakMemoryBytes(): number {
  try {
    const kib = /VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    if (kib !== undefined) return Number(kib) * 1024;
  } catch {
    // Not Linux.
  }
  return process.resourceUsage().maxRSS * 1024;
}

function machineFacts(engine: Engine): Record<string, unknown> {
  const system = loadAddon().systemInfo();
  return { backend: engine.info.backend, threads: engine.info.threads, cpu: system.cpuModel, logical_cores: system.logicalCores, instruction_sets: system.features, addon: system.addonVersion };
}

/** The best of several looks: other work on the machine only ever lowers it. */
export async function matrixPeak(threads: number, dtype: Dtype, looks = 3): Promise<number> {
  let best = 0;
  for (let look = 0; look < looks; look += 1) best = Math.max(best, await loadAddon().measurePeakFlops(threads, dtype));
  return best;
}

function randomTokens(count: number, vocabSize: number, random: () => number): number[] {
  return Array.from({ length: count }, () => Math.floor(random() * vocabSize));
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
}

/** A product's limit on the device: of a GPU that of its fastest product. */
export async function devicePeak({ device, dtype }: Pick<BenchModel, "device" | "dtype">, threads: number): Promise<number> {
  return device === "cpu" ? matrixPeak(threads, dtype) : (await loadAddon().measureDevice(device, dtype)).matrixFlops;
}

/** Bytes/s of reading memory, on a GPU of copying it. */
async function deviceBandwidth({ device, dtype }: Pick<BenchModel, "device" | "dtype">, threads: number): Promise<number> {
  return device === "cpu" ? loadAddon().measureReadBandwidth(threads) : (await loadAddon().measureDevice(device, dtype)).copyBytesPerS;
}

/** Both; a GPU's are measured together. */
export async function deviceLimits(options: Pick<BenchModel, "device" | "dtype">, threads: number): Promise<{ peak: number; bandwidth: number }> {
  if (options.device === "cpu") return { peak: await devicePeak(options, threads), bandwidth: await deviceBandwidth(options, threads) };
  const { matrixFlops, copyBytesPerS } = await loadAddon().measureDevice(options.device, options.dtype);
  return { peak: matrixFlops, bandwidth: copyBytesPerS };
}

/** Where a part was measured: the CPU's threads and instructions, or a GPU. */
export function placeOf({ device, threads }: Pick<BenchModel, "device" | "threads">): { threads: number; facts: Record<string, unknown> } {
  const { logicalCores, defaultIsa } = loadAddon().systemInfo();
  const used = threads || logicalCores;
  return { threads: used, facts: device === "cpu" ? { path: defaultIsa, threads: used } : { device } };
}

/** What a GPU has given to this process and others so far; nothing of a CPU, where peak_memory_bytes tells. */
function deviceMemory(device: string, availableBefore: number): Record<string, unknown> {
  return device === "cpu" ? {} : { device, device_memory_bytes: availableBefore - loadAddon().availableMemory(device) };
}

async function withEngine<T>(options: BenchModel & { maxSequences?: number }, work: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.open({ path: options.model, dtype: options.dtype, device: options.device, threads: options.threads, maxSequences: options.maxSequences });
  try {
    return await work(engine);
  } finally {
    await engine.close();
  }
}

export interface TrainBench extends BenchModel {
  /** Pairs a step. */
  pairs: number;
  prompt: number;
  /** Tokens of each answer. */
  answer: number;
  /** Storage of the matrices' gradients. */
  gradients: Dtype;
  /** Storage of AdamW's moments. */
  moments: Moments;
  momentMemory: TrainOptions["momentMemory"];
  recompute: TrainOptions["recompute"];
  maxTokensPerMicroBatch: number;
}

/** Training steps on random tokens, the reference precomputed. The first step is not counted; the median of the others is. */
export function benchTrain(options: TrainBench): Promise<Record<string, unknown>> {
  const available = loadAddon().availableMemory(options.device);
  return withEngine(options, async (engine) => {
    const { pairs, prompt, answer, steps } = options;
    const peakBefore = await devicePeak(options, engine.info.threads);
    const random = seededRandom(0);
    const batch = async (): Promise<PairBatch> => {
      const lists = (size: number): number[][] => Array.from({ length: pairs }, () => randomTokens(size, engine.info.vocabSize, random));
      const [prompts, chosen, rejected] = [lists(prompt), lists(answer), lists(answer)];
      const reference = await engine.score(prompts.map((ids, row) => ({ prompt: ids, continuations: [chosen[row] as number[], rejected[row] as number[]] })));
      return {
        rows: pairs, prompt: listColumn(prompts), chosen: listColumn(chosen), rejected: listColumn(rejected),
        refChosen: Float32Array.from(reference, (row) => row[0]?.logps as number), refRejected: Float32Array.from(reference, (row) => row[1]?.logps as number),
      };
    };
    const batches: PairBatch[] = [];
    for (let step = 0; step <= steps; step += 1) batches.push(await batch());
    const trainer = await engine.createTrainer(trainOptions(options));
    try {
      const seconds: number[] = [];
      let firstLoss = Number.NaN;
      for (const one of batches) {
        seconds.push(await timed(async () => {
          const { loss } = await trainer.step(one);
          if (Number.isNaN(firstLoss)) firstLoss = loss;
        }));
      }
      const peak = Math.max(peakBefore, await devicePeak(options, engine.info.threads));
      const step = median(seconds.slice(1));
      const flops = pairFlops(engine.info, prompt, answer, answer);
      const plan = trainer.plan();
      const memory = deviceMemory(options.device, available);
      return {
        pairs_per_s: pairs / step, tokens_per_s: (pairs * (prompt + 2 * answer)) / step, useful_mfu: (pairs * flops) / step / peak, matrix_peak_flops: peak,
        peak_memory_bytes: peakMemoryBytes(), plan_bytes: plan.total, plan: plan.entries, step_seconds_median: step, step_seconds: seconds, useful_flops_per_pair: flops,
        first_loss: firstLoss, model: options.model, dtype: options.dtype, gradients: options.gradients, moments: options.moments, moment_memory: plan.momentMemory, host_moments_bytes: plan.hostBytes, recompute: plan.recompute, pairs, prompt, answer, parameters: engine.info.parameters, ...memory, ...machineFacts(engine),
      };
    } finally {
      await trainer.close();
    }
  });
}

function trainOptions({ prompt, answer, steps, gradients, moments, momentMemory, recompute, maxTokensPerMicroBatch }: TrainBench): TrainOptions {
  return {
    lossType: "sigmoid", beta: 0.1, labelSmoothing: 0, simpoGamma: 0, rpoAlpha: 0, learningRate: 5e-7, adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8, weightDecay: 0,
    gradients, moments, momentMemory, maxGradNorm: 1, lrSchedulerType: "constant", warmupSteps: 0, totalSteps: steps + 1, maxTokensPerMicroBatch, maxPairTokens: prompt + 2 * answer, memoryLimitBytes: 0, recompute,
  };
}

export interface GenerateBench extends BenchModel {
  sequences: number;
  prompt: number;
  maxNewTokens: number;
}

/** `sequences` different random prompts, each continued by exactly `maxNewTokens` tokens; prefill is part of the time, and told apart. */
export async function benchGenerate(options: GenerateBench): Promise<Record<string, unknown>> {
  // The first token comes with the prompt: decoding begins at the second.
  if (options.maxNewTokens < 2) throw new UsageError({ what: "nothing to decode", where: "--max-new-tokens", expected: "2 or more: the first token comes with the prompt", found: String(options.maxNewTokens) });
  const available = loadAddon().availableMemory(options.device);
  return withEngine({ ...options, maxSequences: options.sequences }, async (engine) => {
    const { sequences, prompt, maxNewTokens, steps } = options;
    const random = seededRandom(0);
    const prompts = Array.from({ length: sequences }, () => randomTokens(prompt, engine.info.vocabSize, random));
    const run = (tokens: number): Promise<number> => timed(() => engine.generate(prompts.map((ids) => ({ prompt: ids, max_new_tokens: tokens, temperature: 0, ignore_eos: true }))));
    await run(2);
    const prefill: number[] = [];
    const whole: number[] = [];
    for (let step = 0; step < steps; step += 1) {
      prefill.push(await run(1));
      whole.push(await run(maxNewTokens));
    }
    const bandwidth = await deviceBandwidth(options, engine.info.threads);
    const decode = median(whole) - median(prefill);
    return {
      tokens_per_s: (sequences * maxNewTokens) / median(whole), decode_tokens_per_s: (sequences * (maxNewTokens - 1)) / decode, prefill_tokens_per_s: (sequences * prompt) / median(prefill),
      read_bandwidth_bytes_per_s: bandwidth, weight_bytes: engine.info.weightBytes,
      // Every decoding step reads all weights once: no engine can decode one sequence faster.
      bandwidth_share: ((engine.info.weightBytes * (maxNewTokens - 1)) / decode) / bandwidth,
      seconds: whole, peak_memory_bytes: peakMemoryBytes(), model: options.model, dtype: options.dtype, sequences, prompt, max_new_tokens: maxNewTokens, ...deviceMemory(options.device, available), ...machineFacts(engine),
    };
  });
}

export interface ForwardBench extends BenchModel {
  sequences: number;
  /** Tokens of each sequence. */
  tokens: number;
  maxTokensPerMicroBatch: number;
}

/** Log-probabilities of every token of random sequences: forward only. */
export function benchForward(options: ForwardBench): Promise<Record<string, unknown>> {
  const available = loadAddon().availableMemory(options.device);
  return withEngine(options, async (engine) => {
    const { sequences, tokens, steps, maxTokensPerMicroBatch } = options;
    const random = seededRandom(0);
    const items = Array.from({ length: sequences }, () => ({ prompt: randomTokens(1, engine.info.vocabSize, random), continuations: [randomTokens(tokens - 1, engine.info.vocabSize, random)] }));
    const run = (): Promise<number> => timed(() => engine.score(items, { maxTokensPerMicroBatch }));
    const peak = await devicePeak(options, engine.info.threads);
    await run();
    const seconds: number[] = [];
    for (let step = 0; step < steps; step += 1) seconds.push(await run());
    const time = median(seconds);
    return {
      tokens_per_s: (sequences * tokens) / time, useful_mfu: (sequences * forwardFlops(engine.info, tokens)) / time / peak, matrix_peak_flops: peak, seconds, peak_memory_bytes: peakMemoryBytes(),
      model: options.model, dtype: options.dtype, sequences, tokens, ...deviceMemory(options.device, available), ...machineFacts(engine),
    };
  });
}
