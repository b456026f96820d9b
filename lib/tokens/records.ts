/** Records of a data file, whatever holds them: a JSON array, JSON lines, or Arrow (file or stream). */
import { existsSync, readFileSync, statSync } from "node:fs";
import { RlhiError } from "../errors.js";
import { headOf, kindNames, kindOf, remedyFor } from "../file-kind.js";
import { readJsonl } from "../files.js";

export interface DataRecord {
  /** From 0, in file order. */
  index: number;
  value: unknown;
  /** "FILE row N", N counted from 1: for messages. */
  where: string;
}

const forms = "a JSON array, JSON lines or an Arrow file";

/** Streams the records. Throws ERR_NO_FILE, ERR_INVALID_FILE (naming the line) and ERR_EMPTY where the file holds none. */
export async function* readRecords(path: string): AsyncGenerator<DataRecord> {
  let index = 0;
  for await (const value of values(path)) {
    yield { index, value, where: `${path} row ${index + 1}` };
    index += 1;
  }
  if (index === 0) throw new RlhiError("ERR_EMPTY", { what: "the data file holds nothing", where: path, expected: `${forms} with at least one row` });
}

async function* values(path: string): AsyncGenerator {
  refuseMissing(path);
  const head = headOf(path);
  const kind = kindOf(head);
  // A damaged Arrow file is still meant as one.
  if (kind === "arrow" || ((kind === "text" || kind === "binary") && /\.(arrow|feather|ipc)$/i.test(path))) {
    yield* arrowRows(path);
    return;
  }
  if (kind !== "text") throw new RlhiError("ERR_INVALID_FILE", { what: `this is ${kindNames[kind]}`, where: path, expected: forms, todo: remedyFor(kind) });
  const first = head.toString("utf8").trimStart()[0];
  // A line may itself be an array (a chat), so that only the whole text decides; objects are always a line each.
  if (first === "[" && !/\.(jsonl|ndjson)$/i.test(path)) {
    const whole = parseWhole(path);
    if (whole !== undefined) {
      yield* whole;
      return;
    }
  }
  yield* readJsonl(path, "error");
}

function refuseMissing(path: string): void {
  if (!existsSync(path)) throw new RlhiError("ERR_NO_FILE", { what: "there is no such data file", where: path, expected: forms, todo: "check the path" });
  if (statSync(path).isDirectory()) throw new RlhiError("ERR_NO_FILE", { what: "a folder, not a data file", where: path, expected: forms });
}

/** The array that the file is, or undefined where its first line is JSON by itself (JSON lines). Throws where it is neither. */
function parseWhole(path: string): unknown[] | undefined {
  const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
  try {
    return JSON.parse(text) as unknown[];
  } catch (error) {
    const firstLine = text.trimStart().split("\n", 1)[0] ?? "";
    if (isJson(firstLine)) return undefined;
    throw new RlhiError("ERR_INVALID_FILE", {
      what: "not valid JSON",
      where: path,
      expected: "a JSON array, or one JSON value a line",
      found: (error as Error).message,
      todo: "repair the file (an end that is missing often means it was cut while it was copied)",
      cause: error,
    });
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

async function* arrowRows(path: string): AsyncGenerator {
  const { RecordBatchReader } = await import("apache-arrow");
  try {
    const reader = RecordBatchReader.from(readFileSync(path));
    for (const batch of reader) {
      for (let row = 0; row < batch.numRows; row += 1) yield Object.fromEntries(batch.schema.fields.map((field) => [field.name, plain(batch.getChild(field.name)?.get(row))]));
    }
  } catch (error) {
    throw damagedArrow(path, error);
  }
}

/** The package's own message is told where it speaks of the file: of one that is cut it is often an error of JavaScript. */
function damagedArrow(path: string, cause: unknown): RlhiError {
  const reason = cause instanceof TypeError || cause instanceof RangeError ? "" : `: ${(cause as Error).message}`;
  return new RlhiError("ERR_INVALID_FILE", {
    what: "the Arrow file is cut off or damaged",
    where: path,
    found: `${statSync(path).size} bytes${reason}`,
    todo: "write or copy the file again",
    cause,
  });
}

/** Arrow's vectors and struct rows as arrays and objects, 64-bit integers as numbers. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "object" || value === null) return value;
  if (Symbol.iterator in value && "length" in value) return Array.from(value as Iterable<unknown>, plain);
  const json = "toJSON" in value && typeof value.toJSON === "function" ? (value.toJSON() as unknown) : value;
  return typeof json === "object" && json !== null ? Object.fromEntries(Object.entries(json).map(([key, item]) => [key, plain(item)])) : json;
}
