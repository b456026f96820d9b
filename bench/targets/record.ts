/** targets.json: every finished row with the settings it was measured under, so that a killed run loses the row in work alone. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { RlhiError } from "../../lib/errors.js";
import { requireWritable, writeFileAtomic } from "../../lib/files.js";
import type { Rounds } from "../peers/rounds.js";
import type { Verdict } from "./verdicts.js";

/** What a row's figures depend on besides the row itself. */
export interface Settings {
  instructions: string;
  threads: number;
  rounds: number;
  cpu: string;
  /** Of the engine's binary: another build is measured anew. */
  addon: string;
  /** The file that llama.cpp ran, for rows in which it does. */
  gguf: string | null;
}

export interface RecordedRow extends Rounds {
  measurement: string;
  settings: Settings;
  /** When it was finished, ISO 8601. */
  finished: string;
  verdicts: Verdict[];
}

export class TargetsRecord {
  readonly #path: string | undefined;
  readonly #rows: RecordedRow[];

  /**
   * Of a folder that need not be there yet; undefined keeps nothing. Throws where the file is there and is not such a record, or
   * cannot be written.
   */
  constructor(folder: string | undefined) {
    this.#path = folder === undefined ? undefined : join(folder, "targets.json");
    this.#rows = this.#path !== undefined && existsSync(this.#path) ? readRows(this.#path) : [];
    if (folder === undefined || this.#path === undefined) return;
    mkdirSync(folder, { recursive: true });
    requireWritable(this.#path);
  }

  /** The row of this measurement, if it was finished without a failure under the same settings. */
  find(measurement: string, settings: Settings): RecordedRow | undefined {
    return this.#rows.find((row) => row.measurement === measurement && row.failures.length === 0 && isDeepStrictEqual(row.settings, settings));
  }

  /** In place of what was known of this measurement under the same instructions; on disk when it returns. */
  put(row: RecordedRow): void {
    const at = this.#rows.findIndex((one) => one.measurement === row.measurement && one.settings.instructions === row.settings.instructions);
    if (at < 0) this.#rows.push(row);
    else this.#rows[at] = row;
    if (this.#path !== undefined) writeFileAtomic(this.#path, `${JSON.stringify({ rows: this.#rows }, null, 1)}\n`);
  }
}

function readRows(path: string): RecordedRow[] {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    content = error;
  }
  const rows = typeof content === "object" && content !== null && "rows" in content ? content.rows : undefined;
  if (Array.isArray(rows)) return rows as RecordedRow[];
  throw new RlhiError("ERR_INVALID_FILE", {
    what: "not a record of bench:targets", where: path, expected: "a JSON object with rows", todo: "move the file away, or give --out another folder",
  });
}
