/** A chat model in this process: the embedded engine on a Hugging Face folder or a GGUF file. */
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { Engine } from "../engine/engine.js";
import type { GenerationItem, ScoreItem } from "../engine/engine.js";
import { sha256 } from "../files.js";
import { fixedDate } from "../tokens/template.js";
import type { ChatTokenizer } from "../tokens/types.js";
import { promptBudget, squeezeMessages } from "./fit.js";
import { choiceOf, letteredPrompt, scale, scoreOf, softmax, undecided } from "./labels.js";
import type { LetteredPrompt } from "./labels.js";
import type { BatchOptions, ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Score, ScoreRequest } from "./types.js";

/** Prompt tokens scored in one call: results reach the caller's file in such portions. */
const tokensPerCall = 8192;

export interface NativeOptions {
  dtype: RunConfig["dtype"];
  device?: RunConfig["device"] | undefined;
  threads: number;
  /** Told once about prompts that get no verdict. */
  note?: ((text: string) => void) | undefined;
}

export async function openNativeChatModel(path: string, options: NativeOptions): Promise<ChatModel> {
  // The same request must be the same tokens on any day: answers are kept by their request, and stages go on days later.
  const engine = await Engine.open({ path, dtype: options.dtype, device: options.device, threads: options.threads, now: fixedDate });
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

  #toldTooLong = false;

  constructor(readonly engine: ChatEngine, readonly tokenizer: ChatTokenizer, readonly note?: (text: string) => void) {
    this.spec = `native:${engine.path}`;
    this.context_length = engine.info.maxPosition > 0 ? engine.info.maxPosition : Number.POSITIVE_INFINITY;
    this.#fingerprint = sha256([engine.info.fingerprint, engine.info.dtype, tokenizer.fingerprint].join(" ")).slice(0, 16);
  }

  fingerprint(): Promise<string> {
    return Promise.resolve(this.#fingerprint);
  }

  countTokens(messages: Message[]): number {
    return this.tokenizer.encodeChat(messages).length;
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
  #prompt(messages: Message[], budget: number): number[] {
    const ids = this.tokenizer.encodeChat(messages);
    if (ids.length <= budget) return ids;
    const count = (shorter: Message[]): number => this.tokenizer.encodeChat(shorter).length;
    return this.tokenizer.encodeChat(squeezeMessages(messages, { budget, count })).slice(-budget);
  }

  /**
   * Plain words compare by their own probability. Names that became letters are calibrated: a small model favours some
   * letters whatever it reads, so what it gives them on a prompt without content is taken off (Zhao et al., "Calibrate
   * Before Use", 2021).
   */
  async chooseLabel(requests: LabelRequest[], options: BatchOptions<LabelChoice> = {}): Promise<LabelChoice[]> {
    const prompts = requests.map(({ messages, labels }) => letteredPrompt(messages, labels));
    const priors = await Promise.all(requests.map((request, index) => this.#prior(request, prompts[index] as LetteredPrompt, options.signal)));
    const items = prompts.map(({ messages, answers }) => this.#verdictItem(messages, answers, false));
    return this.#scored(items, options, (logps, index) => {
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
    const items = requests.map(({ messages, min, max }) => this.#verdictItem(messages, scale(min, max).map(String), true));
    return this.#scored(items, options, (logps, index) => {
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
    const prompt = this.tokenizer.encodeChat(messages);
    if (prompt.length + longest <= this.context_length) return { prompt, continuations };
    if (!this.#toldTooLong) this.note?.(`${this.spec}: a prompt of ${prompt.length} tokens is longer than the model's context (${this.context_length}) and gets no verdict, as others like it`);
    this.#toldTooLong = true;
    return undefined;
  }

  /** Sums of log-probabilities (undefined for what cannot be asked), in calls of bounded size, each result told as it is known. */
  async #scored<Result>(items: readonly (ScoreItem | undefined)[], options: BatchOptions<Result>, finish: (logps: number[] | undefined, index: number) => Result): Promise<Result[]> {
    const results: Result[] = [];
    const tell = (index: number, logps: number[] | undefined): void => {
      const result = finish(logps, index);
      results[index] = result;
      options.onResult?.(index, result);
    };
    const asked = items.flatMap((item, index) => (item === undefined ? [] : [{ item, index }]));
    items.forEach((item, index) => {
      if (item === undefined) tell(index, undefined);
    });
    for (let from = 0; from < asked.length;) {
      const call = asked.slice(from, from + itemsInCall(asked, from));
      options.signal?.throwIfAborted();
      const longest = Math.max(...call.map(({ item }) => size(item)));
      const scores = await this.engine.score(call.map(({ item }) => item), { signal: options.signal, maxTokensPerMicroBatch: Math.max(2048, longest) });
      scores.forEach((continuations, offset) => tell((call[offset] as (typeof call)[number]).index, continuations.map(({ logps }) => logps)));
      from += call.length;
    }
    return results;
  }

  async close(): Promise<void> {
    await this.engine.close();
  }
}

/** How many of `asked` from `from` on go into one call: at least one, then as many as stay within tokensPerCall. */
function itemsInCall(asked: readonly { item: ScoreItem }[], from: number): number {
  let tokens = 0;
  let to = from;
  for (const { item } of asked.slice(from)) {
    tokens += size(item);
    if (to > from && tokens > tokensPerCall) break;
    to += 1;
  }
  return to - from;
}

function size({ prompt, continuations }: ScoreItem): number {
  return continuations.reduce((sum, ids) => sum + ids.length, prompt.length);
}
