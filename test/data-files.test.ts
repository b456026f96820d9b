import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { Field, Int32, List, Struct, tableToIPC, Table, Utf8, vectorFromArray } from "apache-arrow";
import type { DataType } from "apache-arrow";
import { pairRow, readChats, readPairs } from "../lib/tokens/data-files.js";
import type { DataChat, DataPair } from "../lib/tokens/data-files.js";
import { openTokenizer } from "../lib/tokens/open.js";
import { tokenizePair } from "../lib/tokens/pair-tokens.js";
import { tinyImEnd, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-data-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function file(content: string | Uint8Array, extension = "json"): string {
  files += 1;
  const path = join(folder, `${files}.${extension}`);
  writeFileSync(path, content);
  return path;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}
const pairsOf = (path: string): Promise<DataPair[]> => all(readPairs(path));
const chatsOf = (path: string): Promise<DataChat[]> => all(readChats(path));

const byIds = { prompt_ids: [1, 2], chosen_ids: [3], rejected_ids: [4, 5] };
const user = { role: "user", content: "Hi" };
const conversational = { prompt: [user], chosen: [{ role: "assistant", content: "Hello" }], rejected: "Go away" };

const ids = new List(new Field("item", new Int32()));
const messages = new List(new Field("item", new Struct([new Field("role", new Utf8()), new Field("content", new Utf8())])));

/** The rows as Arrow, every column of one type. */
function arrow(type: DataType, rows: readonly Record<string, unknown>[], form: "file" | "stream"): Uint8Array {
  const columns = Object.keys(rows[0] ?? {}).map((name) => [name, vectorFromArray(rows.map((row) => row[name]), type)]);
  return tableToIPC(new Table(Object.fromEntries(columns) as Record<string, ReturnType<typeof vectorFromArray>>), form);
}

test("pairs of ids and of messages, from a JSON array, JSON lines and Arrow", async () => {
  const same = [byIds, { prompt: [1, 2], chosen: [3], rejected: [4, 5] }];
  for (const path of [file(JSON.stringify(same)), file(`${JSON.stringify(same[0])}\n\n${JSON.stringify(same[1])}\n`, "jsonl"), file(arrow(ids, [byIds, byIds], "file"), "arrow"), file(arrow(ids, [byIds, byIds], "stream"), "arrow")]) {
    const pairs = await pairsOf(path);
    assert.equal(pairs.length, 2);
    for (const pair of pairs) assert.deepEqual(pair.content, { kind: "ids", ids: byIds }, path);
  }
  const [chat] = await pairsOf(file(JSON.stringify([conversational])));
  assert.deepEqual(chat?.content, { kind: "chat", chat: { prompt: [user], chosen: "Hello", rejected: "Go away" } });
  const [fromArrow] = await pairsOf(file(arrow(messages, [{ ...conversational, rejected: [{ role: "assistant", content: "Go away" }] }], "file"), "arrow"));
  assert.deepEqual(fromArrow?.content, chat?.content);
});

test("rows keep their place, name and held_out mark", async () => {
  const pairs = await pairsOf(file(JSON.stringify([{ ...byIds, id: "a", held_out: true }, byIds])));
  assert.deepEqual(pairs.map(({ index, id, held_out }) => ({ index, id, held_out })), [{ index: 0, id: "a", held_out: true }, { index: 1, id: "1", held_out: false }]);
});

const badPairs: [string, unknown, RegExp][] = [
  ["a row that is no object", [byIds, 5], /row 2.*expected: prompt_ids/s],
  ["a missing answer", [{ prompt_ids: [1], chosen_ids: [2] }], /row 1.*field rejected is/s],
  ["an empty answer of ids", [{ ...byIds, chosen_ids: [] }], /row 1.*field chosen_ids.*at least one token id/s],
  ["an id that is no whole number", [byIds, byIds, { ...byIds, rejected_ids: [1, 2.5] }], /row 3.*rejected_ids\[1\].*2\.5/s],
  ["a negative id", [{ ...byIds, prompt_ids: [-1] }], /row 1.*prompt_ids\[0\]/s],
  ["ids as text", [{ ...byIds, prompt_ids: "1 2" }], /row 1/],
  ["an unknown role", [{ ...conversational, prompt: [{ role: "robot", content: "x" }] }], /row 1.*prompt\[0\]\.role.*"robot"/s],
  ["a message without text", [{ ...conversational, prompt: [{ role: "user", content: null }] }], /prompt\[0\]\.content/],
  ["a prompt that ends with an answer", [{ ...conversational, prompt: [user, { role: "assistant", content: "x" }] }], /prompt\[1\]\.role.*"user"/s],
  ["two chosen messages", [{ ...conversational, chosen: [user, user] }], /field chosen is/],
  ["a chosen message of the user", [{ ...conversational, chosen: [user] }], /chosen\[0\]\.role/],
  ["no prompt", [{ chosen: "a", rejected: "b" }], /field prompt is/],
  ["a prompt as plain text", [{ ...conversational, prompt: "Hi" }], /field prompt is.*list of messages/s],
  ["held_out that is no truth value", [{ ...byIds, held_out: "yes" }], /field held_out/],
];
for (const [name, content, message] of badPairs) {
  test(`pairs: ${name} is an error that names row and field`, async () => {
    const path = file(JSON.stringify(content));
    await assert.rejects(pairsOf(path), (error: Error & { code?: string; exitCode?: number }) => {
      assert.equal(error.code, "ERR_INVALID_DATA");
      assert.equal(error.exitCode, 1);
      assert.ok(error.message.startsWith(path), error.message);
      assert.match(error.message, message);
      return true;
    });
  });
}

test("files that cannot be read say why and where", async () => {
  await assert.rejects(pairsOf(join(folder, "nowhere.json")), { code: "ERR_NO_FILE" });
  await assert.rejects(pairsOf(folder), { code: "ERR_NO_FILE", message: /a folder/ });
  for (const empty of [file(""), file("[]"), file("\n\n", "jsonl")]) await assert.rejects(pairsOf(empty), { code: "ERR_EMPTY" });
  await assert.rejects(pairsOf(file('[{"prompt_ids": [1')), { code: "ERR_INVALID_FILE", message: /not valid JSON/ });
  const torn = file(`${JSON.stringify(byIds)}\n{"prompt_ids": [1`, "jsonl");
  await assert.rejects(pairsOf(torn), { code: "ERR_INVALID_FILE", message: new RegExp(`${torn}:2`) });
  await assert.rejects(pairsOf(file("ARROW1\u0000\u0000nonsense", "arrow")), { code: "ERR_INVALID_FILE", message: /Arrow/ });
});

test("a byte order mark at the start is no part of the data", async () => {
  const mark = "\uFEFF";
  for (const path of [file(`${mark}${JSON.stringify(byIds)}\n`, "jsonl"), file(`${mark}${JSON.stringify([byIds])}`), file(`${mark}${JSON.stringify([byIds], null, 2)}`)]) {
    assert.deepEqual((await pairsOf(path)).map(({ content }) => content), [{ kind: "ids", ids: byIds }], path);
  }
  const chat = [user];
  assert.equal((await chatsOf(file(`${mark}${JSON.stringify(chat)}\n${JSON.stringify(chat)}\n`, "json"))).length, 2);
});

test("an Arrow file that is cut is told as such, with its size", async () => {
  for (const form of ["file", "stream"] as const) {
    const whole = arrow(ids, [byIds, byIds], form);
    for (const size of [20, whole.length >> 1]) {
      const path = file(whole.subarray(0, size), "arrow");
      await assert.rejects(pairsOf(path), (error: Error) => {
        assert.ok(error.message.startsWith(`${path}: the Arrow file is cut off or damaged\n  found:    ${size} bytes`), error.message);
        assert.doesNotMatch(error.message, /Cannot read properties/);
        return true;
      });
    }
  }
  // By its content, whatever its name.
  assert.equal((await pairsOf(file(arrow(ids, [byIds], "stream"), "bin"))).length, 1);
});

const text = `${JSON.stringify(byIds)}\n`;
const foreign: [string, Uint8Array, string][] = [
  ["a Parquet file", Buffer.from("PAR1\u0015\u0004PAR1"), "convert it to one of these forms"],
  ["a gzip file", gzipSync(text), "decompress it first"],
  ["a Zstandard file", Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 1]), "decompress it first"],
  ["text in UTF-16", Buffer.from(`\uFEFF${text}`, "utf16le"), "save it as UTF-8"],
  ["text in UTF-16", Buffer.from(text, "utf16le"), "save it as UTF-8"],
  ["text in UTF-16", Buffer.from(`\uFEFF${text}`, "utf16le").swap16(), "save it as UTF-8"],
  ["a binary file", Buffer.from([1, 2, 0, 0, 10, 3]), "convert it to one of these forms"],
];
test("files of other kinds are named, for pairs and chats", async () => {
  for (const [name, bytes, todo] of foreign) {
    const path = file(bytes, "jsonl");
    for (const read of [pairsOf, chatsOf]) {
      await assert.rejects(read(path), { code: "ERR_INVALID_FILE", message: `${path}: this is ${name}\n  expected: a JSON array, JSON lines or an Arrow file\n  to do:    ${todo}` });
    }
  }
});

test("chats: messages or ids, an array of them or one a line", async () => {
  const chats = [[user], [1, 2, 3]];
  const expected = [{ kind: "chat", messages: [user] }, { kind: "ids", ids: [1, 2, 3] }];
  for (const path of [file(JSON.stringify(chats)), file(chats.map((chat) => JSON.stringify(chat)).join("\n"), "jsonl"), file(chats.map((chat) => JSON.stringify(chat)).join("\n"), "json")]) {
    assert.deepEqual((await chatsOf(path)).map((chat) => (chat.kind === "ids" ? { kind: chat.kind, ids: chat.ids } : { kind: chat.kind, messages: chat.messages })), expected, path);
  }
  await assert.rejects(chatsOf(file(JSON.stringify([{ messages: [user] }]))), { code: "ERR_INVALID_DATA", message: /row 1.*a chat: an array/s });
  await assert.rejects(chatsOf(file(JSON.stringify([[user], []]))), { code: "ERR_INVALID_DATA", message: /row 2/ });
});

const tokenizer = openTokenizer(writeTinyModel(join(folder, "tiny")).path);
const limits = (maxTokens: number) => ({ vocabSize: 1000, maxTokens, limitName: "--max-length" });

test("conversational pairs become the template's ids, answers ending with the end of turn", async () => {
  const [pair] = await pairsOf(file(JSON.stringify([conversational])));
  const row = pairRow(pair as DataPair, () => tokenizer, limits(100));
  assert.equal(tokenizer.decode(row.prompt_ids), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  assert.deepEqual(row.chosen_ids, [...tokenizer.encode("Hello"), tinyImEnd]);
});

test("ids are used as they are, and checked against vocabulary and context", async () => {
  const [pair] = await pairsOf(file(JSON.stringify([byIds])));
  assert.deepEqual(pairRow(pair as DataPair, () => assert.fail("no tokenizer is asked for"), limits(4)), { id: "0", held_out: false, ...byIds });
  assert.throws(() => pairRow(pair as DataPair, () => tokenizer, limits(3)), { code: "ERR_TOO_LONG", message: /row 1.*4 tokens.*at most 3 \(--max-length\)/s });
  assert.throws(() => pairRow(pair as DataPair, () => tokenizer, { ...limits(9), vocabSize: 5 }), { code: "ERR_INVALID_DATA", message: /rejected_ids\[1\].*below the model's 5/s });
});

const turn = (n: number) => [{ role: "user" as const, content: `question ${n}` }, { role: "assistant" as const, content: `answer ${n}` }];

test("of a long conversation the oldest turns go, the persona and the last request never", () => {
  const prompt = [{ role: "system" as const, content: "persona" }, ...turn(1), ...turn(2), { role: "user" as const, content: "last" }];
  const pair = { prompt, chosen: "yes", rejected: "no, not at all" };
  const length = (kept: typeof prompt): number => tokenizer.encodeChat(kept).length + tokenizer.encodeAnswer(pair.rejected).length;
  const texts = (max: number): string | TooLongShape => {
    const result = tokenizePair(tokenizer, pair, max);
    return "tokens" in result ? result : tokenizer.decode(result.prompt_ids);
  };
  const whole = length(prompt);
  assert.match(texts(whole) as string, /persona.*question 1.*question 2.*last/s);
  assert.doesNotMatch(texts(whole - 1) as string, /question 1|answer 1/);
  assert.match(texts(whole - 1) as string, /persona.*question 2.*answer 2.*last/s);
  const least = length([prompt[0], prompt[5]] as typeof prompt);
  assert.match(texts(least) as string, /persona<\|im_end\|>\n<\|im_start\|>user\nlast/);
  assert.deepEqual(texts(least - 1), { tokens: least, max_tokens: least - 1 });
});

interface TooLongShape { tokens: number; max_tokens: number }
