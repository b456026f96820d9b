import { relative } from "node:path";
import type { CudaReport, Dtype, MemoryPlan, Moments, NativeAddon, TrainOptions } from "../../engine/addon.js";
import type { Tools } from "../command.js";
import { devicePattern } from "../../engine/device.js";
import { defineCommand } from "../command.js";
import { requireRange } from "../model-flags.js";
import { formatBytes } from "../output.js";

interface PlanFlags {
  device: string;
  dtype: Dtype;
  gradients: Dtype;
  moments: Moments;
  momentMemory: TrainOptions["momentMemory"];
  recompute: TrainOptions["recompute"];
  maxTokensPerMicroBatch: number;
  maxPairTokens: number;
}

export const doctor = defineCommand({
  command: "doctor",
  describe: "what this machine offers, which binary was loaded and why, what is missing",
  flags: (yargs) => yargs
    .option("plan", { type: "string", requiresArg: true, describe: "print the memory that training MODEL takes (Hugging Face folder, GGUF file or a shape's name)" })
    .option("device", { type: "string", requiresArg: true, default: "cpu", describe: "of the plan: cpu, cuda (the first GPU) or cuda:N" })
    .check(({ device }) => {
      requireRange("device", device, "cpu, cuda or cuda:N", devicePattern.test(device));
      return true;
    })
    .option("dtype", { choices: ["f32", "bf16"] as const, default: "bf16" as const, describe: "of the plan" })
    .option("gradients", { choices: ["f32", "bf16"] as const, default: "f32" as const, describe: "of the plan: storage of the matrices' gradients" })
    .option("moments", { choices: ["f32", "bf16", "8bit"] as const, default: "f32" as const, describe: "of the plan: storage of AdamW's moments" })
    .option("moment-memory", { choices: ["auto", "device", "host"] as const, default: "auto" as const, describe: "of the plan: where a GPU's moments lie; auto: device, or host where that does not fit" })
    .option("recompute", { choices: ["auto", "none", "norms", "layers"] as const, default: "auto" as const, describe: "of the plan: what the backward computes again instead of keeping it" })
    .option("max-tokens-per-micro-batch", { type: "number", default: 2048, describe: "of the plan: token budget of one forward and backward" })
    .option("max-pair-tokens", { type: "number", default: 2048, describe: "of the plan: longest prompt plus both answers" })
    .example("$0 doctor", "is everything here?")
    .example("$0 doctor --plan ./Llama-3.2-1B-Instruct --dtype bf16", "will training it fit in memory?")
    .example("$0 doctor --plan llama-3.1-8b --device cuda --gradients bf16 --moments 8bit", "will it fit on the GPU?"),
  run: async (flags, { out }) => {
    const { addonPath, loadAddon, packageRoot, packageVersion, recomputeLevels } = await import("../../engine/addon.js");
    // Both throw, with what to do, where the engine is missing or of another version: exit code 1.
    const path = addonPath();
    const addon = loadAddon();
    out.facts(machineFacts(addon, path, packageRoot, packageVersion()), "rlhi-native");
    const { plan: model } = flags;
    if (model === undefined) return;
    const available = addon.availableMemory(flags.device);
    const levels = recomputeLevels.map((level) => planOf(addon, model, flags, level, available));
    printPlan(out, model, planOf(addon, model, flags, flags.recompute, available), levels, { device: flags.device, available });
  },
});

function machineFacts(addon: NativeAddon, path: string, root: string, version: string): Record<string, unknown> {
  const system = addon.systemInfo();
  const prebuilt = relative(root, path).startsWith("prebuilds");
  return {
    version,
    node: `${process.version} ${process.platform}-${process.arch}`,
    binary: path,
    binary_reason: prebuilt ? "prebuilt for this platform; no build/Release in the package" : "built on this machine (build/Release goes before prebuilds/)",
    binary_version: system.addonVersion,
    binary_compiler: system.compiler,
    cpu: system.cpuModel,
    logical_cores: system.logicalCores,
    instruction_sets: system.features,
    paths: system.isas,
    path_used: system.defaultIsa,
    memory_bytes: system.memoryBytes,
    memory: formatBytes(system.memoryBytes),
    available_memory_bytes: system.availableMemoryBytes,
    available_memory: formatBytes(system.availableMemoryBytes),
    ...cudaFacts(addon.cudaReport()),
    missing: missing(system.isas),
  };
}

/** What `--device cuda` would find. */
function cudaFacts({ library, devices, cublasLt, missing: lacking }: CudaReport): Record<string, unknown> {
  return {
    cuda: lacking === "" ? "ready: --device cuda" : `not usable: ${lacking}`,
    ...(library === "" ? {} : { cuda_library: library, cuda_devices: devices }),
    ...(cublasLt === "" ? {} : { cuda_cublaslt: cublasLt }),
  };
}

/** What would make this machine faster or is absent; empty where nothing is. */
function missing(isas: readonly string[]): string[] {
  if (isas.includes("avx512")) return [];
  return isas.includes("avx2") ? ["AVX-512: training runs on AVX2, at about half the speed"] : ["AVX2 and AVX-512: training runs on the portable path, which is slow"];
}

/** Within `memoryLimitBytes`, where recompute or the moments' memory is auto. */
function planOf(addon: NativeAddon, model: string, flags: PlanFlags, recompute: TrainOptions["recompute"], memoryLimitBytes: number): MemoryPlan {
  return addon.planTraining(model, flags.dtype, {
    lossType: "sigmoid", beta: 0.1, labelSmoothing: 0, simpoGamma: 0, rpoAlpha: 0, learningRate: 1e-6, adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8,
    weightDecay: 0, gradients: flags.gradients, moments: flags.moments, momentMemory: flags.momentMemory, maxGradNorm: 1, lrSchedulerType: "constant", warmupSteps: 0, totalSteps: 1,
    maxTokensPerMicroBatch: flags.maxTokensPerMicroBatch, maxPairTokens: flags.maxPairTokens, memoryLimitBytes, recompute,
  }, flags.device);
}

function printPlan(out: Tools["out"], model: string, plan: MemoryPlan, levels: readonly MemoryPlan[], { device, available }: { device: string; available: number }): void {
  const fits = ({ total, hostBytes, hostLimit }: MemoryPlan): boolean => total <= available && (hostLimit === 0 || hostBytes <= hostLimit);
  if (out.json) {
    out.facts({
      plan: model, entries: plan.entries, activations: plan.activations, recompute: plan.recompute, total_bytes: plan.total, available_memory_bytes: available,
      moment_memory: plan.momentMemory, moment_memory_reason: plan.momentMemoryReason, host_bytes: plan.hostBytes, available_host_memory_bytes: plan.hostLimit, fits: fits(plan),
      levels: levels.map((level) => ({ recompute: level.recompute, total_bytes: level.total, moment_memory: level.momentMemory, host_bytes: level.hostBytes, fits: fits(level) })),
    });
    return;
  }
  // A CPU's moments lie where all the rest does.
  const own = device !== "cpu";
  out.text("");
  out.table(plan.entries.map((entry) => ({ buffer: entry.name, size: formatBytes(entry.bytes) })), `memory plan of training ${model}`);
  out.text("");
  out.table(plan.activations.map(({ name, bytes, kept }) => ({ tensor: name, size: formatBytes(bytes), kept: kept ? "kept" : "computed again" })), "its activations");
  out.text("");
  out.table(levels.map((level) => ({ recompute: level.recompute, ...(own ? { moments: level.momentMemory } : {}), total: formatBytes(level.total), "": level.recompute === plan.recompute ? "this plan" : fits(level) ? "fits too" : "does not fit" })), "levels of recomputation");
  if (own) out.text(`moments ${plan.hostBytes > 0 ? `in host memory, ${formatBytes(plan.hostBytes)} of ${formatBytes(plan.hostLimit)} available` : "on the device"}: ${plan.momentMemoryReason}`);
  out.text(`total ${formatBytes(plan.total)} of ${formatBytes(available)} available: ${fits(plan) ? "fits" : "does not fit"}`);
}
