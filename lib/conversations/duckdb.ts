/** DuckDB as this project uses it: a bounded share of memory, spilling to a given folder, nothing fetched from anywhere. */
import { rmSync } from "node:fs";
import { totalmem } from "node:os";
import { DuckDBInstance } from "@duckdb/node-api";
import type { DuckDBConnection } from "@duckdb/node-api";

export type SqlValue = string | number | bigint | boolean | null;

export interface OpenOptions {
  /** Folder for data that does not fit into memory; none: DuckDB keeps to memory. */
  spill?: string | undefined;
  /** Default: a quarter of the machine's memory, 1 GiB at most. */
  memory_bytes?: number | undefined;
}

/** One in-memory database on one connection. Close it when done; `remove` also deletes the spill folder. */
export class Database {
  private constructor(private readonly instance: DuckDBInstance, readonly connection: DuckDBConnection, private readonly spill: string | undefined) {}

  static async open(options: OpenOptions = {}): Promise<Database> {
    const memory = options.memory_bytes ?? Math.min(2 ** 30, Math.floor(totalmem() / 4));
    const instance = await DuckDBInstance.create(":memory:", {
      memory_limit: `${Math.floor(memory / 2 ** 20)}MiB`,
      temp_directory: options.spill ?? "",
      autoinstall_known_extensions: "false",
      autoload_known_extensions: "false",
    });
    const connection = await instance.connect();
    await connection.run("SET TimeZone = 'UTC'");
    return new Database(instance, connection, options.spill);
  }

  async run(sql: string): Promise<void> {
    await this.connection.run(sql);
  }

  /** All rows; numbers that SQL calls BIGINT come as bigint. */
  async rows<Row extends Record<string, SqlValue>>(sql: string): Promise<Row[]> {
    const reader = await this.connection.runAndReadAll(sql);
    return reader.getRowObjectsJS() as Row[];
  }

  /** Rows of text columns, in the query's order, as they come: never all at once. */
  async *stream(sql: string): AsyncGenerator<(string | null)[]> {
    const result = await this.connection.stream(sql);
    for await (const chunk of result) yield* chunk.getRows() as (string | null)[][];
  }

  close(): void {
    this.connection.closeSync();
    this.instance.closeSync();
    if (this.spill !== undefined) rmSync(this.spill, { recursive: true, force: true });
  }
}

/** A string literal of SQL. */
export function sqlText(value: string): string {
  return `'${value.replaceAll("'", "''")}'`;
}

/** A file's path as a literal that DuckDB does not take for a pattern. */
export function sqlPath(path: string): string {
  return sqlText(path.replace(/[*?[\]]/g, (c) => `[${c}]`));
}

export function sqlName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
