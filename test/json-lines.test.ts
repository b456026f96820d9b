/** JSON lines are cut at line feeds and nowhere else, however long they are and wherever a block of the file ends. */
import assert from "node:assert/strict";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { linesOf, readAllJsonl } from "../lib/files.js";
import { temporaryFolder } from "./helpers/conversations.js";

/** The bytes in blocks of `size`. */
async function* blocksOf(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

async function linesIn(text: string, size: number): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of linesOf(blocksOf(Buffer.from(text), size))) lines.push(line);
  return lines;
}

describe("lines", () => {
  it("end at line feeds: not at U+2028, U+2029, U+0085 or a lone carriage return", async () => {
    assert.deepEqual(await linesIn("a\u2028b\u2029c\u0085d\re\nf\n", 1024), ["a\u2028b\u2029c\u0085d\re", "f"]);
  });

  it("are the same with CRLF and without a line feed at the end", async () => {
    assert.deepEqual(await linesIn("a\r\n\r\nb", 1024), ["a", "", "b"]);
    assert.deepEqual(await linesIn("a\r\n\r\nb\r\n", 1024), ["a", "", "b"]);
    assert.deepEqual(await linesIn("", 1024), []);
    assert.deepEqual(await linesIn("\n", 1024), [""]);
  });

  it("are whole wherever a block ends, in the middle of a character too", async () => {
    const text = "é\u2028太\r\n\n🙏🙏🙏\nÅ";
    for (let size = 1; size <= Buffer.byteLength(text); size += 1) assert.deepEqual(await linesIn(text, size), ["é\u2028太", "", "🙏🙏🙏", "Å"], `blocks of ${size}`);
  });
});

describe("a JSONL file", () => {
  it("keeps line separators inside its texts", async (t) => {
    const path = join(temporaryFolder(t), "logs.jsonl");
    const records = [{ text: "one\u2028two\u2029three\u0085four" }, { text: "five" }];
    writeFileSync(path, records.map((record) => JSON.stringify(record)).join("\r\n"));
    assert.ok(readFileSync(path, "utf8").includes("\u2028"), "JSON.stringify leaves them as they are");
    assert.deepEqual(await readAllJsonl(path, "error"), records);
  });

  it("may hold records longer than any block, a byte order mark and blank lines", async (t) => {
    const path = join(temporaryFolder(t), "logs.jsonl");
    // 3 bytes a character: no block of 2^k bytes ends between two of them every time.
    const records = [{ text: "太".repeat(100_001) }, { text: "🙏".repeat(70_000) }, { text: "" }];
    writeFileSync(path, `\uFEFF${records.map((record) => `${JSON.stringify(record)}\n\n`).join("")}`);
    assert.deepEqual(await readAllJsonl(path, "error"), records);
  });

  it("loses a torn last line where that is asked for, and is otherwise refused with the line", async (t) => {
    const path = join(temporaryFolder(t), "logs.jsonl");
    writeFileSync(path, "{\"a\":\"\u2028\"}\n{\"a\":");
    assert.deepEqual(await readAllJsonl(path), [{ a: "\u2028" }]);
    await assert.rejects(readAllJsonl(path, "error"), (error: Error) => error.message.startsWith(`${path}:2: a line is not JSON`));
    appendFileSync(path, "\n{\"a\":2}\n");
    await assert.rejects(readAllJsonl(path), (error: Error) => error.message.startsWith(`${path}:2: a line is not JSON`));
  });
});
