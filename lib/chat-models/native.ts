/** A chat model in this process: the embedded engine on a Hugging Face folder or a GGUF file. */
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { Engine } from "../engine/engine.js";
import type { GenerationItem, ScoreItem } from "../engine/engine.js";
import { sha256 } from "../files.js";
import type { ChatTokenizer } from "../tokens/types.js";
import { squeezeMessages } from "./fit.js";
import { choiceOf, expectation, letteredPrompt, scale, softmax } from "./labels.js";
import type { LetteredPrompt } from "./labels.js";
import type { BatchOptions, ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Score, ScoreRequest } from "./types.js";

/** Prompt tokens scored in one call: results reach the caller's file in such portions. */
const tokensPerCall = 8192;
/** Least room for an answer where the context is short. */
const leastAnswer = 16;

export async function openNativeChatModel(path: string, options: { dtype: RunConfig["dtype"]; threads: number }): Promise<ChatModel> {
  const engine = await Engine.open({ path, dtype: options.dtype, threads: options.threads });
  return new NativeChatModel(engine, engine.requireTokenizer());
}

/** What this model needs of the engine. */
export type ChatEngine = Pick<Engine, "path" | "info" | "score" | "generate" | "close">;

export class NativeChatModel implements ChatModel {
  readonly spec: string;
  readonly context_length: number;
  readonly #fingerprint: string;
  /** Log-probabilities of each letter where the prompt says nothing, by the prompt's fixed part. */
  readonly #priors = new Map<string, Promise<number[]>>();

  constructor(readonly engine: ChatEngine, readonly tokenizer: ChatTokenizer) {
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
    // An answer longer than half of the context leaves the other half to the prompt.
    const answer = Math.max(leastAnswer, Math.min(sampling.max_new_tokens, Math.floor(this.context_length / 2)));
    const prompt = [...this.#prompt(messages, this.context_length - answer - begun.length), ...begun];
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
      const prior = priors[index] as number[];
      return choiceOf((requests[index] as LabelRequest).labels, softmax(logps.map((logp, i) => logp - (prior[i] ?? 0))));
    });
  }

  #prior(request: LabelRequest, prompt: LetteredPrompt, signal: AbortSignal | undefined): Promise<number[]> {
    if (prompt.answers.every((answer, index) => answer === request.labels[index])) return Promise.resolve(prompt.answers.map(() => 0));
    const system = request.messages.filter(({ role }) => role === "system");
    const key = JSON.stringify([system, request.labels]);
    let prior = this.#priors.get(key);
    if (prior === undefined) {
      const blank = letteredPrompt([...system, { role: "user", content: "N/A" }], request.labels);
      prior = this.engine.score([this.#verdictItem(blank.messages, blank.answers, false)], { signal }).then(([scores]) => (scores ?? []).map(({ logps }) => logps));
      this.#priors.set(key, prior);
      prior.catch(() => this.#priors.delete(key));
    }
    return prior;
  }

  async score(requests: ScoreRequest[], options: BatchOptions<Score> = {}): Promise<Score[]> {
    const items = requests.map(({ messages, min, max }) => this.#verdictItem(messages, scale(min, max).map(String), true));
    return this.#scored(items, options, (logps, index) => {
      const { min, max } = requests[index] as ScoreRequest;
      const probabilities = softmax(logps);
      return { expected: expectation(scale(min, max), probabilities), probabilities };
    });
  }

  /** Answers as continuations of the prompt. Where one begins with another ("1", "10"), each is closed by the end of the turn. */
  #verdictItem(messages: Message[], answers: readonly string[], numbers: boolean): ScoreItem {
    const close = numbers && answers.some((answer) => answer.length !== answers[0]?.length);
    const continuations = answers.map((answer) => (close ? this.tokenizer.encodeAnswer(answer) : this.tokenizer.encode(answer)));
    const longest = Math.max(...continuations.map((ids) => ids.length));
    return { prompt: this.#prompt(messages, this.context_length - longest), continuations };
  }

  /** Sums of log-probabilities, in calls of bounded size, each result told as it is known. */
  async #scored<Result>(items: readonly ScoreItem[], options: BatchOptions<Result>, finish: (logps: number[], index: number) => Result): Promise<Result[]> {
    const results: Result[] = [];
    for (let from = 0; from < items.length;) {
      let to = from;
      let tokens = 0;
      let longest = 0;
      while (to < items.length && (to === from || tokens + size(items[to] as ScoreItem) <= tokensPerCall)) {
        tokens += size(items[to] as ScoreItem);
        longest = Math.max(longest, size(items[to] as ScoreItem));
        to += 1;
      }
      options.signal?.throwIfAborted();
      const scores = await this.engine.score(items.slice(from, to), { signal: options.signal, maxTokensPerMicroBatch: Math.max(2048, longest) });
      scores.forEach((continuations, offset) => {
        const result = finish(continuations.map(({ logps }) => logps), from + offset);
        results.push(result);
        options.onResult?.(from + offset, result);
      });
      from = to;
    }
    return results;
  }

  async close(): Promise<void> {
    await this.engine.close();
  }
}

function size({ prompt, continuations }: ScoreItem): number {
  return continuations.reduce((sum, ids) => sum + ids.length, prompt.length);
}
