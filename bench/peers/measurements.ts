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

function number(record: JsonRecord, key: string): number {
  const value = record[key];
  if (typeof value !== "number") throw new Error(`no ${key} in what it printed: ${JSON.stringify(record).slice(0, 200)}`);
  return value;
}

/** A contender of a measurement of one thing. */
interface Runner extends Omit<Contender, "run"> {
  run: () => Promise<Reading>;
}

function single(name: string, unit: string, seconds: number, runners: readonly Runner[], missing?: string): Measurement {
  const contenders = runners.map(({ run, ...contender }) => ({ ...contender, run: async () => new Map([[name, await run()]]) }));
  return { name, unit, seconds, missing, parts: [name], contenders };
}

function inEach(name: string, isOurs: boolean, dtypes: readonly Dtype[], run: (dtype: Dtype) => Promise<Reading>): Runner[] {
  return dtypes.map((dtype) => ({ name: `${name} ${dtype}`, ours: isOurs, run: () => run(dtype) }));
}

async function oursOnModel(what: string, model: string, dtype: Dtype, setting: Setting, ...flags: (string | number)[]): Promise<JsonRecord> {
  const { threads, instructions } = setting;
  return (await ours(what, instructions.env, "--model", model, "--dtype", dtype, "--threads", threads, ...flags))[0] as JsonRecord;
}

function reading(record: JsonRecord, key: string, limit?: number): Reading {
  return { value: number(record, key), memory: number(record, "peak_memory_bytes"), limit };
}

const flopsIn = (record: JsonRecord): Reading => ({ value: number(record, "flops"), limit: number(record, "matrix_peak_flops") });

export interface PairShape {
  prompt: number;
  /** Tokens of each answer. */
  answer: number;
}

const pairs = 2;
const trainingSteps = 3;

/** Gradients and moments are of the weights' type, as TRL's are; a micro-batch holds both pairs, in f32 one. */
async function ourTraining({ prompt, answer }: PairShape, dtype: Dtype, setting: Setting): Promise<Reading> {
  const shape = ["--pairs", pairs, "--prompt", prompt, "--answer", answer, "--steps", trainingSteps];
  const tokens = (dtype === "bf16" ? pairs : 1) * (prompt + 2 * answer);
  const memory = ["--gradients", dtype, "--moments", dtype, "--max-tokens-per-micro-batch", tokens];
  const record = await oursOnModel("train", small, dtype, setting, ...shape, ...memory);
  return reading(record, "pairs_per_s", number(record, "matrix_peak_flops") / number(record, "useful_flops_per_pair"));
}

/** The limit is the pairs/s at which useful work would fill the matrix peak. */
export function training(shape: PairShape, dtypes: Dtypes, setting: Setting): Measurement {
  const { prompt, answer } = shape;
  const { env } = setting.instructions;
  return single(`training, ${pairs} pairs of ${prompt} + ${answer} + ${answer}`, "pairs/s", prompt + 2 * answer > 1000 ? 120 : 60, [
    ...inEach("rlhi-native", true, dtypes.ours, (dtype) => ourTraining(shape, dtype, setting)),
    ...inEach("TRL", false, dtypes.peers, async (dtype) =>
      reading(await pythonPeer("trl_dpo.py", env, dtype, pairs, prompt, answer, trainingSteps, setting.threads), "pairs_per_s")),
  ]);
}

/** Training on two threads beside the same on one. */
export function secondCore(setting: Setting): Measurement {
  const run = (threads: number) => (): Promise<Reading> => ourTraining({ prompt: 256, answer: 256 }, "bf16", { ...setting, threads });
  return single("training on two threads and on one", "pairs/s", 40, [
    { name: "2 threads", ours: true, run: run(2) }, { name: "1 thread", ours: false, run: run(1) },
  ]);
}

interface ForwardShape {
  sequences: number;
  tokens: number;
  steps: number;
}

async function ourForward(model: string, dtype: Dtype, shape: ForwardShape, setting: Setting): Promise<Reading> {
  const { sequences, tokens, steps } = shape;
  const record = await oursOnModel("forward", model, dtype, setting, "--sequences", sequences, "--tokens", tokens, "--steps", steps);
  return reading(record, "tokens_per_s", number(record, "tokens_per_s") / number(record, "useful_mfu"));
}

/** Log-probabilities of every token: the limit is the tokens/s at which useful work would fill the matrix peak. */
export function forward(dtypes: Dtypes, setting: Setting): Measurement {
  const shape = { sequences: 4, tokens: 512, steps: 3 };
  const { sequences, tokens, steps } = shape;
  const { env } = setting.instructions;
  return single(`forward, ${sequences} x ${tokens}`, "tokens/s", 20, [
    ...inEach("rlhi-native", true, dtypes.ours, (dtype) => ourForward(small, dtype, shape, setting)),
    ...inEach("transformers", false, dtypes.peers, async (dtype) =>
      reading(await pythonPeer("transformers_speed.py", env, "forward", dtype, sequences, tokens, steps, setting.threads), "tokens_per_s")),
  ]);
}

export function largeForward(setting: Setting): Measurement {
  const shape = { sequences: 1, tokens: 512, steps: 1 };
  const contenders = inEach("rlhi-native", true, ["bf16"], (dtype) => ourForward(large, dtype, shape, setting));
  return single(`8B forward, ${shape.sequences} x ${shape.tokens}`, "tokens/s", 120, contenders);
}

export function largeLayer(setting: Setting): Measurement {
  const [prompt, answer, steps] = [256, 256, 3];
  const contenders = inEach("rlhi-native", true, ["bf16"], async (dtype) => {
    const shape = ["--pairs", 1, "--prompt", prompt, "--answer", answer, "--steps", steps];
    const record = await oursOnModel("layer", large, dtype, setting, ...shape);
    return flopsIn(record);
  });
  return single(`8B layer, forward and backward, ${prompt} + ${answer} + ${answer}`, "FLOP/s", 30, contenders);
}

const [promptTokens, newTokens, generationSteps] = [64, 64, 1];

async function ourGeneration(sequences: number, rate: "tokens_per_s" | "decode_tokens_per_s", dtype: Dtype, setting: Setting): Promise<Reading> {
  const shape = ["--sequences", sequences, "--prompt", promptTokens, "--max-new-tokens", newTokens, "--steps", generationSteps];
  const record = await oursOnModel("generate", small, dtype, setting, ...shape);
  // One sequence cannot be decoded faster than the weights are read.
  const limit = sequences === 1 ? number(record, "read_bandwidth_bytes_per_s") / number(record, "weight_bytes") : undefined;
  return reading(record, rate, limit);
}

/** Greedy answers to several prompts at once, prompts included. */
export function generation(sequences: number, dtypes: Dtypes, setting: Setting): Measurement {
  const { threads, gguf, instructions } = setting;
  const llama = gguf === undefined ? [] : [{
    name: "llama.cpp Q4_1", ours: false,
    run: async () => reading(await llamaPeer(instructions, gguf, sequences, promptTokens, newTokens, threads), "tokens_per_s"),
  }];
  return single(`generation, ${sequences} at once`, "tokens/s", 20, [
    ...inEach("rlhi-native", true, dtypes.ours, (dtype) => ourGeneration(sequences, "tokens_per_s", dtype, setting)),
    ...inEach("transformers", false, dtypes.peers, async (dtype) => {
      const shape = [sequences, promptTokens, newTokens, generationSteps, threads];
      return reading(await pythonPeer("transformers_speed.py", instructions.env, "generate", dtype, ...shape), "tokens_per_s");
    }),
    ...llama,
  ], gguf === undefined ? "llama.cpp (--gguf)" : undefined);
}

/** One sequence, without its prompt, beside what the memory's bandwidth allows. */
export function decoding(setting: Setting): Measurement {
  const contenders = inEach("rlhi-native", true, ["bf16"], (dtype) => ourGeneration(1, "decode_tokens_per_s", dtype, setting));
  return single("decoding, 1 sequence", "tokens/s", 10, contenders);
}

const productName = (model: string, { name, pass, m, n, k }: Product): string => `${model} ${name}, ${pass}, ${m} x ${n} x ${k}`;
const argumentOf = ({ form, m, n, k }: Product): string => `${form}:${m},${n},${k}`;

/**
 * The products of a training step of SmolLM2-135M on 1024 tokens, or of an 8B model on 512, beside PyTorch's, whose sums and results
 * are of the factors' type.
 */
export function products(size: "small" | "large", dtypes: Dtypes, setting: Setting): Measurement {
  const { threads, instructions: { env } } = setting;
  const [model, tokens, repeats] = size === "small" ? [small, 1024, 5] : [large, 512, 3];
  // Names and sizes are the same in every element type. Weights are packed every time, as in training.
  const all = modelProducts(loadAddon().modelShape(model), tokens, "bf16").filter(({ packed }) => !packed);
  const readingsOf = (dtype: Dtype) => async (): Promise<ReadonlyMap<string, Reading>> => {
    const rows = await ours("gemm", env, "--model", model, "--tokens", tokens, "--dtype", dtype, "--threads", threads, "--steps", repeats);
    return new Map(rows.map((row) => [productName(model, row as unknown as Product), flopsIn(row)]));
  };
  const torchOf = (dtype: Dtype) => async (): Promise<ReadonlyMap<string, Reading>> => {
    const found = await pythonPeer("torch_gemm.py", env, dtype, repeats, threads, ...all.map(argumentOf));
    return new Map(all.map((product) => [productName(model, product), { value: number(found, argumentOf(product)) }]));
  };
  return {
    name: `products of ${model} on ${tokens} tokens`, unit: "FLOP/s", seconds: size === "small" ? 8 : 40,
    parts: all.map((product) => productName(model, product)),
    contenders: [
      ...dtypes.ours.map((dtype): Contender => ({ name: `rlhi-native ${dtype}`, ours: true, run: readingsOf(dtype) })),
      ...dtypes.peers.map((dtype): Contender => ({ name: `PyTorch ${dtype}`, ours: false, run: torchOf(dtype) })),
    ],
  };
}
