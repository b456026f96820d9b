/**
 * One request to an OpenAI-compatible server, made to end: at most so many at once and a minute, each with a time limit,
 * asked again where that may help, and without the parameters the server turns out not to know.
 */
import OpenAI, { APIError } from "openai";
import PQueue from "p-queue";
import pRetry from "p-retry";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { squeezeMessages } from "./fit.js";
import { BadAnswer, causeCode, endpointError, isTransient, retryAfterMs, TimedOut } from "./endpoint-errors.js";

/** Body of POST /chat/completions, as far as it is used here. */
export interface CompletionBody {
  messages: Message[];
  max_tokens: number;
  temperature: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  stop?: string[];
  n?: number;
  logprobs?: boolean;
  top_logprobs?: number;
  response_format?: { type: "json_schema"; json_schema: { name: string; schema: Record<string, unknown>; strict: boolean } };
}

export interface CompletionChoice {
  message: { content: string | null };
  finish_reason: string | null;
  logprobs?: { content?: { token: string; logprob: number; top_logprobs?: { token: string; logprob: number }[] }[] | null } | null;
}

export interface CompletionAnswer {
  choices: CompletionChoice[];
  usage?: { completion_tokens?: number };
}

/** Parameters some servers do not know: left out from the first refusal on. */
const optionalParameters = ["response_format", "logprobs", "n", "seed", "top_k", "min_p", "stop", "top_p"] as const;
export type OptionalParameter = (typeof optionalParameters)[number];

/** A server that asks to wait longer than this is not waited for. */
const longestWaitMs = 10 * 60_000;

export interface EndpointOptions extends Readonly<RunConfig["endpoint"]> {
  url: string;
  model: string;
  note?: ((text: string) => void) | undefined;
  /** First wait before asking again; it doubles each time. Default 1000. */
  retryBaseMs?: number | undefined;
}

export class Endpoint {
  readonly unsupported = new Set<OptionalParameter>();
  readonly #client: OpenAI;
  readonly #queue: PQueue;
  /** Least time between two requests leaving, in ms. */
  readonly #spacing: number;
  /** No request leaves before this time, by performance.now(): one just left, or met a rate limit, which holds for all. */
  #nextDeparture = 0;
  #everAnswered = false;
  #maxTokensName: "max_tokens" | "max_completion_tokens" = "max_tokens";

  constructor(readonly options: EndpointOptions) {
    this.#client = new OpenAI({
      baseURL: options.url,
      // The client insists on a key; servers without one ignore it.
      apiKey: process.env[options.api_key_env] || "none",
      maxRetries: 0,
      timeout: Math.ceil(options.timeout_s * 1000),
    });
    this.#spacing = options.requests_per_minute > 0 ? Math.ceil(60_000 / options.requests_per_minute) : 0;
    this.#queue = new PQueue({ concurrency: options.concurrency });
  }

  /**
   * Sends one request. `check` throws BadAnswer where the answer is of no use, which counts as a failure to be tried again.
   * Throws RlhiError (ERR_ENDPOINT) when given up, the signal's reason when aborted.
   */
  async complete<Result>(body: CompletionBody, check: (answer: CompletionAnswer) => Result, signal: AbortSignal): Promise<Result> {
    let current = body;
    let attempts = 0;
    try {
      return await pRetry(
        async () => {
          for (;;) {
            attempts += 1;
            const dialect = this.#dialect();
            try {
              return await this.#queue.add(() => this.#attempt(current, check, signal), { signal });
            } catch (error) {
              signal.throwIfAborted();
              // Where another request has just found out what the server does not know, that may have been the trouble here too.
              const adapted = isRefusal(error) && dialect !== this.#dialect() ? current : this.#adapt(current, error);
              if (adapted === undefined) throw error;
              current = adapted;
            }
          }
        },
        {
          retries: this.options.max_retries, minTimeout: 0, factor: 1, signal,
          shouldRetry: ({ error, attemptNumber }) => this.#mayRetry(error, attemptNumber, signal),
        },
      );
    } catch (error) {
      signal.throwIfAborted();
      throw this.giveUp(error, attempts);
    }
  }

  /** The error to throw when nothing more can be tried. */
  giveUp(error: unknown, attempts = 1): Error {
    return endpointError(error, { url: this.options.url, model: this.options.model, apiKeyEnv: this.options.api_key_env, attempts });
  }

  /** Waits before another attempt, or says that none is worth it. */
  async #mayRetry(error: Error, attempt: number, signal: AbortSignal): Promise<boolean> {
    if (!isTransient(error)) return false;
    const code = causeCode(error);
    if (!this.#everAnswered && (code === "ECONNREFUSED" || code === "ENOTFOUND") && attempt > 2) return false;
    const asked = retryAfterMs(error);
    if (asked !== undefined && asked > longestWaitMs) return false;
    const growing = Math.min(60_000, (this.options.retryBaseMs ?? 1000) * 2 ** (attempt - 1));
    // Spread, so that requests that failed together do not come back together.
    const wait = asked ?? growing * (0.75 + 0.5 * Math.random());
    if (asked !== undefined || (error instanceof APIError && error.status === 429)) this.#nextDeparture = Math.max(this.#nextDeparture, performance.now() + wait);
    if (wait >= 2000) this.options.note?.(`${this.options.url}: ${error.message.slice(0, 80)}; asking again in ${Math.round(wait / 1000)} s`);
    await sleep(wait, undefined, { signal });
    return true;
  }

  /**
   * Waits for this request's turn. It is taken at the moment of leaving, not on entering the queue: after a pause the requests
   * that waited through it would otherwise leave together.
   */
  async #departure(signal: AbortSignal): Promise<void> {
    for (let now = performance.now(); now < this.#nextDeparture; now = performance.now()) await sleep(Math.ceil(this.#nextDeparture - now), undefined, { signal });
    this.#nextDeparture = performance.now() + this.#spacing;
  }

  async #attempt<Result>(body: CompletionBody, check: (answer: CompletionAnswer) => Result, signal: AbortSignal): Promise<Result> {
    await this.#departure(signal);
    // The client's own limit ends with the headers; this one covers the body too.
    const deadline = AbortSignal.timeout(Math.ceil(this.options.timeout_s * 1000));
    const text = await this.#send(body, AbortSignal.any([signal, deadline])).catch((error: unknown) => {
      throw deadline.aborted && !signal.aborted ? new TimedOut(`no complete answer within ${this.options.timeout_s} s`) : error;
    });
    const result = check(parseAnswer(text));
    this.#everAnswered = true;
    return result;
  }

  async #send(body: CompletionBody, signal: AbortSignal): Promise<string> {
    const { max_tokens, ...rest } = this.#supported(body);
    const full = { ...rest, model: this.options.model, [this.#maxTokensName]: max_tokens, stream: false };
    const response = await this.#client.chat.completions.create(full as OpenAI.ChatCompletionCreateParamsNonStreaming, { signal }).asResponse();
    return response.text();
  }

  /** Changes when what is sent to this server does. */
  #dialect(): string {
    return [this.#maxTokensName, ...this.unsupported].join(" ");
  }

  #supported(body: CompletionBody): CompletionBody {
    const supported = { ...body };
    for (const name of this.unsupported) delete supported[name];
    if (this.unsupported.has("logprobs")) delete supported.top_logprobs;
    return supported;
  }

  /** The request without what the server just refused, or shorter where it was too long; undefined where nothing can be done. */
  #adapt(body: CompletionBody, error: unknown): CompletionBody | undefined {
    if (!isRefusal(error)) return undefined;
    const message = error.message;
    if (/max_completion_tokens/.test(message) && this.#maxTokensName === "max_tokens") {
      this.#maxTokensName = "max_completion_tokens";
      return body;
    }
    if (/context (length|window|size)|maximum.{0,30}(length|tokens)|too (long|many tokens)|exceed.{0,40}(context|tokens)/i.test(message)) return shorter(body);
    const sent = optionalParameters.filter((name) => body[name] !== undefined && !this.unsupported.has(name));
    const named = sent.find((name) => new RegExp(`\\b(top_)?${name}\\b`).test(message));
    const suspect = named ?? sent.find((name) => name === "response_format" || name === "logprobs");
    if (suspect === undefined) return undefined;
    this.drop(suspect, message);
    return body;
  }

  /** Does without a parameter from now on. */
  drop(parameter: OptionalParameter, reason: string): void {
    if (this.unsupported.has(parameter)) return;
    this.unsupported.add(parameter);
    this.options.note?.(`${this.options.url} does without ${parameter}: ${reason.slice(0, 120)}`);
  }
}

function isRefusal(error: unknown): error is APIError {
  return error instanceof APIError && (error.status === 400 || error.status === 422);
}

/** A quarter of the text goes, the oldest turns first; undefined where there is hardly any left. */
function shorter(body: CompletionBody): CompletionBody | undefined {
  const budget = Math.floor(characters(body.messages) * 0.75);
  return budget < 400 ? undefined : { ...body, messages: squeezeMessages(body.messages, { budget, count: characters }) };
}

function characters(messages: readonly Message[]): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

function parseAnswer(text: string): CompletionAnswer {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new BadAnswer(text.trim() === "" ? "an empty answer" : "not JSON", text);
  }
  const choices = (value as { choices?: unknown } | null)?.choices;
  if (!Array.isArray(choices) || choices.length === 0 || !choices.every(isChoice)) throw new BadAnswer("no choices with messages in it", text);
  return value as CompletionAnswer;
}

function isChoice(choice: unknown): choice is CompletionChoice {
  const message = (choice as { message?: unknown } | null)?.message;
  return typeof message === "object" && message !== null;
}
