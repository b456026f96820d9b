/**
 * A small OpenAI-compatible server on loopback. Its answers follow from the request alone, so that any order, retry or second
 * run gives the same; it can also fail in every way servers do.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ServerRequest {
  model: string;
  messages: { role: string; content: string }[];
  max_tokens?: number;
  max_completion_tokens?: number;
  temperature?: number;
  seed?: number;
  n?: number;
  logprobs?: boolean;
  response_format?: { type: string; json_schema?: { name: string } };
}

/** What to do with one request instead of answering it. */
export type Misbehaviour =
  | { kind: "status"; status: number; headers?: Record<string, string>; message?: string }
  | { kind: "body"; body: string; contentType?: string }
  | { kind: "drop" }
  | { kind: "hang" }
  /** Headers and half of the body, then nothing. */
  | { kind: "stall" };

export interface ServerOptions {
  /** Gives top_logprobs where they are asked for; else ignores the request for them. Default true. */
  logprobs?: boolean;
  /** Refuses response_format, n, seed, ... with 400 and their name in the message. */
  refuses?: string[];
  /** Gives one choice whatever n says. */
  ignoresN?: boolean;
  /** Answers of chat requests, instead of the usual ones. */
  answer?: (request: ServerRequest) => string | undefined;
  /** finish_reason of an answer, instead of "stop". */
  finish?: (request: ServerRequest) => string | null | undefined;
  /** Looked at first, `count` is the number of earlier requests. */
  misbehave?: (request: ServerRequest, count: number) => Misbehaviour | undefined;
  delayMs?: number;
  apiKey?: string;
}

export interface TestServer {
  /** Base URL, ending in /v1. */
  url: string;
  /** Setting of a chat model: openai:URL#tiny. */
  spec: string;
  requests: ServerRequest[];
  /** When each request came, in ms. */
  times: number[];
  /** Highest number of requests under way at once. */
  peak: () => number;
  options: ServerOptions;
  close: () => Promise<void>;
}

export async function startOpenAiServer(options: ServerOptions = {}): Promise<TestServer> {
  const requests: ServerRequest[] = [];
  const times: number[] = [];
  let underWay = 0;
  let peak = 0;
  const server = createServer((incoming, response) => {
    underWay += 1;
    peak = Math.max(peak, underWay);
    response.on("close", () => (underWay -= 1));
    void respond(incoming, response);
  });
  const respond = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    if (incoming.url !== "/v1/chat/completions") return reply(response, 404, { error: { message: "no such path" } });
    if (options.apiKey !== undefined && incoming.headers.authorization !== `Bearer ${options.apiKey}`) return reply(response, 401, { error: { message: "wrong key" } });
    const request = JSON.parse(Buffer.concat(parts).toString()) as ServerRequest;
    const bad = options.misbehave?.(request, requests.length);
    requests.push(request);
    times.push(Date.now());
    if (options.delayMs !== undefined) await new Promise((resolve) => setTimeout(resolve, options.delayMs));
    if (bad !== undefined) return misbehave(response, bad);
    const refused = options.refuses?.find((name) => name in request);
    if (refused !== undefined) return reply(response, 400, { error: { message: `Unrecognized request argument supplied: ${refused}` } });
    reply(response, 200, completion(request, options));
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  return {
    url, spec: `openai:${url}#tiny`, requests, times, peak: () => peak, options,
    close: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(() => resolve());
    }),
  };
}

function misbehave(response: ServerResponse, bad: Misbehaviour): void {
  switch (bad.kind) {
    case "status":
      for (const [name, value] of Object.entries(bad.headers ?? {})) response.setHeader(name, value);
      return reply(response, bad.status, { error: { message: bad.message ?? "made to fail" } });
    case "body":
      response.writeHead(200, { "content-type": bad.contentType ?? "application/json" });
      response.end(bad.body);
      return;
    case "drop":
      response.destroy();
      return;
    case "stall":
      response.writeHead(200, { "content-type": "application/json" });
      response.write('{"choices": [');
      return;
    case "hang":
  }
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

function hash(...parts: unknown[]): number {
  return createHash("sha256").update(JSON.stringify(parts)).digest().readUInt32BE(0);
}

function completion(request: ServerRequest, options: ServerOptions): unknown {
  const n = options.ignoresN === true ? 1 : (request.n ?? 1);
  const verdict = request.logprobs === true && options.logprobs !== false;
  const ending = options.finish?.(request);
  const choices = Array.from({ length: n }, (_, index) => {
    const text = verdict ? bestToken(request) : (options.answer?.(request) ?? answer(request, index));
    return { index, message: { role: "assistant", content: text }, finish_reason: ending === undefined ? "stop" : ending, logprobs: verdict ? { content: [{ token: text, logprob: -0.1, top_logprobs: tokens(request) }] } : null };
  });
  return { id: "test", object: "chat.completion", model: request.model, choices, usage: { completion_tokens: 10 } };
}

const lastText = (request: ServerRequest): string => request.messages.at(-1)?.content ?? "";

/** Words or letters or digits that the prompt asks for, with probabilities by a hash. Longer answers score higher. */
function tokens(request: ServerRequest): { token: string; logprob: number }[] {
  const prompt = lastText(request);
  if (/number from 1/.test(prompt)) {
    const score = 1 + (hash(request.messages) % 9);
    return Array.from({ length: 9 }, (_, i) => ({ token: String(i + 1), logprob: Math.log(i + 1 === score ? 0.8 : 0.02) }));
  }
  const words = /(?:Answer with one word|Which word): ([\w, ]+?)[.?]/.exec(prompt)?.[1]?.split(/, | or /) ?? (/Reply with A or B/.test(prompt) ? ["A", "B"] : [...prompt.matchAll(/^([A-Z])\. /gm)].map(([, letter]) => letter as string));
  // A prompt that asks for none of these: the model would go on in prose.
  if (words.length === 0) return [{ token: "The", logprob: -0.2 }];
  const chosen = hash(request.messages) % words.length;
  return words.map((token, i) => ({ token, logprob: Math.log(i === chosen ? 0.9 : 0.1 / Math.max(1, words.length - 1)) }));
}

function bestToken(request: ServerRequest): string {
  return [...tokens(request)].sort((a, b) => b.logprob - a.logprob)[0]?.token ?? "?";
}

const topics = ["soil", "bread", "rivers", "maps", "tea", "clocks", "paint", "bridges"];

/** Personas and verdicts as JSON where a schema (or the word JSON) asks for them; else plain text. */
function answer(request: ServerRequest, index: number): string {
  const prompt = lastText(request);
  const name = request.response_format?.json_schema?.name;
  if (name === "persona" || /Describe this user as a JSON object/.test(prompt)) {
    const ids = [...prompt.matchAll(/^(C\d+)$/gm)].map(([, id]) => id as string);
    return JSON.stringify({
      summary: `Writes about ${topics[hash(prompt) % topics.length]} and likes short answers.`,
      preferences: [
        { dimension: "length", value: "short", evidence: ids.at(-1) ?? "C1" },
        { dimension: "format", value: "lists", evidence: "C99" },
      ],
    });
  }
  if (name === "score" || /"score": a whole number/.test(prompt)) return JSON.stringify({ score: 1 + (hash(prompt) % 9) });
  if (name === "label" || /"label": one of/.test(prompt)) {
    const labels = /"label": one of (.+)\}\./.exec(prompt)?.[1]?.split(", ").map((label) => JSON.parse(label) as string) ?? [];
    return JSON.stringify({ label: labels[hash(prompt) % labels.length] });
  }
  const about = [0, 1, 2].map((i) => topics[hash(request.messages, request.seed, index, i) % topics.length]);
  return `The answer speaks of ${about[0]} first, then of the ${about[1]} that one finds there, and it ends with ${about[2]} (${hash(request.messages, request.seed, index) % 1000}).`;
}
