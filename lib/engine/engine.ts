/**
 * The embedded engine as the rest of lib/ uses it: one model with its tokenizer, scoring, generation and training.
 * The work runs on the addon's own threads; these methods return at once with promises.
 */
import { existsSync } from "node:fs";
import { RlhiError } from "../errors.js";
import { requireWritable } from "../files.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import { openTokenizer } from "../tokens/open.js";
import { hasTokenizer } from "../tokens/source.js";
import { today } from "../tokens/template.js";
import { loadAddon } from "./addon.js";
import type { Dtype, GenerateResult, ModelInfo, NativeModel, NativeTrainer, TokenEvent, TrainOptions } from "./addon.js";
import { BusyClock } from "./busy-clock.js";
import { listColumn } from "./columns.js";

export interface EngineOptions {
  /** Hugging Face folder, GGUF file, or a shape's name (random weights, no tokenizer). */
  path: string;
  dtype: Dtype;
  /** Where it runs: "cpu" (the default), "cuda" (the first GPU) or "cuda:N". */
  device?: string | undefined;
  /** Of the CPU; 0: all logical cores. */
  threads?: number | undefined;
  /** Of random weights. */
  seed?: number | undefined;
  /** Highest number of sequences decoded at once. */
  maxSequences?: number | undefined;
  /** The present, for chat templates that name the date. Default today, as transformers renders; a run's models are given `fixedDate`. */
  now?: (() => Date) | undefined;
  /** File that close() writes: a trace of every operation and of the threads' work, which Perfetto and Chrome open. CPU only. */
  trace?: string | undefined;
  onProgress?: ((fraction: number) => void) | undefined;
  /** Gives the model's tokenizer, asked while the weights load; null: token ids are all there will be. Default: opened from `path`, if it has one. */
  tokenizer?: (() => CheckpointTokenizer) | null | undefined;
  /** Counts this engine's work together with that of others; default a clock of its own. */
  clock?: BusyClock | undefined;
}

/** One prompt and the continuations of it to score; the prompt is computed once. */
export interface ScoreItem {
  prompt: ArrayLike<number>;
  continuations: readonly ArrayLike<number>[];
}

export interface ContinuationScore {
  /** Log-probability of each continuation token. */
  tokenLogps: Float32Array;
  /** Their sum, in double. */
  logps: number;
}

export interface GenerationItem {
  prompt: ArrayLike<number>;
  max_new_tokens: number;
  /** Default 1 sample. */
  n?: number | undefined;
  /** 0 is greedy. */
  temperature: number;
  top_p?: number | undefined;
  top_k?: number | undefined;
  min_p?: number | undefined;
  /** Sample i is drawn with the seed derived from this and i. */
  seed?: number | undefined;
  stop_strings?: readonly string[] | undefined;
  /** Go on past the end of text. */
  ignore_eos?: boolean | undefined;
}

export interface Generated {
  request: number;
  sample: number;
  /** The end-of-turn token included where the model wrote it. */
  token_ids: Int32Array;
  logps: Float32Array;
  /** Without special tokens; cut before a stop string. "" for models without a tokenizer. */
  text: string;
  finish_reason: "stop" | "length";
}

export interface GenerateOptions {
  signal?: AbortSignal | undefined;
  onResult?: ((result: Generated) => void) | undefined;
  onToken?: ((event: TokenEvent) => void) | undefined;
}

const defaultMicroBatchTokens = 2048;

/** Sample i's seed: a request's samples differ, and the same request gives the same samples wherever it stands. */
export function sampleSeeds(seed: number, n: number): BigUint64Array {
  return BigUint64Array.from({ length: n }, (_, index) => (BigInt(seed) << 32n) + BigInt(index));
}

export class Engine {
  private constructor(
    readonly path: string,
    readonly native: NativeModel,
    readonly info: ModelInfo,
    readonly tokenizer: CheckpointTokenizer | null,
    readonly clock: BusyClock,
  ) {}

  /** Throws what loading throws: ERR_INVALID_FILE, ERR_UNSUPPORTED, ERR_OUT_OF_MEMORY, ERR_NO_MODEL, ... */
  static async open(options: EngineOptions): Promise<Engine> {
    if (options.trace !== undefined) requireWritable(options.trace);
    const clock = options.clock ?? new BusyClock();
    return clock.load(() => Engine.#load(options, clock));
  }

  static async #load(options: EngineOptions, clock: BusyClock): Promise<Engine> {
    const loading = loadAddon().loadModel({
      path: options.path, dtype: options.dtype, device: options.device, threads: options.threads ?? 0, seed: options.seed, maxSequences: options.maxSequences, trace: options.trace,
      onProgress: options.onProgress,
    });
    // What goes wrong with the weights is told where they are awaited.
    loading.catch(() => undefined);
    let tokenizer: CheckpointTokenizer | null;
    try {
      // While the addon's threads read the weights.
      tokenizer = tokenizerOf(options);
    } catch (error) {
      await loading.then((native) => native.close(), () => undefined);
      throw error;
    }
    const native = await loading;
    try {
      const info = native.info();
      if (tokenizer !== null) native.setTokenBytes(...tokenBytesFor(tokenizer, info.vocabSize));
      return new Engine(options.path, native, info, tokenizer, clock);
    } catch (error) {
      await native.close();
      throw error;
    }
  }

  /** Longest prompt plus answer, in tokens; Infinity where the configuration names none. */
  get context(): number {
    return this.info.maxPosition > 0 ? this.info.maxPosition : Number.POSITIVE_INFINITY;
  }

  /** The tokenizer, or an error that says what text needs one for. */
  requireTokenizer(): CheckpointTokenizer {
    if (this.tokenizer !== null) return this.tokenizer;
    throw new RlhiError("ERR_NO_TOKENIZER", {
      what: "this model has no tokenizer, so text cannot be turned into tokens",
      where: this.path,
      expected: "tokenizer.json beside the weights",
      todo: "add the tokenizer's files, or give token ids instead of text",
    });
  }

  /** Ids at which generation stops: the configuration's and the chat template's end of turn. */
  stopTokens(): Int32Array {
    return Int32Array.from(new Set([...(this.tokenizer?.special.eos ?? []), ...this.info.eosTokenIds.filter((id) => id >= 0)]));
  }

  async score(items: readonly ScoreItem[], options: { maxTokensPerMicroBatch?: number | undefined; signal?: AbortSignal | undefined } = {}): Promise<ContinuationScore[][]> {
    const continuations = items.flatMap((item) => item.continuations);
    if (continuations.length === 0) return items.map(() => []);
    const batch = {
      rows: items.length,
      prompt: listColumn(items.map((item) => item.prompt)),
      continuations: listColumn(continuations),
      parents: Int32Array.from(items.flatMap((item, index) => item.continuations.map(() => index))),
    };
    const result = await this.clock.call(() => this.native.score(batch, options.maxTokensPerMicroBatch ?? defaultMicroBatchTokens, options.signal));
    let token = 0;
    let next = 0;
    return items.map((item) => item.continuations.map((continuation) => {
      const tokenLogps = result.tokenLogps.subarray(token, token + continuation.length);
      token += continuation.length;
      const logps = result.logps[next] as number;
      next += 1;
      return { tokenLogps, logps };
    }));
  }

  /** All samples of request i at result[i], in sample order. `onResult` sees each as it ends. */
  async generate(items: readonly GenerationItem[], options: GenerateOptions = {}): Promise<Generated[][]> {
    const stop = this.stopTokens();
    const results: Generated[][] = items.map(() => []);
    const requests = items.map((item) => ({
      prompt: Int32Array.from(item.prompt),
      n: item.n ?? 1,
      maxNewTokens: item.max_new_tokens,
      temperature: item.temperature,
      topP: item.top_p ?? 1,
      topK: item.top_k ?? 0,
      minP: item.min_p ?? 0,
      seeds: sampleSeeds(item.seed ?? 0, item.n ?? 1),
      stopTokens: item.ignore_eos === true ? new Int32Array() : stop,
      stopStrings: [...(item.stop_strings ?? [])],
    }));
    if (requests.length === 0) return results;
    await this.clock.call(() => this.native.generate(requests, (result) => {
      const done = this.#finish(result, items[result.request]?.stop_strings ?? []);
      (results[result.request] as Generated[])[result.sample] = done;
      options.onResult?.(done);
    }, options.onToken, options.signal));
    return results;
  }

  #finish(result: GenerateResult, stopStrings: readonly string[]): Generated {
    let text = this.tokenizer?.decode(result.tokenIds, true) ?? "";
    if (result.finishReason === "stop_string") {
      const places = stopStrings.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
      if (places.length > 0) text = text.slice(0, Math.min(...places));
    }
    return {
      request: result.request, sample: result.sample, token_ids: result.tokenIds, logps: result.logps, text,
      finish_reason: result.finishReason === "length" ? "length" : "stop",
    };
  }

  /** A trainer whose steps, evaluations and gradients count as this engine's work. Making one is part of loading: memory is planned and taken. */
  async createTrainer(options: TrainOptions): Promise<NativeTrainer> {
    const { clock } = this;
    const trainer = await clock.load(() => this.native.createTrainer(options));
    return {
      plan: () => trainer.plan(),
      step: (batch, signal) => clock.call(() => trainer.step(batch, signal)),
      accumulate: (batch, signal) => clock.call(() => trainer.accumulate(batch, signal)),
      evaluate: (batch, signal) => clock.call(() => trainer.evaluate(batch, signal)),
      saveGradients: (path) => trainer.saveGradients(path),
      saveState: (dir, onTaken) => trainer.saveState(dir, onTaken),
      loadState: (dir) => clock.load(() => trainer.loadState(dir)),
      stepsDone: () => trainer.stepsDone(),
      close: () => trainer.close(),
    };
  }

  async close(): Promise<void> {
    await this.native.close();
  }
}

function tokenizerOf({ path, tokenizer, now = today }: EngineOptions): CheckpointTokenizer | null {
  if (tokenizer !== undefined) return tokenizer?.() ?? null;
  return existsSync(path) && hasTokenizer(path) ? openTokenizer(path, now) : null;
}

/** The addon wants bytes for every row of the embedding; padding rows and special tokens stand for none. */
function tokenBytesFor(tokenizer: CheckpointTokenizer, vocabSize: number): [Int32Array, Uint8Array] {
  const { offsets, bytes } = tokenizer.tokenBytes();
  if (offsets.length === vocabSize + 1) return [offsets, bytes];
  const fitted = new Int32Array(vocabSize + 1).fill(offsets[Math.min(vocabSize, offsets.length - 1)] as number);
  fitted.set(offsets.subarray(0, Math.min(offsets.length, vocabSize + 1)));
  return [fitted, bytes.subarray(0, fitted[vocabSize])];
}
