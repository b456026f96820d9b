/** Files of any supported container as a stream of records: Parquet and JSON arrays by DuckDB, JSONL line by line. */
import { createReadStream, existsSync, statSync } from "node:fs";
import { basename } from "node:path";
import { RlhiError } from "../../errors.js";
import { headOf, kindNames, kindOf, remedyFor } from "../../file-kind.js";
import { readJsonl } from "../../files.js";
import { Database, sqlName, sqlPath, sqlText } from "../duckdb.js";
import { isRecord } from "./source.js";
import type { Source, SourceRecord } from "./source.js";

export type Container = "parquet" | "json" | "jsonl";

/** Longest single JSON object inside an array. */
const maxObjectBytes = 64 * 2 ** 20;

/** Existing files as they are named; others as glob patterns (`*`, `?`, `[a-z]`, `**`), each pattern's files in order of name. */
export async function expandPaths(paths: readonly string[]): Promise<string[]> {
  const database = await Database.open();
  try {
    const found: string[] = [];
    for (const path of paths) found.push(...(existsSync(path) ? [path] : await matches(database, path)));
    for (const file of found) refuseFolder(file);
    return [...new Set(found)];
  } finally {
    database.close();
  }
}

async function matches(database: Database, pattern: string): Promise<string[]> {
  const missing = (cause?: unknown): RlhiError => new RlhiError("ERR_NOT_FOUND", {
    what: "no such conversation file",
    where: pattern,
    found: /[*?[]/.test(pattern) ? "no file that this pattern matches" : "nothing at this path",
    todo: "check data.path (or --data): local files or glob patterns such as logs/*.parquet",
    cause,
  });
  // glob() of a URL would want an extension from the network.
  if (/^[a-z][a-z0-9+]+:\/\//i.test(pattern)) throw missing();
  const files = await database.rows<{ file: string }>(`SELECT file FROM glob(${sqlText(pattern)}) ORDER BY file`);
  if (files.length === 0) throw missing();
  return files.map(({ file }) => file);
}

function refuseFolder(path: string): void {
  if (!statSync(path).isDirectory()) return;
  throw new RlhiError("ERR_NOT_FOUND", { what: "a folder, where a file is expected", where: path, todo: `name its files, e.g. ${path.replace(/\/$/, "")}/*.parquet` });
}

/** By content, not by name: Parquet's magic bytes, "[" for an array, otherwise lines. Throws for an empty file. */
export function containerOf(path: string): Container {
  const head = headOf(path);
  const kind = kindOf(head);
  if (kind === "parquet") return kind;
  const text = head.toString("utf8").replace(/^\uFEFF/, "").trimStart();
  if (text === "") throw new RlhiError("ERR_EMPTY", { what: "the file is empty", where: path, expected: "conversations as Parquet, JSON or JSONL", todo: "check how the file was made" });
  if (kind === "text" && text.startsWith("[")) return "json";
  if (kind === "text" && text.startsWith("{")) return "jsonl";
  throw new RlhiError("ERR_INVALID_FILE", {
    what: "not a conversation file",
    where: path,
    expected: "Parquet (begins with PAR1), a JSON array or JSON lines",
    found: kind === "text" ? `it begins with ${JSON.stringify(text.slice(0, 20))}` : kindNames[kind],
    todo: remedyFor(kind),
  });
}

/** Objects of a JSON file by which its source is told: one alone may be without turns, or without a column that others have. */
const sampleSize = 100;

/** The columns a file has: of Parquet its schema, of JSON the keys of the first objects, which come with them. */
export async function columnsOf(path: string, container: Container): Promise<{ columns: string[]; sample?: Record<string, unknown>[] }> {
  if (container !== "parquet") {
    const sample: Record<string, unknown>[] = [];
    for await (const { value } of container === "json" ? readArray(path) : readLines(path)) if (sample.push(value) === sampleSize) break;
    if (sample.length > 0) return { columns: [...new Set(sample.flatMap((value) => Object.keys(value)))], sample };
    throw new RlhiError("ERR_EMPTY", { what: "the file holds no conversation", where: path, todo: "check how the file was made" });
  }
  const database = await Database.open();
  try {
    const rows = await database.rows<{ column_name: string }>(`SELECT column_name FROM (DESCRIBE SELECT * FROM read_parquet(${sqlPath(path)}))`);
    return { columns: rows.map((row) => row.column_name) };
  } catch (error) {
    throw unreadable(path, error);
  } finally {
    database.close();
  }
}

/** How many records a file holds, for progress: Parquet says it, other files are counted. */
export async function countRecords(path: string, container: Container): Promise<number> {
  if (container === "jsonl") return countLines(path);
  const database = await Database.open();
  try {
    const table = container === "parquet" ? `read_parquet(${sqlPath(path)})` : `read_json_objects(${sqlPath(path)}, format = 'array', maximum_object_size = ${maxObjectBytes})`;
    const [row] = await database.rows<{ n: bigint }>(`SELECT count(*) AS n FROM ${table}`);
    return Number(row?.n ?? 0);
  } catch (error) {
    throw unreadable(path, error);
  } finally {
    database.close();
  }
}

async function countLines(path: string): Promise<number> {
  let lines = 0;
  let last = 10;
  for await (const block of createReadStream(path, { highWaterMark: 1 << 20 })) {
    const bytes = block as Buffer;
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines += 1;
    last = bytes.at(-1) ?? last;
  }
  return last === 10 ? lines : lines + 1;
}

/** Records in the file's order; of Parquet only the columns that `source` uses. */
export async function* readRecords(path: string, container: Container, source: Source): AsyncGenerator<SourceRecord> {
  if (container === "parquet") yield* readParquet(path, source);
  else yield* container === "json" ? readArray(path) : readLines(path);
}

async function* readLines(path: string): AsyncGenerator<SourceRecord> {
  let number = 0;
  for await (const value of readJsonl<unknown>(path, "error")) yield recordOf(value, `${path}: record ${(number += 1)}`);
}

async function* readArray(path: string): AsyncGenerator<SourceRecord> {
  const sql = `SELECT json::VARCHAR FROM read_json_objects(${sqlPath(path)}, format = 'array', maximum_object_size = ${maxObjectBytes})`;
  yield* query(path, "entry", () => sql);
}

async function* readParquet(path: string, source: Source): AsyncGenerator<SourceRecord> {
  const { columns } = await columnsOf(path, "parquet");
  yield* query(path, "row", async (database) => {
    const wanted = [...source.required, ...Object.values(source.alias ?? {}), ...source.optional].filter((column) => columns.includes(column));
    const selected: string[] = [];
    for (const column of wanted) selected.push(`${await columnSql(database, path, column, source)} AS ${sqlName(column)}`);
    return `SELECT to_json(t)::VARCHAR FROM (SELECT ${selected.join(", ")} FROM read_parquet(${sqlPath(path)})) t`;
  });
}

/** The source's own SQL for a column if it fits this file (schemas differ between releases), else the whole column. */
async function columnSql(database: Database, path: string, column: string, source: Source): Promise<string> {
  const smaller = source.parquet?.[column];
  if (smaller === undefined) return sqlName(column);
  try {
    await database.run(`SELECT ${smaller} FROM read_parquet(${sqlPath(path)}) LIMIT 0`);
    return smaller;
  } catch {
    return sqlName(column);
  }
}

async function* query(path: string, unit: string, sql: (database: Database) => string | Promise<string>): AsyncGenerator<SourceRecord> {
  const database = await Database.open();
  try {
    let number = 0;
    for await (const [json] of database.stream(await sql(database))) {
      yield recordOf(JSON.parse(json ?? "null"), `${path}: ${unit} ${(number += 1)}`);
    }
  } catch (error) {
    throw error instanceof RlhiError ? error : unreadable(path, error);
  } finally {
    database.close();
  }
}

function recordOf(value: unknown, where: string): SourceRecord {
  if (isRecord(value)) return { value, where };
  throw new RlhiError("ERR_INVALID_FILE", { what: "not an object", where, expected: "one JSON object a conversation", found: JSON.stringify(value).slice(0, 60), todo: "convert the file to one of the documented forms" });
}

function unreadable(path: string, error: unknown): RlhiError {
  return new RlhiError("ERR_INVALID_FILE", {
    what: "the file cannot be read",
    where: path,
    found: (error as Error).message.split("\n")[0],
    todo: `copy or download ${basename(path)} again: it is damaged or was cut`,
    cause: error,
  });
}
