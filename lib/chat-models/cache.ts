/**
 * Answers of chat models on disk, by hash of the model's fingerprint and the whole request, so that a stage run again asks
 * only for what it never got. One append-only JSONL file a model; torn or damaged lines count as absent.
 */
import { closeSync, existsSync, mkdirSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { JsonlAppender, sha256 } from "../files.js";
import type { BatchOptions, ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Score, ScoreRequest } from "./types.js";
import type { Message } from "../conversations/types.js";

/** Raised when what an entry means changes. */
const format = 2;
const keyLength = 64;
/** A line is {"k":"<key>","s":"<checksum>","v":<value>}: the key stands at a known place. */
const keyStart = '{"k":"'.length;

interface Entry {
  offset: number;
  bytes: number;
}

/** Values by key in one file. Keys and places are held in memory, values are read when asked for. */
export class AnswerCache {
  readonly #entries = new Map<string, Entry>();
  readonly #appender: JsonlAppender;
  readonly #fd: number;
  #size: number;

  constructor(readonly path: string) {
    this.#appender = new JsonlAppender(path);
    this.#fd = openSync(path, "r");
    this.#size = this.#scan();
  }

  /** Notes where each line's value is; returns the file's size. */
  #scan(): number {
    const block = Buffer.alloc(1 << 20);
    let carried: Buffer = Buffer.alloc(0);
    let start = 0;
    for (let at = 0; ; ) {
      const n = readSync(this.#fd, block, 0, block.byteLength, at);
      if (n === 0) return at;
      at += n;
      carried = Buffer.concat([carried, block.subarray(0, n)]);
      let from = 0;
      for (let end = carried.indexOf(10); end >= 0; end = carried.indexOf(10, from)) {
        const key = carried.toString("latin1", from + keyStart, Math.min(end, from + keyStart + keyLength));
        if (/^[0-9a-f]{64}$/.test(key)) this.#entries.set(key, { offset: start + from, bytes: end - from });
        from = end + 1;
      }
      start += from;
      carried = Buffer.from(carried.subarray(from));
    }
  }

  /** undefined where there is none, or where what is there is damaged. */
  get(key: string): unknown {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    const line = Buffer.alloc(entry.bytes);
    readSync(this.#fd, line, 0, entry.bytes, entry.offset);
    try {
      const { k, s, v } = JSON.parse(line.toString("utf8")) as { k: unknown; s: unknown; v: unknown };
      if (k === key && s === checksum(v)) return v;
    } catch {
      // Damaged: as if it were not there.
    }
    this.#entries.delete(key);
    return undefined;
  }

  set(key: string, value: unknown): void {
    const line = { k: key, s: checksum(value), v: value };
    this.#appender.append(line);
    const bytes = Buffer.byteLength(JSON.stringify(line));
    this.#entries.set(key, { offset: this.#size, bytes });
    this.#size += bytes + 1;
  }

  close(): void {
    this.#appender.close();
    closeSync(this.#fd);
  }
}

function checksum(value: unknown): string {
  return sha256(JSON.stringify(value)).slice(0, 16);
}

/** A chat model that remembers. Equal requests of one batch are asked once. */
export class CachedChatModel implements ChatModel {
  #cache: AnswerCache | undefined;

  /** `dir` is made when first written to. */
  constructor(readonly inner: ChatModel, readonly dir: string) {}

  get spec(): string {
    return this.inner.spec;
  }
  get context_length(): number {
    return this.inner.context_length;
  }
  fingerprint(): Promise<string> {
    return this.inner.fingerprint();
  }
  countTokens(messages: Message[]): number {
    return this.inner.countTokens(messages);
  }

  chat(requests: ChatRequest[], options?: BatchOptions<Completion[]>): Promise<Completion[][]> {
    return this.#through("chat", requests, options, (missing, inner) => this.inner.chat(missing, inner));
  }
  chooseLabel(requests: LabelRequest[], options?: BatchOptions<LabelChoice>): Promise<LabelChoice[]> {
    return this.#through("label", requests, options, (missing, inner) => this.inner.chooseLabel(missing, inner));
  }
  score(requests: ScoreRequest[], options?: BatchOptions<Score>): Promise<Score[]> {
    return this.#through("score", requests, options, (missing, inner) => this.inner.score(missing, inner));
  }

  async #through<Request, Result>(
    kind: string,
    requests: Request[],
    options: BatchOptions<Result> | undefined,
    ask: (missing: Request[], options: BatchOptions<Result>) => Promise<Result[]>,
  ): Promise<Result[]> {
    const fingerprint = await this.inner.fingerprint();
    const cache = this.#open(fingerprint);
    const results: Result[] = [];
    const waiting = new Map<string, number[]>();
    requests.forEach((request, index) => {
      const key = sha256(JSON.stringify([format, fingerprint, kind, request]));
      const known = cache.get(key) as Result | undefined;
      if (known === undefined) waiting.set(key, [...(waiting.get(key) ?? []), index]);
      else {
        results[index] = known;
        options?.onResult?.(index, known);
      }
    });
    const missing = [...waiting];
    if (missing.length === 0) return results;
    await ask(missing.map(([, indices]) => requests[indices[0] as number] as Request), {
      signal: options?.signal,
      onResult: (position, result) => {
        const [key, indices] = missing[position] as [string, number[]];
        cache.set(key, result);
        for (const index of indices) {
          results[index] = result;
          options?.onResult?.(index, result);
        }
      },
    });
    return results;
  }

  #open(fingerprint: string): AnswerCache {
    if (this.#cache === undefined) {
      if (!existsSync(this.dir)) mkdirSync(this.dir, { recursive: true });
      this.#cache = new AnswerCache(join(this.dir, `${sha256(fingerprint).slice(0, 16)}.jsonl`));
    }
    return this.#cache;
  }

  async close(): Promise<void> {
    this.#cache?.close();
    this.#cache = undefined;
    await this.inner.close();
  }
}
