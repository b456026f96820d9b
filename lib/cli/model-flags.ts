/** Flags of every command that opens a model itself. Names are transformers' and TRL's, in kebab case. */
import type { Argv } from "yargs";
import type { Dtype } from "../engine/addon.js";
import type { Engine } from "../engine/engine.js";
import type { Progress } from "../progress.js";
import { UsageError } from "../errors.js";
import { devicePattern } from "../engine/device.js";

export interface ComputeFlags {
  dtype: Dtype;
  threads: number;
}

export interface DeviceFlags extends ComputeFlags {
  device: string;
}

export interface ModelFlags extends DeviceFlags {
  model: string;
}

export function computeFlags<T>(yargs: Argv<T>): Argv<T & ComputeFlags> {
  return yargs
    .option("dtype", { choices: ["f32", "bf16"] as const, default: "bf16" as const, describe: "storage of weights and activations" })
    .option("threads", { type: "number", default: 0, describe: "CPU threads; 0: all" })
    .check(({ threads }) => {
      // NaN is told as what it is elsewhere: as no number.
      requireRange("threads", threads, "a whole number from 0", Number.isNaN(threads) || (Number.isInteger(threads) && threads >= 0));
      return true;
    });
}

export function deviceFlags<T>(yargs: Argv<T>): Argv<T & DeviceFlags> {
  return computeFlags(yargs)
    .option("device", { type: "string", requiresArg: true, default: "cpu", describe: "where the model runs: cpu, cuda (the first GPU) or cuda:N; rlhi-native doctor says what is here" })
    .check(({ device }) => {
      requireRange("device", device, "cpu, cuda or cuda:N", devicePattern.test(device));
      return true;
    });
}

export function modelFlags<T>(yargs: Argv<T>): Argv<T & ModelFlags> {
  return deviceFlags(yargs.option("model", { type: "string", demandOption: true, requiresArg: true, describe: "Hugging Face folder or GGUF file" }));
}

export function traceFlag<T>(yargs: Argv<T>): Argv<T & { trace?: string | undefined }> {
  return yargs.option("trace", { type: "string", requiresArg: true, describe: "file for a trace of operations and threads, which Perfetto and Chrome open (CPU only)" });
}

/** Opens the model with a progress display: large ones take a while. */
export async function openEngine(flags: ModelFlags & { maxSequences?: number | undefined; trace?: string | undefined }, progress: Progress): Promise<Engine> {
  const { Engine: EngineClass } = await import("../engine/engine.js");
  progress.start(`loading ${flags.model}`, 100);
  let shown = 0;
  const engine = await EngineClass.open({
    path: flags.model, dtype: flags.dtype, device: flags.device, threads: flags.threads, maxSequences: flags.maxSequences, trace: flags.trace,
    onProgress: (fraction) => {
      const percent = Math.floor(fraction * 100);
      if (percent > shown) progress.advance(percent - shown);
      shown = Math.max(shown, percent);
    },
  });
  progress.stop();
  return engine;
}

export interface SamplingFlags {
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  seed: number;
}

export function samplingFlags<T>(yargs: Argv<T>): Argv<T & SamplingFlags> {
  return yargs
    .option("max-new-tokens", { type: "number", default: 256, describe: "length limit of an answer" })
    .option("temperature", { type: "number", default: 0.6, describe: "0 is greedy: always the most likely token" })
    .option("top-p", { type: "number", default: 0.9, describe: "sample from the most likely tokens of this total probability" })
    .option("top-k", { type: "number", default: 0, describe: "sample from the k most likely tokens; 0: all" })
    .option("min-p", { type: "number", default: 0, describe: "drop tokens below this share of the most likely one" })
    .option("seed", { type: "number", default: 0, describe: "seed of sampling: the same seed gives the same text" }) as unknown as Argv<T & SamplingFlags>;
}

export function checkSampling(flags: SamplingFlags): void {
  requireRange("max-new-tokens", flags.maxNewTokens, "a whole number from 1", Number.isInteger(flags.maxNewTokens) && flags.maxNewTokens >= 1);
  requireRange("temperature", flags.temperature, "0 or more", flags.temperature >= 0);
  requireRange("top-p", flags.topP, "above 0, at most 1", flags.topP > 0 && flags.topP <= 1);
  requireRange("top-k", flags.topK, "a whole number from 0", Number.isInteger(flags.topK) && flags.topK >= 0);
  requireRange("min-p", flags.minP, "0 or more, below 1", flags.minP >= 0 && flags.minP < 1);
  requireRange("seed", flags.seed, "a whole number from 0", Number.isInteger(flags.seed) && flags.seed >= 0);
}

export function requireRange(flag: string, value: unknown, expected: string, holds: boolean): void {
  if (!holds) throw new UsageError({ what: "value out of range", where: `--${flag}`, expected, found: String(value) });
}
