/**
 * The typed contract of the C++ addon: exactly what bindings/ exports, nothing more. A test checks the two against each
 * other. Nothing here knows conversations or personas; lib/engine/ wraps it for the rest of lib/.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { RlhiError } from "../errors.js";

export type Dtype = "f32" | "bf16";

/** What native errors carry in `code`; the message says what was expected and found. */
export type NativeErrorCode =
  | "ERR_INVALID_ARGUMENT" | "ERR_INVALID_FILE" | "ERR_UNSUPPORTED" | "ERR_OUT_OF_MEMORY" | "ERR_IO" | "ERR_ABORTED" | "ERR_DEVICE_LOST" | "ERR_INTERNAL" | "ERR_CLOSED";

/**
 * One column of lists of token ids as Arrow holds it: list i is values[offsets[i] .. offsets[i+1]). Offsets may start
 * above 0 (a slice) and both buffers may be longer than needed (padding). Copied at once; never kept across the call.
 */
export interface ListColumn {
  offsets: Int32Array;
  values: Int32Array;
}

/** A record batch of pairs: `rows` lists are read from each column, beginning at its offsets' first element. */
export interface PairBatch {
  rows: number;
  prompt: ListColumn;
  chosen: ListColumn;
  rejected: ListColumn;
  /** Summed log-probabilities under the reference; absent for losses that need none. */
  refChosen?: Float32Array | undefined;
  refRejected?: Float32Array | undefined;
}

/** Trees to score: `rows` prompts; continuation j belongs to prompt parents[j]; parents ascend. */
export interface ScoreBatch {
  rows: number;
  prompt: ListColumn;
  continuations: ListColumn;
  parents: Int32Array;
}

export interface ScoreResult {
  /** Log-probability of every continuation token, one continuation after the other, as `continuations.offsets` cuts them (rebased to 0). */
  tokenLogps: Float32Array;
  /** Sum over each continuation's tokens, summed in double. */
  logps: Float64Array;
}

export interface GenerateRequest {
  prompt: Int32Array;
  n: number;
  maxNewTokens: number;
  /** 0 is greedy. */
  temperature: number;
  topP: number;
  /** 0 is off. */
  topK: number;
  minP: number;
  /** One a sample. */
  seeds: BigUint64Array;
  stopTokens: Int32Array;
  stopStrings: string[];
}

export interface GenerateResult {
  request: number;
  sample: number;
  tokenIds: Int32Array;
  /** Each token's log-probability under the model's own distribution (temperature 1, nothing cut off). */
  logps: Float32Array;
  finishReason: "stop_token" | "stop_string" | "length";
}

export interface TokenEvent {
  request: number;
  sample: number;
  token: number;
}

export interface LoadOptions {
  /** Hugging Face folder, GGUF file, or a shape's name (random weights). */
  path: string;
  dtype: Dtype;
  /** "cpu" (the default), "cuda" or "cuda:N". */
  device?: string | undefined;
  /** Of the CPU; 0: all logical cores. */
  threads: number;
  /** Of random weights. */
  seed?: number | undefined;
  /** Highest number of sequences decoded at once; 0: 64. */
  maxSequences?: number | undefined;
  /** CPU only: file that close() writes, a trace of every operation and of the threads' work in Chrome's format. */
  trace?: string | undefined;
  onProgress?: ((fraction: number) => void) | undefined;
}

export interface ModelShape {
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
}

export interface ModelInfo extends ModelShape {
  architecture: string;
  dtype: Dtype;
  /** "cpu/avx512", "cuda", ... */
  backend: string;
  threads: number;
  parameters: number;
  maxPosition: number;
  tiedEmbeddings: boolean;
  bosTokenId: number;
  eosTokenIds: number[];
  weightBytes: number;
  /** 16 hex digits over names and bytes of all weights as they are now; "" while work is under way after a step has changed them. */
  fingerprint: string;
}

/** What AdamW's moments are stored as; 8bit: codes with a scale for every 256 of them. */
export type Moments = Dtype | "8bit";

/** Where AdamW's moments lie; from the host's memory they pass through the GPU in each update, to the same bits. */
export type MomentMemory = "device" | "host";

export interface TrainOptions {
  lossType: "sigmoid" | "ipo" | "hinge" | "simpo" | "sft";
  beta: number;
  labelSmoothing: number;
  simpoGamma: number;
  rpoAlpha: number;
  learningRate: number;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  weightDecay: number;
  /** Storage of the matrices' gradients; those of norms and biases are f32. */
  gradients: Dtype;
  /** Storage of AdamW's two moments. */
  moments: Moments;
  /** Where they lie; auto: on the device, or in host memory where the plan does not fit otherwise. To the CPU all three are the same. */
  momentMemory: MomentMemory | "auto";
  maxGradNorm: number;
  lrSchedulerType: "constant" | "constant_with_warmup" | "linear" | "cosine";
  warmupSteps: number;
  totalSteps: number;
  maxTokensPerMicroBatch: number;
  /** Longest prompt+chosen+rejected that will come. */
  maxPairTokens: number;
  /** 0: what the machine has available. */
  memoryLimitBytes: number;
  /** What the backward computes again: nothing, norms' and SwiGLU's outputs, whole layers; auto: norms, or layers where the plan does not fit otherwise. */
  recompute: Recompute | "auto";
}

/** TRL's names, as they stand in metrics.jsonl. */
export interface StepMetrics {
  step: number;
  loss: number;
  grad_norm: number;
  learning_rate: number;
  "rewards/chosen": number;
  "rewards/rejected": number;
  "rewards/margins": number;
  "rewards/accuracies": number;
  "logps/chosen": number;
  "logps/rejected": number;
  num_tokens: number;
}

export const recomputeLevels = ["none", "norms", "layers"] as const;
export type Recompute = (typeof recomputeLevels)[number];

export interface MemoryPlan {
  recompute: Recompute;
  /** What the entry "activations" is made of, all layers together; what is not kept is computed again, `bytes` being what keeping it would take. */
  activations: { name: string; bytes: number; kept: boolean }[];
  entries: { name: string; bytes: number }[];
  /** Of the device's memory; what `hostBytes` counts is not part of it. */
  total: number;
  momentMemory: MomentMemory;
  momentMemoryReason: string;
  /** Of moments in host memory, else 0. */
  hostBytes: number;
  /** What moments may take of the host's memory; 0: not known, or a CPU's plan. */
  hostLimit: number;
}

export interface NativeTrainer {
  plan(): MemoryPlan;
  /** One optimizer step over the batch's pairs. Rejected with ERR_ABORTED, the weights as before, when `signal` aborts. */
  step(batch: PairBatch, signal?: AbortSignal): Promise<StepMetrics>;
  /** Loss and gradient of the batch without an update. */
  accumulate(batch: PairBatch, signal?: AbortSignal): Promise<StepMetrics>;
  /** The same metrics by a forward alone; `grad_norm` and `learning_rate` are 0. */
  evaluate(batch: PairBatch, signal?: AbortSignal): Promise<StepMetrics>;
  /** The last gradient, as safetensors with Hugging Face names, f32. */
  saveGradients(path: string): Promise<void>;
  /** optimizer.safetensors into `dir`; exact. `onTaken` as of NativeModel.save. */
  saveState(dir: string, onTaken?: () => void): Promise<void>;
  loadState(dir: string): Promise<void>;
  stepsDone(): number;
  /** Frees gradients, moments and activations; the model lives on. Waits for work under way. */
  close(): Promise<void>;
}

export interface NativeModel {
  info(): ModelInfo;
  score(batch: ScoreBatch, maxTokensPerMicroBatch: number, signal?: AbortSignal): Promise<ScoreResult>;
  /** Bytes of every token (offsets has vocabSize + 1 entries), for stop strings. */
  setTokenBytes(offsets: Int32Array, bytes: Uint8Array): void;
  /** Resolves when all have ended; onResult comes once a sample, in the order they end. */
  generate(requests: GenerateRequest[], onResult: (result: GenerateResult) => void, onToken?: (event: TokenEvent) => void, signal?: AbortSignal): Promise<void>;
  /**
   * model.safetensors (sharded above 5 GiB) and config.json into the existing folder `dir`, of the weights as they are when calls made
   * before this one have ended; resolves when the files are whole. `onTaken` is called when the engine goes on to what it was given later:
   * on a GPU, where the host has memory for a copy, that is before they are written.
   */
  save(dir: string, dtype: Dtype, onTaken?: () => void): Promise<void>;
  createTrainer(options: TrainOptions): Promise<NativeTrainer>;
  /** Waits for work under way, then frees everything. Later calls are rejected with ERR_CLOSED. */
  close(): Promise<void>;
}

export type GgufValue = number | bigint | boolean | string | GgufValue[] | Int32Array | Float32Array;

export interface SystemInfo {
  cpuModel: string;
  logicalCores: number;
  /** Instruction sets this machine has, of those we know of: "avx2", "avx512f", "avx512_bf16", "amx_bf16", ... */
  features: string[];
  /** Paths compiled in and runnable here, slowest first, and the one a model would use. */
  isas: string[];
  defaultIsa: string;
  memoryBytes: number;
  availableMemoryBytes: number;
  addonVersion: string;
  compiler: string;
}

/** What `device: "cuda"` would find here. */
export interface CudaReport {
  /** Path of librlhi_cuda.so; "" where it is not there. */
  library: string;
  /** One line a GPU: name, compute capability, memory. */
  devices: string[];
  /** Path and version of cuBLASLt. */
  cublasLt: string;
  /** "" where a GPU can be used; else what is missing and how to get it. */
  missing: string;
}

/** What a device can do at most, measured through its own operations. */
export interface DeviceLimits {
  /** FLOP/s of the fastest square product of random numbers. */
  matrixFlops: number;
  /** Bytes/s read and written by a large copy. */
  copyBytesPerS: number;
}

/** One operation of the table at a model's shape. */
export interface OperationSpeed {
  /** Its name in native/ops/ops.h. */
  operation: string;
  /** Of the model. */
  part: string;
  shape: string;
  /** Median. */
  seconds: number;
  /** What it needs at least: of its products, and each tensor read or written once. */
  flops: number;
  bytes: number;
}

/** One matrix product: nt is c[m,n] = a[m,k] b[n,k]^T (y = x W^T), nn is a[m,k] b[k,n] (dx = dy W), tn is a[k,m]^T b[k,n] (dW = dy^T x). */
export interface GemmShape {
  form: "nt" | "nn" | "tn";
  m: number;
  n: number;
  k: number;
  /** Of both factors. */
  dtype: Dtype;
  /** Of c. */
  out: Dtype;
  /** c += instead of c =; `out` is f32. */
  accumulate: boolean;
  /** Form nt: b was packed beforehand, as weights are for generation; else it is packed every time, as in training. */
  packed: boolean;
}

export interface LayerSpeed {
  /** Of each repetition. */
  forwardSeconds: number[];
  backwardSeconds: number[];
  /** Of the layer's matrices. */
  gradientNorm: number;
}

export interface NativeAddon {
  /** Must equal `addonAbi`. */
  readonly abi: number;
  systemInfo(): SystemInfo;
  cudaReport(): CudaReport;
  loadModel(options: LoadOptions): Promise<NativeModel>;
  /** All metadata of a GGUF file (tensors are not read). Arrays of numbers come as typed arrays where the type allows. */
  ggufMetadata(path: string): Record<string, GgufValue>;
  /** The dimensions of a model; `path` as in LoadOptions. Weights are not read. */
  modelShape(path: string): ModelShape;
  /** The memory a training run on `device` would take; `path` as in LoadOptions. Nothing is allocated. */
  planTraining(path: string, dtype: Dtype, options: TrainOptions, device: string): MemoryPlan;
  /** Bytes that a model opened on `device` now could take. */
  availableMemory(device: string): number;
  /** FLOP/s of products in registers on all threads, by the instructions that products of this type use: f32 multiply-adds, or tiles of bf16. */
  measurePeakFlops(threads: number, dtype: Dtype): Promise<number>;
  /** Bytes/s of streaming reads on all threads. */
  measureReadBandwidth(threads: number): Promise<number>;
  /** The limits of a GPU: of the CPU, measurePeakFlops and measureReadBandwidth are the finer ones. */
  measureDevice(device: string, dtype: Dtype): Promise<DeviceLimits>;
  /** Seconds of each of `repeats` products on `device`; `threads` are the CPU's. */
  measureGemm(product: GemmShape, device: string, threads: number, repeats: number): Promise<number[]>;
  /** The first layer of a model's shape (random weights), forward and backward as training runs them, on one micro-batch of pairs with answers of one length. */
  measureLayer(path: string, dtype: Dtype, pairs: { count: number; prompt: number; answer: number }, device: string, threads: number, repeats: number): Promise<LayerSpeed>;
  /** Every operation as training with `tokens` rows (4 to the model's context) calls it, each `repeats` times or for 50 ms; `path` as in LoadOptions, weights are random. */
  measureOperations(path: string, dtype: Dtype, tokens: number, device: string, threads: number, repeats: number): Promise<OperationSpeed[]>;
}

export const addonAbi = 9;

/** Every member of the three interfaces, by the types complete and nothing more; a test holds the addon's exports against them. */
export const nativeMembers: {
  addon: Record<keyof NativeAddon, true>;
  model: Record<keyof NativeModel, true>;
  trainer: Record<keyof NativeTrainer, true>;
} = {
  addon: {
    abi: true, systemInfo: true, cudaReport: true, loadModel: true, ggufMetadata: true, modelShape: true, planTraining: true, availableMemory: true, measurePeakFlops: true,
    measureReadBandwidth: true, measureDevice: true, measureGemm: true, measureLayer: true, measureOperations: true,
  },
  model: { info: true, score: true, setTokenBytes: true, generate: true, save: true, createTrainer: true, close: true },
  trainer: { plan: true, step: true, accumulate: true, evaluate: true, saveGradients: true, saveState: true, loadState: true, stepsDone: true, close: true },
};

/** The package's own root folder: where package.json, prebuilds/ and build/ are. */
export const packageRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as { version: string }).version;
}

let loaded: NativeAddon | undefined;

/** The path of the binary that loadAddon takes: a prebuild or the local build. Throws where there is none. */
export function addonPath(): string {
  const require = createRequire(import.meta.url);
  const find = require("node-gyp-build") as { resolve(dir: string): string };
  try {
    return find.resolve(packageRoot);
  } catch (error) {
    throw new RlhiError("ERR_ADDON_MISSING", {
      what: "the native engine is not built for this machine",
      where: packageRoot,
      expected: `prebuilds/${process.platform}-${process.arch} or build/Release`,
      found: (error as Error).message.split("\n")[0],
      todo: "run `npm run build:native` there (it needs CMake and a C++20 compiler)",
      cause: error,
    });
  }
}

/** Loads the addon once a process. */
export function loadAddon(): NativeAddon {
  if (loaded !== undefined) return loaded;
  const path = addonPath();
  const addon = createRequire(import.meta.url)(path) as NativeAddon;
  if (addon.abi !== addonAbi) {
    throw new RlhiError("ERR_ADDON_VERSION", {
      what: "the native engine belongs to another version of this package",
      where: path,
      expected: `contract version ${addonAbi}`,
      found: String(addon.abi),
      todo: "run `npm run build` (or reinstall the package)",
    });
  }
  loaded = addon;
  return addon;
}
