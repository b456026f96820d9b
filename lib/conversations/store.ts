/** conversations.parquet: written through DuckDB, so that neither sorting nor writing needs the data in memory. */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync } from "node:fs";
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

/** Name of the Parquet metadata entry that says how the file was made. */
const madeBy = "rlhi-native";

/**
 * Conversations on their way into a file: table `staged` (seq, conversation_id, user_id, time_ms, content_hash, language,
 * follow_ups, json), seq counting up in the order of `add`. Data that does not fit into memory lies in `${path}.work`.
 */
export class ConversationStore {
  #appender: DuckDBAppender | undefined;
  #rows = 0;

  private constructor(readonly path: string, readonly database: Database) {}

  static async create(path: string): Promise<ConversationStore> {
    const work = `${path}.work`;
    try {
      mkdirSync(dirname(path), { recursive: true });
      rmSync(work, { recursive: true, force: true });
      mkdirSync(work);
    } catch (error) {
      throw cannotWrite(path, error);
    }
    const database = await Database.open({ spill: work });
    await database.run(`CREATE TABLE staged (seq INTEGER, conversation_id VARCHAR, user_id VARCHAR, time_ms BIGINT, content_hash VARCHAR,
      language VARCHAR, follow_ups INTEGER, json VARCHAR)`);
    const store = new ConversationStore(path, database);
    store.#appender = await database.connection.createAppender("staged");
    return store;
  }

  add(conversation: Conversation): void {
    const appender = this.#appender as DuckDBAppender;
    appender.appendInteger((this.#rows += 1));
    appender.appendVarchar(conversation.conversation_id);
    appender.appendVarchar(conversation.user_id);
    appender.appendBigInt(BigInt(Date.parse(conversation.timestamp)));
    appender.appendVarchar(contentHash(conversation));
    appender.appendVarchar(conversation.language);
    appender.appendInteger(followUpTurns(conversation).length);
    appender.appendVarchar(JSON.stringify({ context_messages: 0, ...conversation }));
    appender.endRow();
    // Each flush makes what was added so far evictable.
    if (this.#rows % rowGroupSize === 0) this.#guard(() => appender.flushSync());
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
    const temporary = join(`${this.path}.work`, "conversations.parquet");
    const query = `
      SELECT conversation_id || CASE WHEN copy > 1 THEN '#' || copy ELSE '' END AS conversation_id, user_id,
        make_timestamp_ms(time_ms) AT TIME ZONE 'UTC' AS timestamp, json_extract_string(json, '$.source') AS source, json_extract_string(json, '$.model') AS model, language,
        CAST(json_extract(json, '$.flagged') AS BOOLEAN) AS flagged,
        from_json(json_extract(json, '$.messages'), '[{"role":"VARCHAR","content":"VARCHAR","language":"VARCHAR","flagged":"BOOLEAN","gold_label":"VARCHAR"}]')::${messagesType} AS messages,
        CAST(json_extract(json, '$.context_messages') AS INTEGER) AS context_messages
      FROM staged JOIN (
        SELECT seq, row_number() OVER (PARTITION BY conversation_id ORDER BY user_id, time_ms, seq) AS copy FROM staged WHERE seq IN (SELECT seq FROM ${keep})
      ) USING (seq)
      ORDER BY user_id, time_ms, staged.conversation_id, seq`;
    try {
      await this.database.run(`COPY (${query}) TO ${sqlText(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE ${rowGroupSize},
        KV_METADATA {${sqlText(madeBy)}: ${sqlText(JSON.stringify(facts))}})`);
      const fd = openSync(temporary, "r");
      fsyncSync(fd);
      closeSync(fd);
      renameSync(temporary, this.path);
    } catch (error) {
      throw cannotWrite(this.path, error);
    }
  }

  /** Frees the memory and removes the work folder, whether or not the file was written. */
  close(): void {
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

/** Users' messages and answers, whoever had them, whenever. */
function contentHash(conversation: Conversation): string {
  const turns = conversation.messages.filter(({ role }) => role !== "system");
  return sha256(JSON.stringify(turns.map(({ role, content }) => [role, content]))).slice(0, 32);
}

function cannotWrite(path: string, error: unknown): RlhiError {
  const message = (error as Error).message.split("\n")[0] ?? "";
  const full = /space|ENOSPC|No such file|write/i.test(message);
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

/** Streams conversations.parquet in its order: by user, then time. Throws where it is missing or damaged. */
export async function* readConversations(path: string): AsyncGenerator<Conversation> {
  const database = await Database.open();
  try {
    const sql = `SELECT to_json({conversation_id: conversation_id, user_id: user_id, timestamp: epoch_ms(timestamp), source: source, model: model, language: language,
      flagged: flagged, messages: messages, context_messages: context_messages})::VARCHAR FROM read_parquet(${sqlPath(path)})`;
    for await (const [json] of database.stream(sql)) {
      const row = JSON.parse(json as string) as Omit<Conversation, "timestamp"> & { timestamp: number };
      yield { ...row, timestamp: new Date(row.timestamp).toISOString() };
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
