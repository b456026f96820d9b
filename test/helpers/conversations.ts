/** Small log files for tests. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { DuckDBInstance } from "@duckdb/node-api";
import { runConfigSchema } from "../../lib/config.js";
import type { RunConfig } from "../../lib/config.js";
import { readConversations } from "../../lib/conversations/index.js";
import type { Conversation } from "../../lib/conversations/types.js";

/** A folder that is removed when the test ends. */
export function temporaryFolder(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "rlhi-test-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export function writeJsonl(path: string, records: readonly unknown[]): string {
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return path;
}

/** Parquet from a query of DuckDB. */
export async function writeParquet(path: string, query: string): Promise<string> {
  const instance = await DuckDBInstance.create(":memory:");
  const connection = await instance.connect();
  await connection.run(`COPY (${query}) TO '${path}' (FORMAT parquet)`);
  connection.closeSync();
  instance.closeSync();
  return path;
}

/** Settings of mining that drop nothing, changed by `changes`. */
export function miningSettings(path: string | string[], changes: Record<string, unknown> = {}): RunConfig["data"] {
  return runConfigSchema.shape.data.parse({ path, min_conversations: 1, ...changes });
}

export async function readAll(path: string): Promise<Conversation[]> {
  const all: Conversation[] = [];
  for await (const conversation of readConversations(path)) all.push(conversation);
  return all;
}

/** A record of the plain form: `texts` are user, assistant, user, ... */
export function plain(user_id: string, conversation_id: string, timestamp: string | number | null, texts: readonly string[], more: Record<string, unknown> = {}): Record<string, unknown> {
  return { user_id, conversation_id, timestamp, messages: texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })), ...more };
}
