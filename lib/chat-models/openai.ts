/**
 * A chat model behind an OpenAI-compatible endpoint. Labels and scores are read from the log-probabilities of the first
 * token where the server gives them; else they are structured output, which is one verdict without a distribution.
 */
import { setMaxListeners } from "node:events";
import { UsageError } from "../errors.js";
import type { Message } from "../conversations/types.js";
import { Endpoint } from "./endpoint.js";
import type { Asking, CompletionAnswer, CompletionBody, CompletionChoice, EndpointOptions } from "./endpoint.js";
import { BadAnswer, Refused } from "./endpoint-errors.js";
import { parseJsonLoosely } from "../text/json.js";
import { shorterChat, shorterPrompt } from "./fit.js";
import { answerBegunBy, choiceOf, letteredPrompt, scale, scoreOf, softmax, undecided, withAppendix } from "./labels.js";
import type { OpenOptions } from "./open.js";
import type { BatchOptions, ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Score, ScoreRequest } from "./types.js";

/** Least share of the first token's probability that must lie on the answers asked for; below, its log-probabilities say nothing. */
const leastMass = 0.25;
/** Tokens for a verdict as JSON. */
const verdictTokens = 64;

export function openEndpoint(spec: string, options: OpenOptions): ChatModel {
  const match = /^openai:(https?:\/\/[^#]+)#(.+)$/.exec(spec);
  if (match === null) throw new UsageError({ what: "not an endpoint", where: spec, expected: "openai:URL#model, e.g. openai:http://127.0.0.1:8000/v1#my-model", todo: "correct the setting under `models`" });
  return new EndpointChatModel(spec, { ...options.endpoint, url: match[1] as string, model: match[2] as string, note: options.note, retryBaseMs: options.retryBaseMs });
}

/** Answers that name none of the things asked for. */
interface Unusable {
  asked: number;
  unusable: number;
}

export class EndpointChatModel implements ChatModel {
  readonly context_length = Number.POSITIVE_INFINITY;
  readonly #endpoint: Endpoint;
  readonly #unusable: Unusable = { asked: 0, unusable: 0 };
  #emptyInARow = 0;
  #givesLogprobs = false;

  constructor(readonly spec: string, readonly options: EndpointOptions) {
    this.#endpoint = new Endpoint(options);
  }

  fingerprint(): Promise<string> {
    return Promise.resolve(`openai:${this.options.url}#${this.options.model}`);
  }

  /** An estimate: four characters a token, and four tokens around each message. */
  countTokens(messages: Message[]): number {
    return messages.reduce((sum, { content }) => sum + Math.ceil(content.length / 4) + 4, 0);
  }

  chat(requests: ChatRequest[], options?: BatchOptions<Completion[]>): Promise<Completion[][]> {
    const refused: Completion = { text: "", finish_reason: "refused", tokens: 0 };
    return this.#all(requests, options, (request, signal) => unlessRefused(this.#samples(request, shorterChat, signal), Array.from({ length: request.n }, () => ({ ...refused }))));
  }

  chooseLabel(requests: LabelRequest[], options?: BatchOptions<LabelChoice>): Promise<LabelChoice[]> {
    return this.#all(requests, options, async (request, signal) => choiceOf(request.labels, await unlessRefused(this.#label(request, signal), undecided(request.labels.length))));
  }

  score(requests: ScoreRequest[], options?: BatchOptions<Score>): Promise<Score[]> {
    return this.#all(requests, options, async (request, signal) => {
      const values = scale(request.min, request.max);
      return scoreOf(values, await unlessRefused(this.#number(request, values, signal), undecided(values.length)));
    });
  }

  async close(): Promise<void> {}

  /** Every request at its own pace; the first that is given up ends the others and rejects. */
  async #all<Request, Result>(requests: readonly Request[], options: BatchOptions<Result> | undefined, one: (request: Request, signal: AbortSignal) => Promise<Result>): Promise<Result[]> {
    const failed = new AbortController();
    const signal = options?.signal === undefined ? failed.signal : AbortSignal.any([options.signal, failed.signal]);
    // Each request under way listens to it.
    setMaxListeners(0, signal);
    signal.throwIfAborted();
    const results: Result[] = [];
    let next = 0;
    // More workers than connections, so that a worker waiting to ask again leaves no connection idle.
    const worker = async (): Promise<void> => {
      while (next < requests.length) {
        const index = next++;
        const result = await one(requests[index] as Request, signal);
        results[index] = result;
        options?.onResult?.(index, result);
      }
    };
    const workers = Array.from({ length: Math.min(requests.length, this.options.concurrency * 2) }, async () => {
      try {
        await worker();
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    });
    const outcomes = await Promise.allSettled(workers);
    options?.signal?.throwIfAborted();
    if (failed.signal.aborted) throw failed.signal.reason;
    const bad = outcomes.find((outcome) => outcome.status === "rejected");
    if (bad !== undefined) throw bad.reason;
    return results;
  }

  /** n samples, by one request where the server can, else by as many as it takes. */
  async #samples(request: ChatRequest, shorten: Asking<unknown>["shorten"], signal: AbortSignal): Promise<Completion[]> {
    const completions: Completion[] = [];
    while (completions.length < request.n) {
      const left = request.n - completions.length;
      const n = this.#endpoint.unsupported.has("n") ? 1 : left;
      const answer = await this.#endpoint.complete(this.#chatBody(request, n, completions.length), { check: unfiltered, shorten, signal });
      if (answer.choices.length < n) this.#endpoint.drop("n", `${answer.choices.length} of ${n} samples came back`);
      for (const choice of answer.choices.slice(0, n)) completions.push(this.#completion(choice, answer, n));
    }
    return completions;
  }

  #chatBody({ messages, sampling, json_schema }: ChatRequest, n: number, first: number): CompletionBody {
    const structured = json_schema !== undefined && !this.#endpoint.unsupported.has("response_format");
    return {
      messages: json_schema !== undefined && !structured ? withAppendix(messages, `\n\nReply with one JSON object of this schema and nothing else:\n${JSON.stringify(json_schema.schema)}`) : messages,
      max_tokens: sampling.max_new_tokens,
      temperature: sampling.temperature,
      top_p: sampling.top_p,
      seed: sampleSeed(sampling.seed, first),
      ...(sampling.top_k === undefined || sampling.top_k === 0 ? {} : { top_k: sampling.top_k }),
      ...(sampling.min_p === undefined || sampling.min_p === 0 ? {} : { min_p: sampling.min_p }),
      ...(sampling.stop === undefined || sampling.stop.length === 0 ? {} : { stop: sampling.stop }),
      ...(n === 1 ? {} : { n }),
      ...(structured ? { response_format: { type: "json_schema", json_schema: { ...json_schema, strict: true } } } : {}),
    };
  }

  /** An empty text is an answer, unless the endpoint gives nothing else. */
  #completion(choice: CompletionChoice, answer: CompletionAnswer, n: number): Completion {
    if (isFiltered(choice)) return { text: "", finish_reason: "refused", tokens: 0 };
    const text = choice.message.content ?? "";
    this.#emptyInARow = text.trim() === "" ? this.#emptyInARow + 1 : 0;
    if (this.#emptyInARow >= 20) throw this.#formatError("20 empty answers in a row", JSON.stringify(choice));
    return { text, finish_reason: endedByItself.has(choice.finish_reason ?? "stop") ? "stop" : "length", tokens: n === 1 ? (answer.usage?.completion_tokens ?? Math.ceil(text.length / 4)) : Math.ceil(text.length / 4) };
  }

  async #label({ messages, labels }: LabelRequest, signal: AbortSignal): Promise<number[]> {
    return (await this.#labelByLogprobs(messages, labels, signal)) ?? this.#labelByName(messages, labels, signal);
  }

  async #number({ messages, min, max }: ScoreRequest, values: readonly number[], signal: AbortSignal): Promise<number[]> {
    // One token a number only below ten.
    const byDigits = min >= 0 && max <= 9 ? await this.#firstTokenProbabilities(messages, values.map(String), signal) : undefined;
    return byDigits ?? this.#scoreByNumber(messages, values, signal);
  }

  async #labelByLogprobs(messages: readonly Message[], labels: readonly string[], signal: AbortSignal): Promise<number[] | undefined> {
    const lettered = letteredPrompt(messages, labels);
    return this.#firstTokenProbabilities(lettered.messages, lettered.answers, signal);
  }

  /** Distribution over `answers` by the first token; undefined where the server does not tell, or thinks of something else. */
  async #firstTokenProbabilities(messages: Message[], answers: readonly string[], signal: AbortSignal): Promise<number[] | undefined> {
    if (this.#endpoint.unsupported.has("logprobs")) return undefined;
    const body: CompletionBody = { messages, max_tokens: 1, temperature: 0, logprobs: true, top_logprobs: 20 };
    const { choices } = await this.#endpoint.complete(body, { check: unfiltered, shorten: shorterPrompt, signal });
    const top = choices[0]?.logprobs?.content?.[0]?.top_logprobs;
    this.#givesLogprobs ||= top !== undefined;
    // One answer without them, from a server that gave them before, must not change how later verdicts are taken.
    if (top === undefined && this.#givesLogprobs) return undefined;
    if (top === undefined) {
      this.#endpoint.drop("logprobs", "the answer carries none; verdicts are taken as structured output");
      return undefined;
    }
    const masses = answers.map(() => 0);
    for (const { token, logprob } of top) {
      const index = answerBegunBy(token, answers);
      if (index >= 0) masses[index] = (masses[index] as number) + Math.exp(logprob);
    }
    if (masses.reduce((sum, mass) => sum + mass, 0) < leastMass) return undefined;
    return softmax(masses.map((mass) => (mass === 0 ? -30 : Math.log(mass))));
  }

  #labelByName(messages: readonly Message[], labels: readonly string[], signal: AbortSignal): Promise<number[]> {
    const schema = { type: "object", properties: { label: { type: "string", enum: [...labels] } }, required: ["label"], additionalProperties: false };
    const prompt = withAppendix(messages, `\n\nReply with JSON: {"label": one of ${labels.map((label) => JSON.stringify(label)).join(", ")}}.`);
    return this.#verdict(prompt, { name: "label", schema }, labels.length, (text) => {
      const named = (parseJsonLoosely(text) as { label?: unknown } | undefined)?.label;
      return labels.indexOf(typeof named === "string" ? named : mentioned(text, labels));
    }, signal);
  }

  #scoreByNumber(messages: readonly Message[], values: readonly number[], signal: AbortSignal): Promise<number[]> {
    const [min, max] = [values[0] as number, values[values.length - 1] as number];
    const schema = { type: "object", properties: { score: { type: "integer", minimum: min, maximum: max } }, required: ["score"], additionalProperties: false };
    const prompt = withAppendix(messages, `\n\nReply with JSON: {"score": a whole number from ${min} to ${max}}.`);
    return this.#verdict(prompt, { name: "score", schema }, values.length, (text) => {
      const given = (parseJsonLoosely(text) as { score?: unknown } | undefined)?.score ?? /-?\d+/.exec(text)?.[0];
      return values.indexOf(Math.round(Number(given ?? Number.NaN)));
    }, signal);
  }

  /** One-hot over the options; all alike where three answers in a row name none (the caller then sees no preference). */
  async #verdict(messages: Message[], json: { name: string; schema: Record<string, unknown> }, options: number, read: (text: string) => number, signal: AbortSignal): Promise<number[]> {
    this.#unusable.asked += 1;
    let last = "";
    for (let attempt = 0; attempt < 3; attempt++) {
      const request: ChatRequest = { messages, n: 1, json_schema: json, sampling: { max_new_tokens: verdictTokens, temperature: attempt === 0 ? 0 : 0.7, top_p: 1, seed: attempt } };
      const [completion] = await this.#samples(request, shorterPrompt, signal);
      last = completion?.text ?? "";
      const chosen = read(last);
      if (chosen >= 0) return Array.from({ length: options }, (_, index) => (index === chosen ? 1 : 0));
    }
    this.#unusable.unusable += 1;
    const { asked, unusable } = this.#unusable;
    if (unusable >= 5 && unusable > asked * 0.2) throw this.#formatError(`${unusable} of ${asked} verdicts name none of the options`, last);
    this.options.note?.(`${this.options.url}: a verdict names none of the options and counts as undecided`);
    return undecided(options);
  }

  #formatError(what: string, body: string): Error {
    return this.#endpoint.giveUp(new BadAnswer(what, body));
  }
}

/** What answers that came to their own end are said to end with: OpenAI's word, and those of servers that keep their engine's (Together, TGI). Anything else was cut. */
const endedByItself: ReadonlySet<string> = new Set(["stop", "eos", "eos_token", "stop_sequence"]);

function isFiltered({ finish_reason }: CompletionChoice): boolean {
  return finish_reason === "content_filter";
}

/** An answer that a filter cut away is as if the request had been refused. */
function unfiltered(answer: CompletionAnswer): CompletionAnswer {
  if (answer.choices.every(isFiltered)) throw new Refused("the answer ended with finish_reason content_filter");
  return answer;
}

/** `otherwise` where the endpoint refuses this request. */
async function unlessRefused<Result>(work: Promise<Result>, otherwise: Result): Promise<Result> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Refused) return otherwise;
    throw error;
  }
}

/** The one label that stands in the text; "" where none or more than one does. */
function mentioned(text: string, labels: readonly string[]): string {
  const found = labels.filter((label) => text.includes(label));
  // One label may be part of another: the longest counts.
  const longest = found.filter((label) => !found.some((other) => other !== label && other.includes(label)));
  return longest.length === 1 ? (longest[0] as string) : "";
}

/** A 31-bit seed for sample `index` of a request. */
function sampleSeed(seed: number, index: number): number {
  return (seed + Math.imul(index, 0x9e3779b1)) & 0x7fffffff;
}
