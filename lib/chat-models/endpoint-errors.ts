/** What an endpoint did wrong, in words a user can act on, and whether asking again may help. */
import { APIConnectionError, APIConnectionTimeoutError, APIError } from "openai";
import { RlhiError } from "../errors.js";

/** The server answered, but not with what was asked for. */
export class BadAnswer extends Error {
  override readonly name = "BadAnswer";
  constructor(readonly what: string, readonly body: string) {
    super(what);
  }
}

/** No complete answer within the time set. */
export class TimedOut extends Error {
  override readonly name = "TimedOut";
}

/** This one request gets no answer, however often it is asked; others get theirs. */
export class Refused extends Error {
  override readonly name = "Refused";
}

/** So many requests are refused that it is no longer about the one or the other. */
export class RefusesMost extends Error {
  override readonly name = "RefusesMost";
  constructor(readonly refused: number, readonly asked: number, readonly reason: string) {
    super(reason);
  }
}

const retriedStatuses = new Set([408, 409, 425, 429]);

export function isTransient(error: unknown): boolean {
  if (error instanceof BadAnswer || error instanceof TimedOut || error instanceof APIConnectionError) return true;
  if (error instanceof APIError && typeof error.status === "number") return retriedStatuses.has(error.status) || error.status >= 500;
  // A connection that breaks while the body is read.
  return !(error instanceof APIError) && isNetwork(error);
}

function isNetwork(error: unknown): boolean {
  return error instanceof Error && (error instanceof TypeError || causeCode(error) !== undefined || error.name === "AbortError");
}

/** "ECONNREFUSED", ... of the error or what caused it. */
export function causeCode(error: unknown): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const { code } = at as { code?: unknown };
    if (typeof code === "string") return code;
  }
  return undefined;
}

/** Statuses that say no to what was sent: to a parameter, to all of it, or to everybody. */
export function isRefusal(error: unknown): error is APIError {
  return error instanceof APIError && (error.status === 400 || error.status === 403 || error.status === 422);
}

/** Milliseconds the server asks to wait (Retry-After in seconds or as a date, or retry-after-ms), undefined where it does not say. */
export function retryAfterMs(error: unknown, now = Date.now()): number | undefined {
  if (!(error instanceof APIError)) return undefined;
  const headers = error.headers as Headers | undefined;
  const exact = headers?.get("retry-after-ms");
  if (exact !== null && exact !== undefined && Number.isFinite(Number(exact))) return Math.max(0, Number(exact));
  const value = headers?.get("retry-after");
  if (value === null || value === undefined || value.trim() === "") return undefined;
  const wait = Number.isFinite(Number(value)) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isNaN(wait) ? undefined : Math.max(0, wait);
}

export interface EndpointPlace {
  url: string;
  model: string;
  apiKeyEnv: string;
  attempts: number;
}

/** The error to show when an endpoint is given up on. */
export function endpointError(error: unknown, { url, model, apiKeyEnv, attempts }: EndpointPlace): RlhiError {
  const tried = attempts > 1 ? ` (asked ${attempts} times)` : "";
  const make = (what: string, found: string, todo: string): RlhiError => new RlhiError("ERR_ENDPOINT", { what: what + tried, where: `${url} (model ${model})`, found, todo, cause: error });
  if (error instanceof BadAnswer) return make(`the endpoint's answer cannot be used: ${error.what}`, excerpt(error.body), "check that the URL is the base of an OpenAI-compatible API (it usually ends in /v1)");
  if (error instanceof RefusesMost) return make(`the endpoint refuses ${error.refused} of ${error.asked} requests`, excerpt(error.reason), "see the server's message; where it is a content filter, use a server without it or leave such conversations out (data.include_flagged)");
  if (error instanceof TimedOut || error instanceof APIConnectionTimeoutError) return make("the endpoint does not answer in time", "no complete answer", "check the server, or raise endpoint.timeout_s or lower endpoint.concurrency");
  if (error instanceof APIError && typeof error.status === "number") return statusError(error, error.status, make, apiKeyEnv);
  const code = causeCode(error);
  const found = [code, rootMessage(error)].filter((part) => part !== undefined).join(": ");
  return make("the endpoint cannot be reached", found, "start the server, or correct the URL under `models`");
}

function statusError(error: APIError, status: number, make: (what: string, found: string, todo: string) => RlhiError, apiKeyEnv: string): RlhiError {
  const found = `HTTP ${status}: ${excerpt(error.message.replace(/^\d+ /, ""))}`;
  if (status === 401 || status === 403) return make("the endpoint refuses the key", found, `set the environment variable ${apiKeyEnv} (its name is endpoint.api_key_env)`);
  if (status === 404) return make("the endpoint does not know this URL or model", found, "correct the URL (it usually ends in /v1) or the model's name after #");
  if (status === 429) return make("the endpoint keeps limiting the rate", found, "lower endpoint.concurrency, set endpoint.requests_per_minute, or go on later: what was answered is kept");
  if (status >= 500) return make("the endpoint keeps failing", found, "look at the server's log; run the same command again to go on from here");
  return make("the endpoint refuses the request", found, "see the server's message");
}

function rootMessage(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause instanceof Error) at = at.cause;
  return at instanceof Error ? at.message : String(at);
}

function excerpt(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line === "" ? "an empty body" : line.length > 200 ? `${line.slice(0, 200)}…` : line;
}
