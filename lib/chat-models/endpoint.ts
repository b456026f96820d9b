/**
 * One request to an OpenAI-compatible server, made to end: at most so many at once and a minute, each with a time limit,
 * asked again where that may help, and without the parameters the server turns out not to know. A request that is refused for
 * what it says ends as Refused, and the others go on.
 */
import OpenAI, { APIError } from "openai";
import PQueue from "p-queue";
import pRetry from "p-retry";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { BadAnswer, causeCode, endpointError, isRefusal, isTransient, Refused, RefusesMost, retryAfterMs, TimedOut } from "./endpoint-errors.js";

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

/** Those whose refusal some servers do not explain. */
const seldomNamed = ["response_format", "logprobs"] as const;

/** What a message about a parameter speaks of: names such as "stop" and "n" are words of other messages too. */
const aboutParameters = /parameter|argument|field|propert|option|support|recogni[sz]ed|unknown|unexpected|extra|invalid|permitted|allowed/i;

/** Asked with a request's own parameters and roles to learn whether those are what the server refuses. */
const harmlessText = "Reply with the word OK.";

/** From so many refused requests on, and where they are more than those answered, the endpoint is given up. */
const refusalsAtLeast = 20;

/** A server that asks to wait longer than this is not waited for. */
const longestWaitMs = 10 * 60_000;

export interface EndpointOptions extends Readonly<RunConfig["endpoint"]> {
  url: string;
  model: string;
  note?: ((text: string) => void) | undefined;
  /** First wait before asking again; it doubles each time. Default 1000. */
  retryBaseMs?: number | undefined;
}

export interface Asking<Result> {
  /** Throws BadAnswer where the answer is of no use, which counts as a failure to be tried again; Refused where asking again is none. */
  check: (answer: CompletionAnswer) => Result;
  /** Less of the messages, where the server finds them too long; undefined where less would not do. */
  shorten: (messages: readonly Message[]) => Message[] | undefined;
  signal: AbortSignal;
}

export class Endpoint {
  readonly unsupported = new Set<OptionalParameter>();
  readonly #client: OpenAI;
  readonly #queue: PQueue;
  /** Refusals are looked into one after the other: what the first brings to light often explains the rest. */
  readonly #inquiries = new PQueue({ concurrency: 1 });
  /** Least time between two requests leaving, in ms. */
  readonly #spacing: number;
  /** No request leaves before this time, by performance.now(): one just left, or met a rate limit, which holds for all. */
  #nextDeparture = 0;
  #everAnswered = false;
  #answered = 0;
  #refused = 0;
  #shortened = false;
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
   * Sends one request. Throws Refused where it alone gets no answer, RlhiError (ERR_ENDPOINT) when the endpoint is given up, the
   * signal's reason when aborted.
   */
  async complete<Result>(body: CompletionBody, asking: Asking<Result>): Promise<Result> {
    const { check, signal } = asking;
    for (let current = body; ;) {
      const dialect = this.#dialect();
      try {
        const result = await this.#persist(current, check, signal);
        this.#answered += 1;
        return result;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof Refused) throw this.#counted(error);
        if (!isRefusal(error)) throw error;
        current = await this.#instead(current, error, dialect, asking);
      }
    }
  }

  /** Asks until there is an answer or none is to be had. Throws RlhiError, or the server's (or check's) refusal as it is. */
  async #persist<Result>(body: CompletionBody, check: (answer: CompletionAnswer) => Result, signal: AbortSignal): Promise<Result> {
    let attempts = 0;
    try {
      return await pRetry(
        () => {
          attempts += 1;
          return this.#queue.add(() => this.#attempt(body, check, signal), { signal });
        },
        {
          retries: this.options.max_retries, minTimeout: 0, factor: 1, signal,
          shouldRetry: ({ error, attemptNumber }) => this.#mayRetry(error, attemptNumber, signal),
        },
      );
    } catch (error) {
      signal.throwIfAborted();
      throw isRefusal(error) || error instanceof Refused ? error : this.giveUp(error, attempts);
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
    return [...this.unsupported].reduce(without, body);
  }

  /** What to send instead of what was refused: without what the server does not know, or less where it was too long. Throws Refused where it is this request. */
  async #instead(body: CompletionBody, error: APIError, dialect: string, { shorten, signal }: Asking<unknown>): Promise<CompletionBody> {
    // Where another request has just found out what the server does not know, that may have been the trouble here too.
    if (dialect !== this.#dialect()) return body;
    const { message } = error;
    if (/max_completion_tokens/.test(message) && this.#maxTokensName === "max_tokens") {
      this.#maxTokensName = "max_completion_tokens";
      return body;
    }
    const fewer = isTooLong(message) ? shorten(body.messages) : undefined;
    if (fewer !== undefined) {
      if (!this.#shortened) this.options.note?.(`${this.options.url} finds prompts too long; they are sent again shorter: ${message.slice(0, 120)}`);
      this.#shortened = true;
      return { ...body, messages: fewer };
    }
    const named = this.#sent(body).find((name) => error.param === name || (aboutParameters.test(message) && new RegExp(`\\b(top_)?${name}\\b`).test(message)));
    if (named === undefined) return this.#inquiries.add(() => this.#inquire(body, error, dialect, signal), { signal });
    this.drop(named, message);
    return body;
  }

  /**
   * A refusal without a reason one can act on: is it the request, a parameter, or everything? A harmless request tells. Dropping
   * parameters on suspicion would change all later answers for one text that a content filter does not like.
   */
  async #inquire(body: CompletionBody, error: APIError, dialect: string, signal: AbortSignal): Promise<CompletionBody> {
    if (dialect !== this.#dialect()) return body;
    const harmless = { ...body, messages: body.messages.map(({ role }) => ({ role, content: harmlessText })) };
    if (await this.#isTaken(harmless, signal)) throw this.#counted(new Refused(error.message));
    for (const suspect of this.#sent(body).filter((name) => seldomNamed.some((one) => one === name))) {
      if (!(await this.#isTaken(without(harmless, suspect), signal))) continue;
      this.drop(suspect, error.message);
      return body;
    }
    throw this.giveUp(error);
  }

  async #isTaken(body: CompletionBody, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#persist(body, () => undefined, signal);
      return true;
    } catch (error) {
      signal.throwIfAborted();
      if (isRefusal(error)) return false;
      throw error;
    }
  }

  /** The error to throw for a refused request. */
  #counted(refused: Refused): Error {
    this.#refused += 1;
    if (this.#refused >= refusalsAtLeast && this.#refused > this.#answered) return this.giveUp(new RefusesMost(this.#refused, this.#refused + this.#answered, refused.message));
    if (this.#refused === 1) this.options.note?.(`${this.options.url} refuses a request, which counts as unanswered (as will others): ${refused.message.slice(0, 120)}`);
    return refused;
  }

  #sent(body: CompletionBody): OptionalParameter[] {
    return optionalParameters.filter((name) => body[name] !== undefined && !this.unsupported.has(name));
  }

  /** Does without a parameter from now on. */
  drop(parameter: OptionalParameter, reason: string): void {
    if (this.unsupported.has(parameter)) return;
    this.unsupported.add(parameter);
    this.options.note?.(`${this.options.url} does without ${parameter}: ${reason.slice(0, 120)}`);
  }
}

function isTooLong(message: string): boolean {
  return /context (length|window|size)|maximum.{0,30}(length|tokens)|too (long|many tokens)|exceed.{0,40}(context|tokens)/i.test(message);
}

function without(body: CompletionBody, parameter: OptionalParameter): CompletionBody {
  const { [parameter]: _, ...rest } = body;
  if (parameter === "logprobs") delete rest.top_logprobs;
  return rest;
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
