import type { Dtype, Moments, TrainOptions } from "../../engine/addon.js";
import { defineCommand } from "../command.js";
import type { Tools } from "../command.js";
import { deviceFlags, requireRange } from "../model-flags.js";
import type { Mode } from "../modes.js";

const kinds = ["train", "generate", "forward", "layer", "gemm", "ops", "pipeline"] as const;
type What = (typeof kinds)[number];

/** Of the flags that not every kind has, those of each. */
const flagsOf: Record<What, readonly string[]> = {
  train: ["steps", "device", "pairs", "prompt", "answer", "gradients", "moments", "moment-memory", "recompute", "max-tokens-per-micro-batch"],
  generate: ["steps", "device", "sequences", "prompt", "max-new-tokens"],
  forward: ["steps", "device", "sequences", "tokens", "max-tokens-per-micro-batch"],
  layer: ["steps", "device", "pairs", "prompt", "answer"],
  gemm: ["steps", "device", "tokens", "shape"],
  ops: ["steps", "device", "tokens"],
  pipeline: [],
};
const flagsOfAll: ReadonlySet<string> = new Set(["what", "model", "dtype", "threads"]);

interface BenchFlags {
  model: string;
  dtype: Dtype;
  device: string;
  threads: number;
  steps: number;
  pairs: number;
  prompt: number;
  answer: number;
  gradients: Dtype;
  moments: Moments;
  momentMemory: TrainOptions["momentMemory"];
  recompute: TrainOptions["recompute"];
  sequences: number;
  tokens: number;
  shape?: string | undefined;
  form?: "nt" | "nn" | "tn" | undefined;
  maxNewTokens: number;
  maxTokensPerMicroBatch: number;
}

export const bench = defineCommand({
  command: "bench <what>",
  describe: "speed and memory, beside this machine's own limit measured in the same run",
  flags: (yargs) => deviceFlags(yargs)
    .positional("what", { choices: kinds, demandOption: true, describe: "training steps, generation, log-probabilities, one layer forward and backward, matrix products, every operation, or the whole method on a part of the sample (how long the engine waits)" })
    .option("model", { type: "string", default: "smollm2-135m", requiresArg: true, describe: "a path, or a shape's name for random weights" })
    .option("steps", { type: "number", default: 5, describe: "all but pipeline: repetitions; their median counts" })
    .option("pairs", { type: "number", default: 2, describe: "train, layer: pairs a step" })
    .option("prompt", { type: "number", default: 256, describe: "train, layer, generate: tokens of a prompt" })
    .option("answer", { type: "number", default: 256, describe: "train, layer: tokens of each answer" })
    .option("gradients", { choices: ["f32", "bf16"] as const, default: "f32" as const, describe: "train: storage of the matrices' gradients" })
    .option("moments", { choices: ["f32", "bf16", "8bit"] as const, default: "f32" as const, describe: "train: storage of AdamW's moments" })
    .option("moment-memory", { choices: ["auto", "device", "host"] as const, default: "auto" as const, describe: "train: where a GPU's moments lie; auto: device, or host where that does not fit" })
    .option("recompute", { choices: ["auto", "none", "norms", "layers"] as const, default: "auto" as const, describe: "train: what the backward computes again instead of keeping it" })
    .option("sequences", { type: "number", default: 16, describe: "generate, forward: sequences at once" })
    .option("tokens", { type: "number", default: 1024, describe: "forward: tokens of a sequence; gemm, ops: rows of the activations" })
    .option("shape", { type: "string", requiresArg: true, describe: "gemm: one product by its rows, columns and depth, as 1024,49152,576, instead of the model's" })
    .option("form", { choices: ["nt", "nn", "tn"] as const, requiresArg: true, describe: "gemm --shape: y = x W^T with packed W (the default), dx = dy W, or dW = dy^T x" })
    .option("max-new-tokens", { type: "number", default: 64, describe: "generate: tokens written to each prompt" })
    .option("max-tokens-per-micro-batch", { type: "number", default: 2048, describe: "train, forward: token budget of one forward" })
    .example("$0 bench train --model smollm2-135m --dtype bf16 --pairs 2 --prompt 256 --answer 256 --steps 5 --json", "pairs/s, useful MFU, peak memory")
    .example("$0 bench train --model llama-3.1-8b --device cuda --gradients bf16 --moments 8bit --max-tokens-per-micro-batch 4608", "the same on a GPU, beside its fastest product")
    .example("$0 bench gemm --dtype f32", "each matrix product of the model, forward and backward, as a share of the peak")
    .example("$0 bench ops --dtype bf16", "each operation's time, bytes and FLOPs, as shares of the bandwidth and of the peak")
    .example("$0 bench layer --model llama-3.1-8b --pairs 1", "one layer of an 8B model, forward and backward")
    .example("$0 bench pipeline", "seconds of each stage, and the share in which the engine had no work"),
  mode: (flags) => modeOf(flags),
  run: async (flags, tools) => {
    for (const name of ["steps", "pairs", "prompt", "answer", "sequences", "tokens", "maxNewTokens", "maxTokensPerMicroBatch"] as const) {
      requireRange(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), flags[name], "a whole number from 1", Number.isInteger(flags[name]) && flags[name] >= 1);
    }
    if (flags.shape !== undefined) requireRange("shape", flags.shape, "three whole numbers from 1, as 1024,49152,576", /^[1-9]\d*,[1-9]\d*,[1-9]\d*$/.test(flags.shape));
    const result = await measure(flags.what, flags, tools);
    if (Array.isArray(result)) tools.out.table(result, `bench ${flags.what}`);
    else tools.out.facts(result, `bench ${flags.what}`);
  },
});

/** A product given by --shape is nobody's: neither a model's nor of --tokens rows. */
function modeOf({ what, shape }: BenchFlags & { what: What }): Mode {
  if (what === "gemm" && shape !== undefined) return { name: "--shape", takes: (flag) => ["what", "dtype", "device", "threads", "steps", "shape", "form"].includes(flag) };
  return { name: `bench ${what}`, takes: (flag) => flagsOfAll.has(flag) || flagsOf[what].includes(flag) };
}

async function measure(what: What, flags: BenchFlags, { progress, signal }: Tools): Promise<Record<string, unknown> | Record<string, unknown>[]> {
  const { benchForward, benchGenerate, benchTrain } = await import("../../engine/bench.js");
  const { benchGemm, benchLayer } = await import("../../engine/bench-parts.js");
  const { model, dtype, device, threads, steps, pairs, prompt, answer, gradients, moments, momentMemory, recompute, sequences, tokens, maxNewTokens, maxTokensPerMicroBatch, shape, form } = flags;
  const common = { model, dtype, device, threads, steps };
  const benches: Record<What, () => Promise<Record<string, unknown> | Record<string, unknown>[]>> = {
    train: () => benchTrain({ ...common, pairs, prompt, answer, gradients, moments, momentMemory, recompute, maxTokensPerMicroBatch }),
    generate: () => benchGenerate({ ...common, sequences, prompt, maxNewTokens }),
    forward: () => benchForward({ ...common, sequences, tokens, maxTokensPerMicroBatch }),
    layer: () => benchLayer({ ...common, pairs, prompt, answer }),
    gemm: () => benchGemm({ ...common, tokens, form, shape: shape?.split(",").map(Number) as [number, number, number] | undefined }),
    ops: async () => {
      const { benchOperations } = await import("../../engine/bench-ops.js");
      return benchOperations({ ...common, tokens });
    },
    pipeline: async () => {
      const { benchPipeline } = await import("../../run/bench.js");
      return benchPipeline({ model, dtype, threads, progress, signal });
    },
  };
  return benches[what]();
}
