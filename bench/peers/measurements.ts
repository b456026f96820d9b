/** What is measured: our engine, its peers on the same work, and the arguments of both. */
import { loadAddon } from "../../lib/engine/addon.js";
import type { Dtype } from "../../lib/engine/addon.js";
import { modelProducts } from "../../lib/engine/bench-parts.js";
import type { Product } from "../../lib/engine/bench-parts.js";
import { llamaPeer, ours, pythonPeer } from "./environment.js";
import type { JsonRecord } from "./environment.js";
import type { Instructions } from "./instructions.js";
import type { Contender, Measurement, Reading } from "./rounds.js";

export interface Setting {
  threads: number;
  gguf: string | undefined;
  instructions: Instructions;
}

/** Element types that each side is run with. */
export interface Dtypes {
  ours: readonly Dtype[];
  peers: readonly Dtype[];
}
export const bothDtypes: Dtypes = { ours: ["bf16", "f32"], peers: ["bf16", "f32"] };

const small = "smollm2-135m";
const large = "llama-3.1-8b";
const number = (record: JsonRecord, key: string): number => record[key] as number;

/** A measurement of one thing. */
function single(name: string, unit: string, seconds: number, contenders: readonly (Omit<Contender, "run"> & { run: () => Promise<Reading> })[], missing?: string): Measurement {
  return { name, unit, seconds, missing, parts: [name], contenders: contenders.map(({ run, ...contender }) => ({ ...contender, run: async () => new Map([[name, await run()]]) })) };
}

async function oursOnModel(what: string, model: string, dtype: Dtype, { threads, instructions }: Setting, ...flags: (string | number)[]): Promise<JsonRecord> {
  return (await ours(what, instructions.env, "--model", model, "--dtype", dtype, "--threads", threads, ...flags))[0] as JsonRecord;
}

function reading(record: JsonRecord, key: string, limit?: number): Reading {
  return { value: number(record, key), memory: number(record, "peak_memory_bytes"), limit };
}

export interface PairShape {
  prompt: number;
  /** Tokens of each answer. */
  answer: number;
}

const pairs = 2;

async function ourTraining({ prompt, answer }: PairShape, dtype: Dtype, steps: number, setting: Setting): Promise<Reading> {
  const record = await oursOnModel("train", small, dtype, setting, "--pairs", pairs, "--prompt", prompt, "--answer", answer, "--steps", steps);
  return reading(record, "pairs_per_s", number(record, "matrix_peak_flops") / number(record, "useful_flops_per_pair"));
}

/** The limit is the pairs/s at which useful work would fill the matrix peak. */
export function training(shape: PairShape, dtypes: Dtypes, setting: Setting): Measurement {
  const { prompt, answer } = shape;
  const steps = 3;
  return single(`training, ${pairs} pairs of ${prompt} + ${answer} + ${answer}`, "pairs/s", prompt + 2 * answer > 1000 ? 120 : 60, [
    ...dtypes.ours.map((dtype) => ({ name: `rlhi-native ${dtype}`, ours: true, run: () => ourTraining(shape, dtype, steps, setting) })),
    ...dtypes.peers.map((dtype) => ({
      name: `TRL ${dtype}`, ours: false,
      run: async () => reading(await pythonPeer("trl_dpo.py", setting.instructions.env, dtype, pairs, prompt, answer, steps, setting.threads), "pairs_per_s"),
    })),
  ]);
}

/** Training on two threads beside the same on one. */
export function secondCore(setting: Setting): Measurement {
  const shape = { prompt: 256, answer: 256 };
  const contender = (threads: number): { name: string; ours: boolean; run: () => Promise<Reading> } =>
    ({ name: `${threads} thread${threads === 1 ? "" : "s"}`, ours: threads > 1, run: () => ourTraining(shape, "bf16", 3, { ...setting, threads }) });
  return single("training on two threads and on one", "pairs/s", 40, [contender(2), contender(1)]);
}

/** Log-probabilities of every token: the limit is the tokens/s at which useful work would fill the matrix peak. */
export function forward(dtypes: Dtypes, setting: Setting): Measurement {
  const [sequences, tokens, steps] = [4, 512, 3];
  return single(`forward, ${sequences} x ${tokens}`, "tokens/s", 20, [
    ...dtypes.ours.map((dtype) => ({ name: `rlhi-native ${dtype}`, ours: true, run: () => ourForward(small, dtype, sequences, tokens, steps, setting) })),
    ...dtypes.peers.map((dtype) => ({
      name: `transformers ${dtype}`, ours: false,
      run: async () => reading(await pythonPeer("transformers_speed.py", setting.instructions.env, "forward", dtype, sequences, tokens, steps, setting.threads), "tokens_per_s"),
    })),
  ]);
}

async function ourForward(model: string, dtype: Dtype, sequences: number, tokens: number, steps: number, setting: Setting): Promise<Reading> {
  const record = await oursOnModel("forward", model, dtype, setting, "--sequences", sequences, "--tokens", tokens, "--steps", steps);
  return reading(record, "tokens_per_s", number(record, "tokens_per_s") / number(record, "useful_mfu"));
}

export function largeForward(setting: Setting): Measurement {
  const tokens = 512;
  return single(`8B forward, 1 x ${tokens}`, "tokens/s", 120, [{ name: "rlhi-native bf16", ours: true, run: () => ourForward(large, "bf16", 1, tokens, 1, setting) }]);
}

export function largeLayer(setting: Setting): Measurement {
  const { prompt, answer } = { prompt: 256, answer: 256 };
  return single(`8B layer, forward and backward, ${prompt} + ${answer} + ${answer}`, "FLOP/s", 30, [{
    name: "rlhi-native bf16", ours: true,
    run: async () => {
      const record = await oursOnModel("layer", large, "bf16", setting, "--pairs", 1, "--prompt", prompt, "--answer", answer, "--steps", 3);
      return { value: number(record, "flops"), limit: number(record, "matrix_peak_flops") };
    },
  }]);
}

/** Tokens/s of greedy answers to prompts of 64 tokens; alone, the limit is how often a second the weights can be read. */
export function generation(sequences: number, count: "with prompts" | "decoding alone", dtypes: Dtypes, setting: Setting): Measurement {
  const [prompt, fresh, steps] = [64, 64, 1];
  const { threads, gguf, instructions } = setting;
  const missing = count === "with prompts" && gguf === undefined ? "llama.cpp (--gguf)" : undefined;
  const peers = count === "decoding alone" ? [] : [
    ...dtypes.peers.map((dtype) => ({
      name: `transformers ${dtype}`, ours: false,
      run: async () => reading(await pythonPeer("transformers_speed.py", instructions.env, "generate", dtype, sequences, prompt, fresh, steps, threads), "tokens_per_s"),
    })),
    ...(gguf === undefined ? [] : [{ name: "llama.cpp Q4_1", ours: false, run: async () => reading(await llamaPeer(instructions, gguf, sequences, prompt, fresh, threads), "tokens_per_s") }]),
  ];
  return single(`generation, ${sequences} at once${count === "decoding alone" ? ", decoding" : ""}`, "tokens/s", 20, [
    ...dtypes.ours.map((dtype) => ({
      name: `rlhi-native ${dtype}`, ours: true,
      run: async () => {
        const record = await oursOnModel("generate", small, dtype, setting, "--sequences", sequences, "--prompt", prompt, "--max-new-tokens", fresh, "--steps", steps);
        return reading(record, count === "decoding alone" ? "decode_tokens_per_s" : "tokens_per_s", sequences === 1 ? number(record, "read_bandwidth_bytes_per_s") / number(record, "weight_bytes") : undefined);
      },
    })),
    ...peers,
  ], missing);
}

const productName = (model: string, { name, pass, m, n, k }: Product): string => `${model} ${name}, ${pass}, ${m} x ${n} x ${k}`;

/** The products of a training step of SmolLM2-135M on 1024 tokens, or of an 8B model on 512, beside PyTorch's, whose sums and results are of the factors' type. */
export function products(size: "small" | "large", dtypes: Dtypes, setting: Setting): Measurement {
  const { threads, instructions } = setting;
  const [model, tokens, repeats] = size === "small" ? [small, 1024, 5] : [large, 512, 3];
  // Names and sizes are the same in every element type. Weights are packed every time, as in training.
  const all = modelProducts(loadAddon().modelShape(model), tokens, "bf16").filter(({ packed }) => !packed);
  return {
    name: `products of ${model} on ${tokens} tokens`, unit: "FLOP/s", seconds: size === "small" ? 8 : 40, parts: all.map((product) => productName(model, product)),
    contenders: [
      ...dtypes.ours.map((dtype): Contender => ({
        name: `rlhi-native ${dtype}`, ours: true,
        run: async () => {
          const rows = await ours("gemm", instructions.env, "--model", model, "--tokens", tokens, "--dtype", dtype, "--threads", threads, "--steps", repeats);
          return new Map(rows.map((row) => [productName(model, row as unknown as Product), { value: number(row, "flops"), limit: number(row, "matrix_peak_flops") }]));
        },
      })),
      ...dtypes.peers.map((dtype): Contender => ({
        name: `PyTorch ${dtype}`, ours: false,
        run: async () => {
          const found = await pythonPeer("torch_gemm.py", instructions.env, dtype, repeats, threads, ...all.map(argumentOf));
          return new Map(all.map((product) => [productName(model, product), { value: number(found, argumentOf(product)) }]));
        },
      })),
    ],
  };
}

const argumentOf = ({ form, m, n, k }: Product): string => `${form}:${m},${n},${k}`;
