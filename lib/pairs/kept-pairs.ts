/** Pairs on their way into pairs.jsonl: texts in a file, in memory only what their order and the cap on a user's pairs need. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { writeError } from "../files.js";
import type { PairRecord } from "./types.js";

/** Where a pair's line lies in the file. */
interface Place {
  id: string;
  user_id: string;
  start: number;
  bytes: number;
}

export class KeptPairs {
  readonly #fd: number;
  readonly #places: Place[] = [];
  #size = 0;

  /** `path` is emptied if it is there. */
  constructor(readonly path: string) {
    try {
      this.#fd = openSync(path, "w+");
    } catch (error) {
      throw writeError(path, error);
    }
  }

  append(pair: PairRecord): void {
    const line = Buffer.from(`${JSON.stringify(pair)}\n`);
    try {
      for (let at = 0; at < line.byteLength; ) at += writeSync(this.#fd, line, at, line.byteLength - at, this.#size + at);
    } catch (error) {
      throw writeError(this.path, error);
    }
    this.#places.push({ id: pair.id, user_id: pair.user_id, start: this.#size, bytes: line.byteLength });
    this.#size += line.byteLength;
  }

  /** Ids and users of all pairs. */
  get owners(): readonly Pick<PairRecord, "id" | "user_id">[] {
    return this.#places;
  }

  /** Every pair, by ascending id, read from the file one by one. */
  *byId(): Generator<PairRecord> {
    for (const { start, bytes } of this.#places.toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
      const line = Buffer.alloc(bytes);
      for (let at = 0; at < bytes; ) {
        const n = readSync(this.#fd, line, at, bytes - at, start + at);
        if (n === 0) throw new Error(`${this.path} was changed while pairs were chosen`);
        at += n;
      }
      yield JSON.parse(line.toString("utf8")) as PairRecord;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}
