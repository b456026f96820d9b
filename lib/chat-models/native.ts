/** A chat model in this process: the embedded engine on a Hugging Face folder or a GGUF file. */
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import type { BusyClock } from "../engine/busy-clock.js";
import { Engine } from "../engine/engine.js";
import type { ContinuationScore, GenerationItem, ScoreItem } from "../engine/engine.js";
import { sha256 } from "../files.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import { fixedDate } from "../tokens/template.js";
import type { ChatTokenizer } from "../tokens/types.js";
import { EncodedChats } from "./encoded-chats.js";
import { promptBudget, squeezeMessages } from "./fit.js";
import { choiceOf, letteredPrompt, scale, scoreOf, softmax, undecided } from "./labels.js";
import type { LetteredPrompt } from "./labels.js";
import type { BatchOptions, ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Score, ScoreRequest } from "./types.js";

/** Prompt tokens scored in one call: results reach the caller's file in such portions. */
const tokensPerCall = 8192;
/** Calls given to the engine at once: the next one waits in its queue, so that the engine never waits for what is done with a result. */
const callsAhead = 2;

export interface NativeOptions {
  dtype: RunConfig["dtype"];
  device?: RunConfig["device"] | undefined;
  threads: number;
  /** Told once about prompts that get no verdict. */
  note?: ((text: string) => void) | undefined;
  /** Gives the model's tokenizer; default: opened from its path. */
  tokenizer?: (() => CheckpointTokenizer) | undefined;
  /** Counts the engine's work. */
  clock?: BusyClock | undefined;
}

export async function openNativeChatModel(path: string, options: NativeOptions): Promise<ChatModel> {
  // The same request must be the same tokens on any day: answers are kept by their request, and stages go on days later.
  const engine = await Engine.open({
    path, dtype: options.dtype, device: options.device, threads: options.threads, now: fixedDate, tokenizer: options.tokenizer, clock: options.clock,
  });
  return new NativeChatModel(engine, engine.requireTokenizer(), options.note);
}

/** What this model needs of the engine. */
export type ChatEngine = Pick<Engine, "path" | "info" | "score" | "generate" | "close">;

export class NativeChatModel implements ChatModel {
  readonly spec: string;
  readonly context_length: number;
  readonly #fingerprint: string;
  /** Log-probabilities of each letter where the prompt says nothing, by the prompt's fixed part. */
  readonly #priors = new Map<string, Promise<number[]>>();

  readonly #chats: EncodedChats;
  #toldTooLong = false;

  constructor(readonly engine: ChatEngine, readonly tokenizer: ChatTokenizer, readonly note?: (text: string) => void) {
    this.spec = `native:${engine.path}`;
    this.#chats = new EncodedChats(tokenizer);
    this.context_length = engine.info.maxPosition > 0 ? engine.info.maxPosition : Number.POSITIVE_INFINITY;
    this.#fingerprint = sha256([engine.info.fingerprint, engine.info.dtype, tokenizer.fingerprint].join(" ")).slice(0, 16);
  }

  fingerprint(): Promise<string> {
    return Promise.resolve(this.#fingerprint);
  }

  countTokens(messages: Message[]): number {
    return this.#chats.ids(messages).length;
  }

  async chat(requests: ChatRequest[], options: BatchOptions<Completion[]> = {}): Promise<Completion[][]> {
    const items = requests.map((request) => this.#generation(request));
    const results = requests.map((): Completion[] => []);
    const left = requests.map(({ n }) => n);
    await this.engine.generate(items, {
      signal: options.signal,
      onResult: ({ request, sample, text, finish_reason, token_ids }) => {
        const completions = results[request] as Completion[];
        completions[sample] = { text: (requests[request]?.prefix ?? "") + text, finish_reason, tokens: token_ids.length };
        left[request] = (left[request] as number) - 1;
        if (left[request] === 0) options.onResult?.(request, completions);
      },
    });
    return results;
  }

  #generation({ messages, n, sampling, prefix }: ChatRequest): GenerationItem {
    const begun = prefix === undefined || prefix === "" ? [] : this.tokenizer.encode(prefix);
    const prompt = [...this.#prompt(messages, promptBudget(this.context_length, sampling.max_new_tokens) - begun.length), ...begun];
    return {
      prompt,
      n,
      max_new_tokens: Math.min(sampling.max_new_tokens, Math.max(1, this.context_length - prompt.length)),
      temperature: sampling.temperature,
      top_p: sampling.top_p,
      top_k: sampling.top_k,
      min_p: sampling.min_p,
      seed: sampling.seed,
      stop_strings: sampling.stop,
    };
  }

  /** Ids of the chat, ready for the answer, in at most `budget` tokens by the context rule. */
  #prompt(messages: Message[], budget: number): readonly number[] {
    const ids = this.#chats.ids(messages);
    if (ids.length <= budget) return ids;
    return this.#chats.ids(squeezeMessages(messages, { budget, count: (shorter) => this.countTokens(shorter) })).slice(-budget);
  }

  /**
   * Plain words compare by their own probability. Names that became letters are calibrated: a small model favours some
   * letters whatever it reads, so what it gives them on a prompt without content is taken off (Zhao et al., "Calibrate
   * Before Use", 2021).
   */
  async chooseLabel(requests: LabelRequest[], options: BatchOptions<LabelChoice> = {}): Promise<LabelChoice[]> {
    const prompts = requests.map(({ messages, labels }) => letteredPrompt(messages, labels));
    const priors = await Promise.all(requests.map((request, index) => this.#prior(request, prompts[index] as LetteredPrompt, options.signal)));
    const itemAt = (index: number): ScoreItem | undefined => {
      const { messages, answers } = prompts[index] as LetteredPrompt;
      return this.#verdictItem(messages, answers, false);
    };
    return this.#scored(requests.length, itemAt, options, (logps, index) => {
      const { labels } = requests[index] as LabelRequest;
      const prior = priors[index] as number[];
      return choiceOf(labels, logps === undefined ? undecided(labels.length) : softmax(logps.map((logp, i) => logp - (prior[i] ?? 0))));
    });
  }

  #prior(request: LabelRequest, prompt: LetteredPrompt, signal: AbortSignal | undefined): Promise<number[]> {
    if (prompt.answers.every((answer, index) => answer === request.labels[index])) return Promise.resolve(prompt.answers.map(() => 0));
    const system = request.messages.filter(({ role }) => role === "system");
    const key = JSON.stringify([system, request.labels]);
    let prior = this.#priors.get(key);
    if (prior === undefined) {
      const blank = letteredPrompt([...system, { role: "user", content: "N/A" }], request.labels);
      const item = this.#verdictItem(blank.messages, blank.answers, false);
      prior = this.engine.score(item === undefined ? [] : [item], { signal }).then(([scores]) => (scores ?? []).map(({ logps }) => logps));
      this.#priors.set(key, prior);
      prior.catch(() => this.#priors.delete(key));
    }
    return prior;
  }

  async score(requests: ScoreRequest[], options: BatchOptions<Score> = {}): Promise<Score[]> {
    const itemAt = (index: number): ScoreItem | undefined => {
      const { messages, min, max } = requests[index] as ScoreRequest;
      return this.#verdictItem(messages, scale(min, max).map(String), true);
    };
    return this.#scored(requests.length, itemAt, options, (logps, index) => {
      const { min, max } = requests[index] as ScoreRequest;
      const values = scale(min, max);
      return scoreOf(values, logps === undefined ? undecided(values.length) : softmax(logps));
    });
  }

  /**
   * Answers as continuations of the prompt. Where one begins with another ("1", "10"), each is closed by the end of the turn.
   * undefined where the prompt is too long: cut here it would lose fences and headings and still be judged. Callers show less of
   * long texts instead (countTokens).
   */
  #verdictItem(messages: Message[], answers: readonly string[], numbers: boolean): ScoreItem | undefined {
    const close = numbers && answers.some((answer) => answer.length !== answers[0]?.length);
    const continuations = answers.map((answer) => (close ? this.tokenizer.encodeAnswer(answer) : this.tokenizer.encode(answer)));
    const longest = Math.max(...continuations.map((ids) => ids.length));
    const prompt = this.#chats.ids(messages);
    if (prompt.length + longest <= this.context_length) return { prompt, continuations };
    if (!this.#toldTooLong) this.note?.(`${this.spec}: a prompt of ${prompt.length} tokens is longer than the model's context (${this.context_length}) and gets no verdict, as others like it`);
    this.#toldTooLong = true;
    return undefined;
  }

  /**
   * Sums of log-probabilities (undefined for what cannot be asked), in calls of bounded size, each result told as it is known. Items
   * are made as their call comes, the first of them alone before the engine has work.
   */
  async #scored<Result>(count: number, itemAt: (index: number) => ScoreItem | undefined, options: BatchOptions<Result>, finish: (logps: number[] | undefined, index: number) => Result): Promise<Result[]> {
    const results: Result[] = [];
    const tell = (index: number, logps: number[] | undefined): void => {
      const result = finish(logps, index);
      results[index] = result;
      options.onResult?.(index, result);
    };
    const underWay: { call: Asked[]; scores: Promise<ContinuationScore[][]> }[] = [];
    const finishOldest = async (): Promise<void> => {
      const { call, scores } = underWay.shift() as (typeof underWay)[number];
      (await scores).forEach((continuations, place) => tell((call[place] as Asked).index, continuations.map(({ logps }) => logps)));
    };
    const begin = (call: Asked[]): void => {
      options.signal?.throwIfAborted();
      const longest = Math.max(...call.map(({ item }) => size(item)));
      const scores = this.engine.score(call.map(({ item }) => item), { signal: options.signal, maxTokensPerMicroBatch: Math.max(2048, longest) });
      // A failure is told where it is awaited; after the first one nobody asks for the rest.
      scores.catch(() => undefined);
      underWay.push({ call, scores });
    };
    let call: Asked[] = [];
    let tokens = 0;
    for (let index = 0; index < count; index += 1) {
      const item = itemAt(index);
      if (item === undefined) {
        tell(index, undefined);
        continue;
      }
      if (call.length > 0 && tokens + size(item) > tokensPerCall) {
        begin(call);
        [call, tokens] = [[], 0];
        if (underWay.length === callsAhead) await finishOldest();
      }
      call.push({ item, index });
      tokens += size(item);
    }
    if (call.length > 0) begin(call);
    while (underWay.length > 0) await finishOldest();
    return results;
  }

  async close(): Promise<void> {
    await this.engine.close();
  }
}

/** An item and its place among the requests. */
interface Asked {
  item: ScoreItem;
  index: number;
}

function size({ prompt, continuations }: ScoreItem): number {
  return continuations.reduce((sum, ids) => sum + ids.length, prompt.length);
}
