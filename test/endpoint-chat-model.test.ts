import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { TestContext } from "node:test";
import { openChatModel } from "../lib/chat-models/open.js";
import type { ChatModel, ChatRequest, LabelRequest, ScoreRequest } from "../lib/chat-models/types.js";
import { runConfigSchema } from "../lib/config.js";
import type { RunConfig } from "../lib/config.js";
import { RlhiError } from "../lib/errors.js";
import { criterionQuestions, userEvalPrompt } from "../lib/prompts/user-eval.js";
import { startOpenAiServer } from "./helpers/openai-server.js";
import type { ServerOptions, TestServer } from "./helpers/openai-server.js";

/** What two clocks and a timer that fires early may differ by. */
const clockMs = 5;
const defaults = runConfigSchema.parse({ model: "m", data: { path: "d" } }).endpoint;

async function serve(t: TestContext, options: ServerOptions = {}): Promise<TestServer> {
  const server = await startOpenAiServer(options);
  t.after(() => server.close());
  return server;
}

function open(spec: string, endpoint: Partial<RunConfig["endpoint"]> = {}, notes: string[] = []): Promise<ChatModel> {
  return openChatModel(spec, { endpoint: { ...defaults, ...endpoint }, dtype: "f32", threads: 1, retryBaseMs: 5, note: (text) => notes.push(text) });
}

function request(content: string, more: Partial<ChatRequest> = {}): ChatRequest {
  return { messages: [{ role: "user", content }], n: 1, sampling: { max_new_tokens: 16, temperature: 0.5, top_p: 0.9, seed: 7 }, ...more };
}

function sides(n: number): LabelRequest[] {
  return Array.from({ length: n }, (_, i) => ({ messages: [{ role: "user", content: `Which? ${i}` }], labels: ["left_side", "right_side"] }));
}

function aOrB(content: string): LabelRequest {
  return { messages: [{ role: "user", content }], labels: ["A", "B"] };
}

function length({ messages }: { messages: { content: string }[] }): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

/** UserEval's prompt on two answers of `size` signs between a beginning and an end. */
function comparison(size: number): LabelRequest {
  const answer = (side: string, sign: string): string => `begin ${side} ${sign.repeat(size)} \`\`\` end ${side}`;
  const messages = userEvalPrompt.render({ persona: "a nurse", conversation: [{ role: "user", content: "Why is the sky blue?" }], answer_a: answer("A", "\u5929"), answer_b: answer("B", "\u7a7a"), question: criterionQuestions.overall });
  return { labels: ["A", "B"], messages };
}

/** The prompt without what stands between an answer's beginning and end. */
function skeleton(text = ""): string {
  return text.replace(/(begin [AB]).*?(end [AB])/gs, "$1 $2");
}

/** What the user is shown: message of an error with the code of endpoints. */
async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof RlhiError, String(error));
    assert.equal(error.code, "ERR_ENDPOINT");
    return error.message;
  }
  throw new assert.AssertionError({ message: "no error" });
}

describe("a chat model behind an endpoint", () => {
  it("gives the answers in the order of the requests and tells each as it ends", async (t) => {
    const server = await serve(t);
    const model = await open(server.spec);
    const told: number[] = [];
    const answers = await model.chat(["a", "b", "c"].map((text) => request(text)), { onResult: (index) => told.push(index) });
    assert.deepEqual(told.toSorted((a, b) => a - b), [0, 1, 2]);
    const again = await model.chat([request("b")]);
    assert.deepEqual(answers[1], again[0]);
    assert.notEqual(answers[0]?.[0]?.text, answers[1]?.[0]?.text);
    assert.equal(server.requests[0]?.max_tokens, 16);
    assert.equal(server.requests[0]?.seed, 7);
  });

  it("keeps to the number of requests at once", async (t) => {
    const server = await serve(t, { delayMs: 150 });
    const model = await open(server.spec, { concurrency: 3 });
    await model.chat(Array.from({ length: 9 }, (_, i) => request(`q${i}`)));
    assert.equal(server.peak(), 3);
  });

  it("keeps to the requests a minute", async (t) => {
    const server = await serve(t);
    const model = await open(server.spec, { requests_per_minute: 600 });
    const start = Date.now();
    await model.chat(Array.from({ length: 4 }, (_, i) => request(`q${i}`)));
    // Counted from before the first leaves: a slow machine can only make them later.
    server.times.forEach((time, i) => assert.ok(time - start >= 100 * i - clockMs, `request ${i} after ${time - start} ms at 600 a minute`));
    assert.equal(server.times.length, 4);
  });

  it("keeps to the requests a minute after a pause that the server asked for", async (t) => {
    const server = await serve(t, { misbehave: (_, count) => (count === 0 ? { kind: "status", status: 429, headers: { "retry-after": "0.4" } } : undefined) });
    const model = await open(server.spec, { requests_per_minute: 600, concurrency: 6 });
    await model.chat(Array.from({ length: 6 }, (_, i) => request(`q${i}`)));
    assert.equal(server.times.length, 7);
    const end = (server.times[0] ?? 0) + 400;
    const after = server.times.filter((time) => time >= end - clockMs);
    after.forEach((time, i) => assert.ok(time - end >= 100 * i - clockMs, `request ${i} after the pause came ${time - end} ms after its end`));
    assert.ok(after.length >= 1);
  });

  it("takes n samples in one request, or in n where the server gives only one", async (t) => {
    const one = await serve(t);
    const [samples] = await (await open(one.spec)).chat([request("q", { n: 4 })]);
    assert.equal(samples?.length, 4);
    assert.equal(new Set(samples?.map(({ text }) => text)).size, 4);
    assert.equal(one.requests.length, 1);
    for (const options of [{ ignoresN: true }, { refuses: ["n"] }]) {
      const many = await serve(t, options);
      const [separate] = await (await open(many.spec)).chat([request("q", { n: 4 })]);
      assert.equal(separate?.length, 4);
      assert.equal(new Set(separate?.map(({ text }) => text)).size, 4, "each sample has a seed of its own");
    }
  });

  it("does without parameters the server refuses, even when many requests meet the refusal at once", async (t) => {
    const server = await serve(t, { refuses: ["response_format", "seed", "top_p"], delayMs: 5 });
    const notes: string[] = [];
    const model = await open(server.spec, { concurrency: 6 }, notes);
    const schema = { name: "persona", schema: { type: "object" } };
    const answers = await model.chat(Array.from({ length: 6 }, (_, i) => request(`Describe this user as a JSON object ${i}`, { json_schema: schema })));
    for (const [answer] of answers) assert.equal(typeof (JSON.parse(answer?.text ?? "") as { summary: unknown }).summary, "string");
    assert.equal(notes.filter((note) => note.includes("does without response_format")).length, 1);
    assert.ok(!("response_format" in (server.requests.at(-1) ?? {})));
  });

  it("reads labels and scores from log-probabilities where there are any", async (t) => {
    const server = await serve(t);
    const model = await open(server.spec);
    const [choice] = await model.chooseLabel([{ messages: [{ role: "user", content: "Which?" }], labels: ["new_request", "other kind", "third_kind"] }]);
    assert.equal(choice?.probabilities.length, 3);
    assert.ok(Math.abs((choice?.probabilities.reduce((a, b) => a + b, 0) ?? 0) - 1) < 1e-9);
    assert.ok(Math.max(...(choice?.probabilities ?? [])) > 0.8 && Math.max(...(choice?.probabilities ?? [])) < 1);
    const [score] = await model.score([{ messages: [{ role: "user", content: "Reply with one number from 1 to 9." }], min: 1, max: 9 }]);
    const expected = score?.probabilities.reduce((sum, p, i) => sum + p * (i + 1), 0);
    assert.ok(Math.abs((expected ?? 0) - (score?.expected ?? -1)) < 1e-9);
    assert.ok(!Number.isInteger(score?.expected), "an expectation, not a sampled digit");
  });

  it("takes labels and scores as structured output where there are none", async (t) => {
    const server = await serve(t, { logprobs: false });
    const notes: string[] = [];
    const model = await open(server.spec, {}, notes);
    const labels = ["new_request", "other kind"];
    const [choice] = await model.chooseLabel([{ messages: [{ role: "user", content: "Which?" }], labels }]);
    assert.ok(labels.includes(choice?.label ?? ""));
    assert.deepEqual(choice?.probabilities.toSorted((a, b) => a - b), [0, 1]);
    const [score] = await model.score([{ messages: [{ role: "user", content: "How good?" }], min: 1, max: 9 }]);
    assert.ok(Number.isInteger(score?.expected) && (score?.expected ?? 0) >= 1 && (score?.expected ?? 10) <= 9);
    assert.equal(notes.filter((note) => note.includes("logprobs")).length, 1);
  });

  it("takes one verdict by name where the first token is no answer, and goes on with log-probabilities", async (t) => {
    const server = await serve(t);
    const model = await open(server.spec);
    const byToken = aOrB("Which? Reply with A or B.");
    const [before] = await model.chooseLabel([byToken]);
    const [between] = await model.chooseLabel([aOrB("Which is it?")]);
    assert.deepEqual(between?.probabilities.toSorted((a, b) => a - b), [0, 1]);
    assert.deepEqual(await model.chooseLabel([byToken]), [before]);
    assert.ok((before?.probabilities[0] ?? 1) % 1 !== 0);
  });

  it("counts a verdict that names no option as undecided, and gives up when that is the rule", async (t) => {
    const server = await serve(t, { logprobs: false, answer: () => "I would rather not say." });
    const model = await open(server.spec);
    const [choice] = await model.chooseLabel(sides(1));
    assert.deepEqual(choice?.probabilities, [0.5, 0.5]);
    assert.match(await failure(model.chooseLabel(sides(8))), /name none of the options/);
  });
});

/** A content filter's refusal, which names no parameter. */
function filtered(status = 400): ServerOptions {
  return { misbehave: ({ messages }) => (messages.some(({ content }) => content.includes("forbidden")) ? { kind: "status", status, message: "The response was filtered. Please modify your prompt." } : undefined) };
}

const scored = (content: string): ScoreRequest => ({ messages: [{ role: "user", content: `${content} Reply with one number from 1 to 9.` }], min: 1, max: 9 });

describe("a request that the endpoint refuses for what it says", () => {
  it("gets no score, and those after it are scored as those before it", async (t) => {
    for (const status of [400, 403, 422]) {
      const server = await serve(t, filtered(status));
      const notes: string[] = [];
      const model = await open(server.spec, { concurrency: 1 }, notes);
      const texts = ["a", "b", "forbidden", "c", "d"];
      const scores = await model.score(texts.map(scored));
      const alone = await (await open((await serve(t)).spec)).score(texts.map(scored));
      scores.forEach((score, i) => assert.deepEqual(score, i === 2 ? { expected: null, probabilities: Array.from({ length: 9 }, () => 1 / 9) } : alone[i]));
      assert.deepEqual(notes.map((note) => note.replace(/^\S+ /, "").slice(0, 17)), ["refuses a request"]);
      assert.ok(server.requests.every((sent) => sent.logprobs === true), "no parameter is dropped for a text");
    }
  });

  it("gets no answer and no label, and the text asked for is kept for the rest", async (t) => {
    const server = await serve(t, filtered());
    const model = await open(server.spec);
    const json_schema = { name: "persona", schema: { type: "object" } };
    const answers = await model.chat(["a", "forbidden", "b"].map((text) => request(`${text} Describe this user as a JSON object`, { json_schema, n: 2 })));
    assert.deepEqual(answers.map((samples) => samples.map(({ finish_reason }) => finish_reason)), [["stop", "stop"], ["refused", "refused"], ["stop", "stop"]]);
    assert.deepEqual(answers[1]?.map(({ text, tokens }) => [text, tokens]), [["", 0], ["", 0]]);
    assert.ok(server.requests.every((sent) => sent.response_format !== undefined));
    const [label] = await model.chooseLabel([aOrB("forbidden. Reply with A or B.")]);
    assert.deepEqual(label?.probabilities, [0.5, 0.5]);
  });

  it("counts as refused, too, where the answer was filtered; an answer that was cut is never taken as ended", async (t) => {
    for (const [ending, expected] of [["stop", "stop"], [null, "stop"], ["eos", "stop"], ["length", "length"], ["tool_calls", "length"], ["model_length", "length"], ["content_filter", "refused"]] as const) {
      const server = await serve(t, { finish: () => ending });
      const [[answer] = []] = await (await open(server.spec)).chat([request("q")]);
      assert.equal(answer?.finish_reason, expected, String(ending));
      assert.equal(answer?.text === "", expected === "refused");
    }
    const server = await serve(t, { finish: () => "content_filter" });
    const model = await open(server.spec);
    assert.equal((await model.score([scored("a")]))[0]?.expected, null);
    assert.equal(server.requests.length, 1, "it is not asked for again in other words");
  });

  it("is one of too many where most are refused, and the endpoint is given up on with its reason", async (t) => {
    const server = await serve(t, filtered());
    const message = await failure((await open(server.spec)).chat(Array.from({ length: 40 }, (_, i) => request(`forbidden ${i}`))));
    assert.match(message, /refuses 20 of 20 requests/);
    assert.match(message, /The response was filtered/);
    const some = await (await open(server.spec)).chat(Array.from({ length: 60 }, (_, i) => request(i % 3 === 0 ? `forbidden ${i}` : `q${i}`)));
    assert.equal(some.filter(([answer]) => answer?.finish_reason === "refused").length, 20);
  });
});

describe("an endpoint that refuses everything or does not say what", () => {
  it("is given up on at once where a harmless request is refused as well", async (t) => {
    const cases: [number, RegExp][] = [[400, /refuses the request/], [403, /refuses the key/], [422, /refuses the request/]];
    for (const [status, pattern] of cases) {
      const server = await serve(t, { misbehave: () => ({ kind: "status", status, message: "no" }) });
      assert.match(await failure((await open(server.spec)).chat([request("a")])), pattern);
      assert.equal(server.requests.length, 2);
    }
  });

  it("is given up on where it takes no system message, since no request has another form", async (t) => {
    const server = await serve(t, { misbehave: ({ messages }) => (messages[0]?.role === "system" ? { kind: "status", status: 400, message: "System role not supported" } : undefined) });
    const messages = [{ role: "system" as const, content: "persona" }, { role: "user" as const, content: "q" }];
    assert.match(await failure((await open(server.spec)).chat([{ ...request(""), messages }])), /System role not supported/);
  });

  it("does without a parameter whose refusal it does not explain, once harmless requests show that it is that", async (t) => {
    for (const [name, ask] of [["response_format", (m: ChatModel) => m.chat([request("Describe this user as a JSON object", { json_schema: { name: "persona", schema: {} } })])], ["logprobs", (m: ChatModel) => m.score([scored("a")])]] as const) {
      const server = await serve(t, { misbehave: (sent) => (name in sent ? { kind: "status", status: 400, message: "bad request" } : undefined) });
      const notes: string[] = [];
      const model = await open(server.spec, {}, notes);
      assert.equal((await ask(model)).length, 1);
      assert.equal(notes.filter((note) => note.includes(`does without ${name}`)).length, 1);
      const before = server.requests.length;
      await ask(model);
      assert.equal(server.requests.length, before + 1, "found out once");
    }
  });
});

describe("an endpoint that fails", () => {
  it("is asked again after 500, 429, 408, a dropped connection and garbage", async (t) => {
    const troubles = [{ kind: "status", status: 500 }, { kind: "status", status: 429 }, { kind: "status", status: 408 }, { kind: "drop" }, { kind: "body", body: "<html>busy</html>" }] as const;
    const server = await serve(t, { misbehave: (_, count) => troubles[count] });
    const [answer] = await (await open(server.spec)).chat([request("q")]);
    assert.match(answer?.[0]?.text ?? "", /^The answer speaks of/);
    assert.equal(server.requests.length, troubles.length + 1);
  });

  it("is given the time that Retry-After asks for, by every request", async (t) => {
    const server = await serve(t, { misbehave: (_, count) => (count === 0 ? { kind: "status", status: 429, headers: { "retry-after": "0.4" } } : undefined) });
    const start = Date.now();
    await (await open(server.spec, { concurrency: 2 })).chat([request("a")]);
    assert.ok(Date.now() - start >= 390, `asked again after ${Date.now() - start} ms`);
  });

  it("is not waited for when it asks for an hour", async (t) => {
    const server = await serve(t, { misbehave: () => ({ kind: "status", status: 429, headers: { "retry-after": "3600" } }) });
    const message = await failure((await open(server.spec)).chat([request("a")]));
    assert.match(message, /keeps limiting the rate/);
    assert.equal(server.requests.length, 1);
  });

  it("is given up on with URL, status and what to do", async (t) => {
    const cases: [ServerOptions, RegExp[]][] = [
      [{ misbehave: () => ({ kind: "status", status: 500, message: "out of memory" }) }, [/keeps failing \(asked 3 times\)/, /HTTP 500: out of memory/, /server's log/]],
      [{ misbehave: () => ({ kind: "status", status: 429 }) }, [/keeps limiting the rate/, /requests_per_minute/]],
      [{ apiKey: "secret" }, [/refuses the key/, /HTTP 401/, /OPENAI_API_KEY/]],
      [{ misbehave: () => ({ kind: "status", status: 404, message: "no model tiny" }) }, [/does not know this URL or model/, /no model tiny/]],
      [{ misbehave: () => ({ kind: "body", body: "<html>Welcome</html>", contentType: "text/html" }) }, [/not JSON/, /Welcome/, /OpenAI-compatible/]],
      [{ misbehave: () => ({ kind: "body", body: '{"ok": true}' }) }, [/no choices/]],
      [{ misbehave: () => ({ kind: "body", body: "" }) }, [/an empty answer/]],
      [{ misbehave: () => ({ kind: "drop" }) }, [/cannot be reached/]],
    ];
    for (const [options, patterns] of cases) {
      const server = await serve(t, options);
      const message = await failure((await open(server.spec, { max_retries: 2 })).chat([request("a"), request("b")]));
      assert.ok(message.includes(server.url), message);
      for (const pattern of patterns) assert.match(message, pattern);
    }
  });

  it("never hangs the run: neither without an answer nor in the middle of one", async (t) => {
    for (const kind of ["hang", "stall"] as const) {
      const server = await serve(t, { misbehave: () => ({ kind }) });
      const start = Date.now();
      assert.match(await failure((await open(server.spec, { timeout_s: 0.2, max_retries: 1 })).chat([request("a")])), /does not answer in time \(asked 2 times\)/);
      assert.ok(Date.now() - start < 5000);
    }
  });

  it("is reported soon when nothing listens there", async () => {
    const gone = await startOpenAiServer();
    await gone.close();
    const message = await failure((await open(gone.spec)).chat([request("a")]));
    assert.match(message, /asked 3 times/);
    assert.match(message, /cannot be reached/);
    assert.match(message, /ECONNREFUSED/);
    assert.match(message, /start the server/);
  });

  it("is reported when it gives nothing but empty answers", async (t) => {
    const server = await serve(t, { answer: () => "" });
    assert.match(await failure((await open(server.spec)).chat(Array.from({ length: 30 }, (_, i) => request(`q${i}`)))), /empty answers in a row/);
  });

  it("stops at once when the work is aborted", async (t) => {
    const server = await serve(t, { misbehave: () => ({ kind: "hang" }) });
    const controller = new AbortController();
    const work = (await open(server.spec)).chat(Array.from({ length: 20 }, (_, i) => request(`q${i}`)), { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await assert.rejects(work, /enough/);
  });

  it("is sent a shorter prompt where it says that the context is too long", async (t) => {
    const server = await serve(t, { misbehave: (r) => (length(r) > 1000 ? { kind: "status", status: 400, message: "This model's maximum context length is 250 tokens" } : undefined) });
    const messages = Array.from({ length: 9 }, (_, i) => ({ role: i % 2 === 0 ? ("user" as const) : ("assistant" as const), content: `${i}`.repeat(300) }));
    await (await open(server.spec)).chat([{ ...request(""), messages: [{ role: "system", content: "persona" }, ...messages] }]);
    const sent = server.requests.at(-1)?.messages ?? [];
    assert.equal(sent[0]?.content, "persona");
    assert.equal(sent.at(-1)?.content, "8".repeat(300));
    assert.ok(length({ messages: sent }) <= 1000);
  });

  it("is sent a judge's prompt with shorter texts where it is too long, headings and fences whole", async (t) => {
    const server = await serve(t, { misbehave: (r) => (length(r) > 4000 ? { kind: "status", status: 400, message: "This model's maximum context length is 1000 tokens" } : undefined) });
    const notes: string[] = [];
    const model = await open(server.spec, {}, notes);
    const [choice] = await model.chooseLabel([comparison(5900)]);
    assert.notDeepEqual(choice?.probabilities, [0.5, 0.5]);
    const [system, sent] = server.requests.at(-1)?.messages ?? [];
    assert.equal(system?.content, comparison(1).messages[0]?.content);
    assert.equal(skeleton(sent?.content), skeleton(comparison(1).messages[1]?.content), "nothing but the middles of the answers is gone");
    const shown = ["\u5929", "\u7a7a"].map((sign) => (sent?.content ?? "").split(sign).length - 1);
    assert.ok(Math.min(...shown) > 500 && Math.min(...shown) > 0.7 * Math.max(...shown), `${shown.join(" and ")} signs of the two answers`);
    assert.equal(notes.filter((note) => note.includes("finds prompts too long")).length, 1);
  });

  it("gives no verdict on a prompt that it cannot be shown whole", async (t) => {
    const server = await serve(t, { misbehave: (r) => (length(r) > 300 ? { kind: "status", status: 400, message: "maximum context length is 75 tokens" } : undefined) });
    const model = await open(server.spec);
    const messages = userEvalPrompt.render({ persona: "", conversation: [], answer_a: "x".repeat(900), answer_b: "y".repeat(900), question: criterionQuestions.overall });
    assert.deepEqual((await model.chooseLabel([{ labels: ["A", "B"], messages }]))[0]?.probabilities, [0.5, 0.5]);
  });
});
