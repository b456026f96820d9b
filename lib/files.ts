/** Files that survive kill -9: whole-file writes are atomic, appended JSON lines lose at most a torn last line. */
import { closeSync, createReadStream, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { RlhiError } from "./errors.js";

/** Writes all of `data`: a short write (a nearly full disk) is continued, so the system's error is what is reported. */
function writeAll(fd: number, data: Uint8Array): void {
  for (let at = 0; at < data.byteLength; ) at += writeSync(fd, data, at, data.byteLength - at);
}

/** Writes under a temporary name in the same folder, syncs, renames: readers see the old file or the new one, never a part. */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    const fd = openSync(temporary, "w");
    try {
      writeAll(fd, typeof data === "string" ? Buffer.from(data) : data);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw writeError(path, error);
  }
}

function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Throws where a file could not be written at `path`: told before the work whose result is to go there. Nothing is changed. */
export function requireWritable(path: string): void {
  const isNew = !existsSync(path);
  try {
    closeSync(openSync(path, "a"));
    if (isNew) rmSync(path);
  } catch (error) {
    throw writeError(path, error);
  }
}

/** What a failed write tells the user: a full disk asks for space, everything else for a writable place. */
export function writeError(path: string, error: unknown): RlhiError {
  const code = (error as NodeJS.ErrnoException).code;
  return new RlhiError("ERR_WRITE", {
    what: `cannot write: ${(error as Error).message}`,
    where: path,
    todo: code === "ENOSPC" ? "free some disk space and run the same command again: it goes on from here" : "check that the folder exists and is writable",
    cause: error,
  });
}

/**
 * Appends JSON lines. Opening cuts a torn last line (no newline at its end: the process died while writing it). A failed
 * append takes its own partial line back, so the file stays whole.
 */
export class JsonlAppender {
  readonly #fd: number;
  #size: number;

  constructor(readonly path: string) {
    try {
      this.#fd = openSync(path, existsSync(path) ? "r+" : "w+");
    } catch (error) {
      throw writeError(path, error);
    }
    this.#size = endOfLastWholeLine(this.#fd);
    if (this.#size < fstatSync(this.#fd).size) ftruncateSync(this.#fd, this.#size);
  }

  append(value: unknown): void {
    const line = Buffer.from(JSON.stringify(value) + "\n");
    try {
      for (let at = 0; at < line.byteLength; ) at += writeSync(this.#fd, line, at, line.byteLength - at, this.#size + at);
      this.#size += line.byteLength;
    } catch (error) {
      ftruncateSync(this.#fd, this.#size);
      throw writeError(this.path, error);
    }
  }

  close(): void {
    fsyncSync(this.#fd);
    closeSync(this.#fd);
  }
}

function endOfLastWholeLine(fd: number): number {
  const block = Buffer.alloc(1 << 16);
  let end = fstatSync(fd).size;
  while (end > 0) {
    const start = Math.max(0, end - block.byteLength);
    const n = readSync(fd, block, 0, end - start, start);
    const newline = block.subarray(0, n).lastIndexOf(10);
    if (newline >= 0) return start + newline + 1;
    end = start;
  }
  return 0;
}

/** What to do with a last line that has no newline and does not parse: our own files tolerate it, users' files do not. */
export type TornLine = "drop" | "error";

/**
 * The lines of a stream of UTF-8, cut at line feeds alone: JSON may hold U+2028 and U+2029 as they are, which readline takes
 * for line ends. A carriage return before the line feed goes too. The end of the stream ends the last line.
 */
export async function* linesOf(blocks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let pieces: Uint8Array[] = [];
  for await (const block of blocks) {
    let start = 0;
    for (let end = block.indexOf(10); end >= 0; end = block.indexOf(10, start)) {
      yield lineText([...pieces, block.subarray(start, end)]);
      pieces = [];
      start = end + 1;
    }
    if (start < block.byteLength) pieces.push(block.subarray(start));
  }
  if (pieces.length > 0) yield lineText(pieces);
}

/** Decoded as a whole: a character may begin in one block and end in the next. */
function lineText(pieces: readonly Uint8Array[]): string {
  const text = Buffer.concat(pieces).toString("utf8");
  return text.endsWith("\r") ? text.slice(0, -1) : text;
}

/** Streams a JSONL file; a missing file is empty. Blank lines are skipped. Errors name the file and the line. */
export async function* readJsonl<T>(path: string, tornLine: TornLine = "drop"): AsyncGenerator<T> {
  if (!existsSync(path)) return;
  let number = 0;
  let pending: { error: Error; line: number } | undefined;
  for await (const line of linesOf(createReadStream(path))) {
    number += 1;
    if (pending !== undefined) throw badLine(path, pending.line, pending.error);
    if (line.trim() === "") continue;
    let value: T;
    try {
      value = JSON.parse(number === 1 ? line.replace(/^\uFEFF/, "") : line) as T;
    } catch (error) {
      pending = { error: error as Error, line: number };
      continue;
    }
    yield value;
  }
  if (pending !== undefined && tornLine === "error") throw badLine(path, pending.line, pending.error);
}

function badLine(path: string, line: number, error: Error): RlhiError {
  return new RlhiError("ERR_INVALID_FILE", {
    what: "a line is not JSON",
    where: `${path}:${line}`,
    expected: "one complete JSON value a line",
    found: error.message,
    todo: "repair or remove that line (a torn last line often means the file was cut while it was copied)",
  });
}

export async function readAllJsonl<T>(path: string, tornLine: TornLine = "drop"): Promise<T[]> {
  const all: T[] = [];
  for await (const value of readJsonl<T>(path, tornLine)) all.push(value);
  return all;
}

/**
 * Leaves of a JSONL file the records that `keep` takes, one at a time, under a temporary name and renamed: a kill leaves the old
 * file or the new one. A torn last line goes; a missing file stays missing.
 */
export async function filterJsonl(path: string, keep: (record: unknown) => boolean): Promise<void> {
  if (!existsSync(path)) return;
  const temporary = `${path}.tmp-${process.pid}`;
  rmSync(temporary, { force: true });
  try {
    const kept = new JsonlAppender(temporary);
    try {
      for await (const record of readJsonl<unknown>(path)) if (keep(record)) kept.append(record);
    } finally {
      kept.close();
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
  } finally {
    rmSync(temporary, { force: true });
  }
}

export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** SHA-256 of a file's bytes, read in blocks. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const block of createReadStream(path)) hash.update(block as Uint8Array);
  return hash.digest("hex");
}
