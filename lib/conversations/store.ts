/** conversations.parquet: written through DuckDB, so that neither sorting nor writing needs the data in memory. */
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import type { DuckDBAppender } from "@duckdb/node-api";
import { RlhiError } from "../errors.js";
import { sha256 } from "../files.js";
import { Database, sqlPath, sqlText } from "./duckdb.js";
import { followUpTurns } from "./types.js";
import type { Conversation } from "./types.js";

const messagesType = "STRUCT(role VARCHAR, content VARCHAR, language VARCHAR, flagged BOOLEAN, gold_label VARCHAR)[]";

/** Conversations in one row group: a reader holds one in memory, a writer one a thread. */
const rowGroupSize = 2048;

/** Text of conversations that is held in memory at once while writing. */
const chunkBytes = 32 * 2 ** 20;

/** Name of the Parquet metadata entry that says how the file was made. */
const madeBy = "rlhi-native";

/**
 * Conversations on their way into a file. Their text goes to a plain file in `${path}.work`; what filters and order need
 * goes to table `staged` (seq, conversation_id, user_id, time_ms, content_hash, language, follow_ups, start, bytes), seq
 * counting up in the order of `add`. So only narrow columns are ever sorted, and memory does not grow with the texts.
 */
export class ConversationStore {
  #appender: DuckDBAppender | undefined;
  #rows = 0;
  #size = 0;

  private constructor(readonly path: string, readonly database: Database, private readonly texts: number) {}

  static async create(path: string): Promise<ConversationStore> {
    const work = workFolder(path);
    let texts: number;
    try {
      mkdirSync(dirname(path), { recursive: true });
      rmSync(work, { recursive: true, force: true });
      mkdirSync(work);
      texts = openSync(join(work, "texts"), "w+");
    } catch (error) {
      throw cannotWrite(path, error);
    }
    const database = await Database.open({ spill: work });
    await database.run(`CREATE TABLE staged (seq INTEGER, conversation_id VARCHAR, user_id VARCHAR, time_ms BIGINT, content_hash VARCHAR,
      language VARCHAR, follow_ups INTEGER, start BIGINT, bytes INTEGER)`);
    const store = new ConversationStore(path, database, texts);
    store.#appender = await database.connection.createAppender("staged");
    return store;
  }

  add(conversation: Conversation): void {
    const text = Buffer.from(JSON.stringify({ context_messages: 0, other_authors: [], ...conversation }));
    this.#guard(() => {
      for (let at = 0; at < text.byteLength; ) at += writeSync(this.texts, text, at, text.byteLength - at, this.#size + at);
      const appender = this.#appender as DuckDBAppender;
      appender.appendInteger((this.#rows += 1));
      appender.appendVarchar(conversation.conversation_id);
      appender.appendVarchar(conversation.user_id);
      appender.appendBigInt(BigInt(Date.parse(conversation.timestamp)));
      appender.appendVarchar(contentHash(conversation));
      appender.appendVarchar(conversation.language);
      appender.appendInteger(followUpTurns(conversation).length);
      appender.appendBigInt(BigInt(this.#size));
      appender.appendInteger(text.byteLength);
      appender.endRow();
      this.#size += text.byteLength;
    });
  }

  /** Must be called once, before any query of `staged`. */
  endAdding(): void {
    this.#guard(() => this.#appender?.closeSync());
    this.#appender = undefined;
  }

  /**
   * Writes the conversations whose seq is in table `keep` (seq), ordered by user, time and id. Ids that occur again get
   * "#2", "#3", ... in that order. Atomic: the file appears whole, under its name, at the end.
   */
  async write(keep: string, facts: Record<string, unknown>): Promise<void> {
    const temporary = join(workFolder(this.path), "conversations.parquet");
    try {
      const parts = await this.#writeParts(keep);
      // The parts are in order and the copy keeps it.
      await this.database.run(`COPY (SELECT * FROM read_parquet([${parts.map(sqlPath).join(", ")}])) TO ${sqlText(temporary)} (FORMAT parquet, COMPRESSION zstd,
        ROW_GROUP_SIZE ${rowGroupSize}, KV_METADATA {${sqlText(madeBy)}: ${sqlText(JSON.stringify(facts))}})`);
      const fd = openSync(temporary, "r");
      fsyncSync(fd);
      closeSync(fd);
      renameSync(temporary, this.path);
    } catch (error) {
      throw cannotWrite(this.path, error);
    }
  }

  /** Files of about chunkBytes of text each, in the final order. */
  async #writeParts(keep: string): Promise<string[]> {
    await this.database.run(`CREATE TABLE placed AS SELECT row_number() OVER (ORDER BY user_id, time_ms, conversation_id, seq) AS place,
      conversation_id || CASE WHEN copy > 1 THEN '#' || copy ELSE '' END AS id, start, bytes
      FROM (SELECT *, row_number() OVER (PARTITION BY conversation_id ORDER BY user_id, time_ms, seq) AS copy FROM staged WHERE seq IN (SELECT seq FROM ${keep}))`);
    const parts: string[] = [];
    let chunk: { id: string; text: string }[] = [];
    let size = 0;
    for await (const [id, start, bytes] of this.database.stream("SELECT id, start::VARCHAR, bytes::VARCHAR FROM placed ORDER BY place")) {
      chunk.push({ id: id ?? "", text: this.#text(Number(start), Number(bytes)) });
      size += Number(bytes);
      if (size < chunkBytes && chunk.length < 16 * rowGroupSize) continue;
      parts.push(await this.#writePart(parts.length, chunk));
      chunk = [];
      size = 0;
    }
    if (chunk.length > 0 || parts.length === 0) parts.push(await this.#writePart(parts.length, chunk));
    return parts;
  }

  #text(start: number, bytes: number): string {
    const text = Buffer.alloc(bytes);
    for (let at = 0; at < bytes; ) {
      const n = readSync(this.texts, text, at, bytes - at, start + at);
      if (n === 0) throw new Error("the work folder was changed while mining");
      at += n;
    }
    return text.toString("utf8");
  }

  /** On a connection of its own: the one that streams `placed` is busy. */
  async #writePart(number: number, chunk: readonly { id: string; text: string }[]): Promise<string> {
    const path = join(workFolder(this.path), `part-${number}.parquet`);
    const database = await Database.open();
    try {
      await database.run("CREATE TABLE chunk (place INTEGER, id VARCHAR, json VARCHAR)");
      const appender = await database.connection.createAppender("chunk");
      for (const [place, { id, text }] of chunk.entries()) {
        appender.appendInteger(place);
        appender.appendVarchar(id);
        appender.appendVarchar(text);
        appender.endRow();
      }
      appender.closeSync();
      await database.run(`COPY (${partQuery}) TO ${sqlText(path)} (FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE ${rowGroupSize})`);
    } finally {
      database.close();
    }
    return path;
  }

  /** Frees the memory and removes the work folder, whether or not the file was written. */
  close(): void {
    closeSync(this.texts);
    this.database.close();
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      throw cannotWrite(this.path, error);
    }
  }
}

const partQuery = `
  SELECT id AS conversation_id, json_extract_string(json, '$.user_id') AS user_id, CAST(json_extract_string(json, '$.timestamp') AS TIMESTAMPTZ) AS timestamp,
    CAST(json_extract_string(json, '$.began') AS TIMESTAMPTZ) AS began, CAST(json_extract_string(json, '$.ended') AS TIMESTAMPTZ) AS ended,
    json_extract_string(json, '$.source') AS source, json_extract_string(json, '$.model') AS model, json_extract_string(json, '$.language') AS language,
    CAST(json_extract(json, '$.flagged') AS BOOLEAN) AS flagged,
    from_json(json_extract(json, '$.messages'), '[{"role":"VARCHAR","content":"VARCHAR","language":"VARCHAR","flagged":"BOOLEAN","gold_label":"VARCHAR"}]')::${messagesType} AS messages,
    CAST(json_extract(json, '$.context_messages') AS INTEGER) AS context_messages,
    CAST(json_extract(json, '$.other_authors') AS VARCHAR[]) AS other_authors
  FROM chunk ORDER BY place`;

function workFolder(path: string): string {
  return `${path}.work`;
}

/** Users' messages and answers, whoever had them, whenever. */
function contentHash(conversation: Conversation): string {
  const turns = conversation.messages.filter(({ role }) => role !== "system");
  return sha256(JSON.stringify(turns.map(({ role, content }) => [role, content]))).slice(0, 32);
}

function cannotWrite(path: string, error: unknown): RlhiError {
  const message = (error as Error).message.split("\n")[0] ?? "";
  const full = /space|ENOSPC|could not write/i.test(message);
  return new RlhiError("ERR_WRITE", {
    what: "cannot write the conversations",
    where: path,
    found: message,
    todo: full ? "free some disk space (about twice the data's size) and run the same command again" : "check that the folder is writable",
    cause: error,
  });
}

/** Writes conversations as they are: for tools that change a mined file, and for tests. */
export async function writeConversations(path: string, conversations: AsyncIterable<Conversation> | Iterable<Conversation>, facts: Record<string, unknown> = {}): Promise<void> {
  const store = await ConversationStore.create(path);
  try {
    for await (const conversation of conversations) store.add(conversation);
    store.endAdding();
    await store.write("staged", facts);
  } finally {
    store.close();
  }
}

/** A row as it is read: times in milliseconds. */
type StoredConversation = Omit<Conversation, "timestamp" | "began" | "ended"> & { timestamp: number; began: number | null; ended: number | null };

function isoOrNull(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

/** Streams conversations.parquet in its order: by user, then time. Throws where it is missing or damaged. */
export async function* readConversations(path: string): AsyncGenerator<Conversation> {
  const database = await Database.open();
  try {
    const sql = `SELECT to_json({conversation_id: conversation_id, user_id: user_id, timestamp: epoch_ms(timestamp), began: epoch_ms(began), ended: epoch_ms(ended),
      source: source, model: model, language: language, flagged: flagged, messages: messages, context_messages: context_messages,
      other_authors: other_authors})::VARCHAR FROM read_parquet(${sqlPath(path)})`;
    for await (const [json] of database.stream(sql)) {
      const row = JSON.parse(json as string) as StoredConversation;
      yield { ...row, timestamp: new Date(row.timestamp).toISOString(), began: isoOrNull(row.began), ended: isoOrNull(row.ended) };
    }
  } catch (error) {
    throw cannotRead(path, error);
  } finally {
    database.close();
  }
}

/** The facts that were written with the file, or undefined where there is no such file or it is no file of ours. */
export async function conversationFacts(path: string): Promise<Record<string, unknown> | undefined> {
  const database = await Database.open();
  try {
    const rows = await database.rows<{ value: string }>(`SELECT decode(value) AS value FROM parquet_kv_metadata(${sqlPath(path)}) WHERE decode(key) = ${sqlText(madeBy)}`);
    return rows[0] === undefined ? undefined : JSON.parse(rows[0].value) as Record<string, unknown>;
  } catch {
    return undefined;
  } finally {
    database.close();
  }
}

function cannotRead(path: string, error: unknown): RlhiError {
  return new RlhiError("ERR_INVALID_FILE", {
    what: "cannot read the mined conversations",
    where: path,
    found: (error as Error).message.split("\n")[0],
    todo: "run `rlhi-native mine` again: it makes this file anew",
    cause: error,
  });
}
