import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { AnswerCache, CachedChatModel } from "../lib/chat-models/cache.js";
import type { ChatModel, ChatRequest } from "../lib/chat-models/types.js";
import { sha256 } from "../lib/files.js";
import { temporaryFolder } from "./helpers/conversations.js";

const refuse = (): never => {
  throw new Error("not asked for");
};

function counting(fingerprint = "f"): ChatModel & { asked: string[] } {
  const asked: string[] = [];
  return {
    asked, spec: "native:x", context_length: 100, fingerprint: async () => fingerprint, countTokens: () => 1, chooseLabel: refuse, score: refuse, close: async () => {},
    async chat(requests, options) {
      return requests.map((request, index) => {
        const text = request.messages[0]?.content ?? "";
        if (text === "fail") throw new Error("failed");
        asked.push(text);
        const result = [{ text: `${text} ${asked.length}`, finish_reason: "stop" as const, tokens: 1 }];
        options?.onResult?.(index, result);
        return result;
      });
    },
  };
}

const ask = (text: string, seed = 1): ChatRequest => ({ messages: [{ role: "user", content: text }], n: 1, sampling: { max_new_tokens: 1, temperature: 0, top_p: 1, seed } });

describe("the answers on disk", () => {
  it("are given again in a later process, in the order asked, and asked for once where requests are equal", async (t) => {
    const dir = temporaryFolder(t);
    const first = counting();
    const model = new CachedChatModel(first, dir);
    await model.chat([ask("a"), ask("ü\n"), ask("a")]);
    assert.deepEqual(first.asked, ["a", "ü\n"]);
    await model.close();
    const second = counting();
    const again = new CachedChatModel(second, dir);
    const told: number[] = [];
    const answers = await again.chat([ask("c"), ask("ü\n"), ask("a"), ask("a", 2)], { onResult: (index) => told.push(index) });
    assert.deepEqual(answers.map(([one]) => one?.text), ["c 1", "ü\n 2", "a 1", "a 2"]);
    assert.deepEqual(second.asked, ["c", "a"]);
    assert.deepEqual(told, [1, 2, 0, 3]);
    await again.close();
  });

  it("are kept of a batch that failed half-way", async (t) => {
    const dir = temporaryFolder(t);
    const model = new CachedChatModel(counting(), dir);
    await assert.rejects(model.chat([ask("a"), ask("fail")]), /failed/);
    await model.close();
    const inner = counting();
    const again = new CachedChatModel(inner, dir);
    await again.chat([ask("a"), ask("b")]);
    assert.deepEqual(inner.asked, ["b"]);
    await again.close();
  });

  it("are another model's own", async (t) => {
    const dir = temporaryFolder(t);
    const one = new CachedChatModel(counting("one"), dir);
    await one.chat([ask("a")]);
    await one.close();
    const other = counting("two");
    const two = new CachedChatModel(other, dir);
    await two.chat([ask("a")]);
    assert.deepEqual(other.asked, ["a"]);
    assert.equal(readdirSync(dir).length, 2);
    await two.close();
  });

  it("count as absent where the file is damaged, and the rest stays", (t) => {
    const dir = temporaryFolder(t);
    mkdirSync(join(dir, "c"));
    const path = join(dir, "c", "x.jsonl");
    const keys = ["a", "b", "c", "d"].map((name) => sha256(name));
    const cache = new AnswerCache(path);
    keys.forEach((key, i) => cache.set(key, { text: `answer ${i} – é` }));
    assert.deepEqual(cache.get(keys[3] as string), { text: "answer 3 – é" });
    cache.close();
    const lines = readFileSync(path, "utf8").split("\n");
    // A changed letter, a line of noise, and a torn end.
    writeFileSync(path, [lines[0], (lines[1] as string).replace("answer 1", "Answer 1"), "\u0000\u0000 noise", lines[2], lines[3]].join("\n"));
    appendFileSync(path, "");
    const again = new AnswerCache(path);
    assert.deepEqual(again.get(keys[0] as string), { text: "answer 0 – é" });
    assert.equal(again.get(keys[1] as string), undefined);
    assert.deepEqual(again.get(keys[2] as string), { text: "answer 2 – é" });
    assert.equal(again.get(keys[3] as string), undefined, "torn: no newline at its end");
    again.set(keys[3] as string, "new");
    assert.equal(again.get(keys[3] as string), "new");
    again.close();
    const third = new AnswerCache(path);
    assert.equal(third.get(keys[3] as string), "new");
    third.close();
  });
});
