/** The engine has its next call in its queue before the last one's results are looked at; each chat is encoded once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { EncodedChats } from "../lib/chat-models/encoded-chats.js";
import { NativeChatModel } from "../lib/chat-models/native.js";
import type { ChatEngine } from "../lib/chat-models/native.js";
import type { Message } from "../lib/conversations/types.js";
import type { ModelInfo } from "../lib/engine/addon.js";
import type { ContinuationScore, ScoreItem } from "../lib/engine/engine.js";
import type { ChatTokenizer } from "../lib/tokens/types.js";

const user = (content: string): Message[] => [{ role: "user", content }];

/** A character is a token. */
const tokenizer = {
  encodeChat: (messages: readonly Message[]) => Array.from(messages.map(({ content }) => content).join(""), (char) => char.codePointAt(0) ?? 0),
  encode: (text: string) => Array.from(text, (char) => char.codePointAt(0) ?? 0),
  fingerprint: "characters",
} as unknown as ChatTokenizer;

interface Call {
  items: readonly ScoreItem[];
  answer: () => void;
  fail: (error: Error) => void;
}

/** Calls stay open until the test answers them. */
class HeldEngine implements ChatEngine {
  readonly path = "held";
  readonly info = { maxPosition: 0, fingerprint: "f", dtype: "f32" } as unknown as ModelInfo;
  readonly calls: Call[] = [];

  score(items: readonly ScoreItem[]): Promise<ContinuationScore[][]> {
    return new Promise((resolve, reject) => {
      const scores = items.map(({ continuations }) => continuations.map((ids, index) => ({ tokenLogps: new Float32Array(ids.length), logps: -index })));
      this.calls.push({ items, answer: () => resolve(scores), fail: reject });
    });
  }

  generate(): never {
    throw new Error("not asked for");
  }

  async close(): Promise<void> {}
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** Two of these fill a call of 8192 tokens. */
const request = (letter: string): { messages: Message[]; min: number; max: number } => ({ messages: user(letter.repeat(4000)), min: 1, max: 3 });
const lettersOf = ({ items }: Call): string => items.map(({ prompt }) => String.fromCodePoint(prompt[0] ?? 0)).join("");

test("scoring: two calls are given at once, the next as one ends; results come in order", async () => {
  const engine = new HeldEngine();
  const told: number[] = [];
  const scoring = new NativeChatModel(engine, tokenizer).score(["a", "b", "c", "d", "e", "f", "g"].map(request), { onResult: (index) => told.push(index) });
  await settled();
  assert.deepEqual(engine.calls.map(lettersOf), ["ab", "cd"], "no call waits for the one before it, and not all are made ahead");
  engine.calls[0]?.answer();
  await settled();
  assert.deepEqual(engine.calls.map(lettersOf), ["ab", "cd", "ef"]);
  assert.deepEqual(told, [0, 1]);
  for (const place of [2, 1]) engine.calls[place]?.answer();
  await settled();
  assert.deepEqual(told, [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(engine.calls.map(lettersOf), ["ab", "cd", "ef", "g"]);
  engine.calls[3]?.answer();
  const scores = await scoring;
  assert.equal(scores.length, 7);
  for (const { expected } of scores) assert.ok(expected !== null && expected > 1 && expected < 2);
});

test("scoring: the first failure is told, one behind it is nobody's", async () => {
  const engine = new HeldEngine();
  const told: number[] = [];
  const scoring = new NativeChatModel(engine, tokenizer).score(["a", "b", "c", "d"].map(request), { onResult: (index) => told.push(index) });
  await settled();
  engine.calls[1]?.fail(new Error("second"));
  engine.calls[0]?.fail(new Error("first"));
  await assert.rejects(scoring, /first/);
  assert.deepEqual(told, []);
});

test("a chat is encoded once while there is room, and again when it was longest unused", () => {
  const encoded: string[] = [];
  const chats = new EncodedChats({ encodeChat: (messages) => {
    const text = messages.map(({ content }) => content).join("");
    encoded.push(text);
    return tokenizer.encodeChat(messages);
  } }, 8);
  assert.deepEqual(chats.ids(user("abc")), [97, 98, 99]);
  chats.ids(user("abcd"));
  chats.ids(user("abc"));
  assert.deepEqual(encoded, ["abc", "abcd"]);
  chats.ids(user("xy"));
  chats.ids(user("abc"));
  assert.deepEqual(encoded, ["abc", "abcd", "xy"], "the one used last stays");
  chats.ids(user("abcd"));
  assert.deepEqual(encoded, ["abc", "abcd", "xy", "abcd"]);
  chats.ids(user("longer than there is room for"));
  chats.ids(user("longer than there is room for"));
  assert.equal(encoded.length, 5, "the newest is kept, however long");
  assert.deepEqual(chats.ids([{ role: "system", content: "abc" }]), [97, 98, 99]);
  assert.equal(encoded.length, 6, "another role is another chat");
});
