import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fitMessages, squeezeMessages } from "../lib/chat-models/fit.js";
import { openChatModel } from "../lib/chat-models/open.js";
import type { ChatModel, ChatRequest } from "../lib/chat-models/types.js";
import { runConfigSchema } from "../lib/config.js";
import type { Message } from "../lib/conversations/types.js";
import { Engine } from "../lib/engine/engine.js";
import { writeTinyModel } from "./helpers/tiny-model.js";

const { endpoint } = runConfigSchema.parse({ model: "m", data: { path: "d" } });
const user = (content: string): Message => ({ role: "user", content });
const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({ messages: [user(content)], n: 1, sampling: { max_new_tokens: 8, temperature: 1, top_p: 1, seed: 3 }, ...more });

describe("the chat model on the embedded engine", () => {
  let dir: string;
  let model: ChatModel;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "rlhi-test-"));
    const { path } = writeTinyModel(join(dir, "m"), { seed: 1, maxPosition: 256 });
    model = await openChatModel(`native:${path}`, { endpoint, dtype: "f32", threads: 2 });
  });
  after(async () => {
    await model.close();
    rmSync(dir, { recursive: true, force: true });
  });

  it("gives n samples a request, the same whatever they are batched with", async () => {
    const told: number[] = [];
    const together = await model.chat([ask("one", { n: 3 }), ask("two"), ask("three", { n: 2 })], { onResult: (index) => told.push(index) });
    assert.deepEqual(together.map((samples) => samples.length), [3, 1, 2]);
    assert.equal(new Set(together[0]?.map(({ text }) => text)).size, 3);
    assert.deepEqual(told.toSorted((a, b) => a - b), [0, 1, 2]);
    const [alone] = await model.chat([ask("three", { n: 2 })]);
    assert.deepEqual(alone, together[2]);
  });

  it("goes on from a given beginning, which is part of the text", async () => {
    const [[answer] = []] = await model.chat([ask("one", { prefix: '{"summary": "' })]);
    assert.ok(answer?.text.startsWith('{"summary": "'));
  });

  it("chooses words by their own probability under the model", async () => {
    const labels = ["next", "change", "thanks"];
    const [choice] = await model.chooseLabel([{ messages: [user("Which word?")], labels }]);
    const engine = await Engine.open({ path: join(dir, "m"), dtype: "f32", threads: 1 });
    const tokenizer = engine.requireTokenizer();
    const [scores] = await engine.score([{ prompt: tokenizer.encodeChat([user("Which word?")]), continuations: labels.map((label) => tokenizer.encode(label)) }]);
    await engine.close();
    const weights = (scores ?? []).map(({ logps }) => Math.exp(logps));
    const total = weights.reduce((a, b) => a + b, 0);
    choice?.probabilities.forEach((p, i) => assert.ok(Math.abs(p - (weights[i] ?? 0) / total) < 1e-5));
    assert.equal(choice?.label, labels[weights.indexOf(Math.max(...weights))]);
  });

  it("is undecided about long names where the prompt says nothing", async () => {
    const labels = ["new_request", "reattempt_with_feedback", "other thing"];
    const [blank, other] = await model.chooseLabel([{ messages: [user("N/A")], labels }, { messages: [user("Please do it again.")], labels }]);
    for (const p of blank?.probabilities ?? []) assert.ok(Math.abs(p - 1 / 3) < 1e-6, "what the letters have of themselves is taken off");
    assert.ok((other?.probabilities ?? []).some((p) => Math.abs(p - 1 / 3) > 1e-4));
  });

  it("scores by the expectation over the scale's numbers", async () => {
    const told: number[] = [];
    const requests = Array.from({ length: 5 }, (_, i) => ({ messages: [user(`How good is ${i}?`)], min: 1, max: i === 4 ? 12 : 9 }));
    const scores = await model.score(requests, { onResult: (index) => told.push(index) });
    assert.deepEqual(told, [0, 1, 2, 3, 4]);
    scores.forEach(({ expected, probabilities }, i) => {
      assert.equal(probabilities.length, i === 4 ? 12 : 9);
      assert.ok(Math.abs(probabilities.reduce((a, b) => a + b, 0) - 1) < 1e-9);
      assert.ok(Math.abs(probabilities.reduce((sum, p, j) => sum + p * (j + 1), 0) - (expected ?? Number.NaN)) < 1e-9);
    });
  });

  it("cuts prompts that are too long instead of failing, oldest turns first", async () => {
    const long: Message[] = Array.from({ length: 21 }, (_, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: `turn ${i} ${"word ".repeat(12)}` }));
    const system: Message = { role: "system", content: "persona" };
    assert.ok(model.countTokens([system, ...long]) > 256);
    const budget = 256 - 8;
    const fitted = fitMessages([system, ...long], { budget, count: (messages) => model.countTokens(messages) });
    const [cut, same, huge] = await model.chat([{ ...ask(""), messages: [system, ...long] }, { ...ask(""), messages: fitted.messages }, ask("x ".repeat(5000))]);
    assert.deepEqual(cut, same);
    assert.equal(typeof huge?.[0]?.text, "string");
  });

  it("gives no verdict on a prompt it cannot be shown whole, says so once, and judges the others", async () => {
    const notes: string[] = [];
    const told: number[] = [];
    const noting = await openChatModel(`native:${join(dir, "m")}`, { endpoint, dtype: "f32", threads: 2, note: (text) => notes.push(text) });
    const long = user("y ".repeat(5000));
    const requests = [long, user("one"), long].map((message) => ({ messages: [message], min: 1, max: 9 }));
    const scores = await noting.score(requests, { onResult: (index) => told.push(index) });
    assert.deepEqual(scores.map(({ expected }) => expected === null), [true, false, true]);
    assert.deepEqual(scores[1], (await model.score([{ messages: [user("one")], min: 1, max: 9 }]))[0]);
    assert.deepEqual(told.toSorted((a, b) => a - b), [0, 1, 2]);
    const labels = await noting.chooseLabel([long, user("one")].map((message) => ({ messages: [message], labels: ["A", "B"] })));
    assert.deepEqual(labels[0]?.probabilities, [0.5, 0.5]);
    assert.notDeepEqual(labels[1]?.probabilities, [0.5, 0.5]);
    await noting.close();
    assert.equal(notes.length, 1);
    assert.match(notes[0] ?? "", /longer than the model's context \(256\)/);
    // One token less than the context, with the answer's, is whole.
    const filling = user("");
    while (model.countTokens([filling]) < 255) filling.content += "y";
    assert.equal(model.countTokens([filling]), 255);
    assert.notEqual((await model.score([{ messages: [filling], min: 1, max: 9 }]))[0]?.expected, null);
    filling.content += "y";
    assert.equal((await model.score([{ messages: [filling], min: 1, max: 9 }]))[0]?.expected, null);
  });

  it("stops when the work is aborted", async () => {
    const controller = new AbortController();
    controller.abort();
    await assert.rejects(model.chat([ask("one")], { signal: controller.signal }));
    await assert.rejects(model.score([{ messages: [user("one")], min: 1, max: 9 }], { signal: controller.signal }));
  });
});

const count = (messages: Message[]): number => messages.reduce((sum, { content }) => sum + content.length, 0);
const chat = (n: number): Message[] => [{ role: "system", content: "pppp" }, ...Array.from({ length: n }, (_, i): Message => ({ role: i % 2 === 0 ? "user" : "assistant", content: `${i % 10}`.repeat(10) }))];

describe("the context rule", () => {
  it("drops as few of the oldest turns as it takes, and leaves roles in order", () => {
    for (let budget = 0; budget <= 100; budget++) {
      const { messages, dropped, fits } = fitMessages(chat(9), { budget, count });
      assert.equal(messages[0]?.content, "pppp");
      assert.equal(messages[1]?.role, "user");
      assert.equal(messages.at(-1)?.content, "8888888888");
      assert.equal(messages.length + dropped, 10);
      assert.equal(fits, budget >= 14);
      if (fits && dropped > 0) assert.ok(count(chat(9).slice(1 + dropped - 2)) + 4 > budget, "two more would not have fitted");
    }
  });

  it("keeps the messages at the end that it is told to", () => {
    const { messages, fits } = fitMessages(chat(9), { budget: 20, count, keepLast: 3 });
    assert.deepEqual([messages.length, fits], [4, false]);
  });

  it("cuts the middle of what cannot go, where it must", () => {
    const squeezed = squeezeMessages([{ role: "user", content: `begin ${"x".repeat(1000)} end` }], { budget: 100, count });
    assert.ok(count(squeezed) <= 100);
    assert.match(squeezed[0]?.content ?? "", /^begin .* end$/s);
  });
});
