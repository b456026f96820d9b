/** Reads a file that writePairsArrow wrote: any rows, in any order, as record batches for the addon. */
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { DataType, RecordBatchReader } from "apache-arrow";
import type { AsyncRecordBatchFileReader, Data, Int32, List, RecordBatch, Schema } from "apache-arrow";
import type { ListColumn, PairBatch } from "../engine/addon.js";
import { listAt, listColumn } from "../engine/columns.js";
import { RlhiError } from "../errors.js";
import { listView, metadataKeys } from "./arrow.js";
import type { PairsMetadata } from "./arrow.js";

/** Decoded record batches kept, by the bytes of their ids; beyond it the one longest unused is read again when asked for. */
const defaultKeepBytes = 1 << 30;

/** The columns of one record batch, as views of its buffers. */
interface Columns {
  rows: number;
  prompt: ListColumn;
  chosen: ListColumn;
  rejected: ListColumn;
  refChosen: Float32Array | undefined;
  refRejected: Float32Array | undefined;
  bytes: number;
}

interface RowPlace {
  batch: number;
  row: number;
}

export class PairsFile {
  readonly #cache = new Map<number, Columns>();
  #cachedBytes = 0;

  private constructor(
    readonly path: string,
    readonly metadata: PairsMetadata,
    /** Whether the file holds reference log-probabilities. */
    readonly hasReference: boolean,
    readonly ids: readonly string[],
    readonly heldOut: readonly boolean[],
    /** Tokens of each row: prompt, chosen and rejected together. */
    readonly tokens: Int32Array,
    private readonly places: readonly RowPlace[],
    private readonly file: FileHandle,
    private readonly reader: AsyncRecordBatchFileReader,
    private readonly keepBytes: number,
  ) {}

  get rows(): number {
    return this.ids.length;
  }

  /** Throws ERR_INVALID_FILE where the file is no pairs file or is torn. */
  static async open(path: string, keepBytes = defaultKeepBytes): Promise<PairsFile> {
    const file = await open(path, "r");
    try {
      const reader = (await RecordBatchReader.from(file)) as unknown as AsyncRecordBatchFileReader;
      await reader.open({ autoDestroy: false });
      if (!reader.isFile()) throw new Error("an Arrow stream, not an Arrow file");
      checkSchema(reader.schema);
      const ids: string[] = [];
      const heldOut: boolean[] = [];
      const tokens: number[] = [];
      const places: RowPlace[] = [];
      for (let index = 0; index < reader.numRecordBatches; index += 1) {
        const batch = (await reader.readRecordBatch(index)) as RecordBatch;
        const columns = columnsOf(batch);
        for (let row = 0; row < batch.numRows; row += 1) {
          ids.push(String(batch.getChild("id")?.get(row)));
          heldOut.push(batch.getChild("held_out")?.get(row) === true);
          tokens.push([columns.prompt, columns.chosen, columns.rejected].reduce((sum, column) => sum + listAt(column, row).length, 0));
          places.push({ batch: index, row });
        }
      }
      const hasReference = reader.schema.fields.some((field) => field.name === "ref_chosen_logps");
      return new PairsFile(path, metadataOf(reader.schema), hasReference, ids, heldOut, Int32Array.from(tokens), places, file, reader, keepBytes);
    } catch (error) {
      await file.close();
      throw new RlhiError("ERR_INVALID_FILE", {
        what: "not a readable file of tokenised pairs",
        where: path,
        expected: "Arrow IPC file format with prompt_ids, chosen_ids and rejected_ids (list<int32>)",
        found: (error as Error).message,
        todo: "remove it: it is made again from the pairs",
        cause: error,
      });
    }
  }

  /** The pairs at `rows`, in that order. Neighbouring rows of one record batch come as views, others are copied together. */
  async batch(rows: readonly number[]): Promise<PairBatch> {
    const places = rows.map((row) => this.places[row] as RowPlace);
    const first = places[0];
    if (first !== undefined && places.every((place, index) => place.batch === first.batch && place.row === first.row + index)) {
      return slice(await this.#columns(first.batch), first.row, first.row + rows.length);
    }
    const parts: { columns: Columns; row: number }[] = [];
    for (const place of places) parts.push({ columns: await this.#columns(place.batch), row: place.row });
    const gather = (pick: (columns: Columns) => ListColumn): ListColumn => listColumn(parts.map(({ columns, row }) => listAt(pick(columns), row)));
    const reference = (pick: (columns: Columns) => Float32Array | undefined): Float32Array | undefined =>
      this.hasReference ? Float32Array.from(parts, ({ columns, row }) => pick(columns)?.[row] as number) : undefined;
    return {
      rows: rows.length,
      prompt: gather((columns) => columns.prompt), chosen: gather((columns) => columns.chosen), rejected: gather((columns) => columns.rejected),
      refChosen: reference((columns) => columns.refChosen), refRejected: reference((columns) => columns.refRejected),
    };
  }

  async #columns(index: number): Promise<Columns> {
    const kept = this.#cache.get(index);
    if (kept !== undefined) {
      // Least recently used first: a Map keeps the order of insertion.
      this.#cache.delete(index);
      this.#cache.set(index, kept);
      return kept;
    }
    const columns = columnsOf((await this.reader.readRecordBatch(index)) as RecordBatch);
    this.#cache.set(index, columns);
    this.#cachedBytes += columns.bytes;
    for (const [oldest, { bytes }] of this.#cache) {
      if (this.#cachedBytes <= this.keepBytes || oldest === index) break;
      this.#cache.delete(oldest);
      this.#cachedBytes -= bytes;
    }
    return columns;
  }

  async close(): Promise<void> {
    this.#cache.clear();
    await this.reader.cancel();
    await this.file.close().catch(() => undefined);
  }
}

function checkSchema(schema: Schema): void {
  for (const name of ["prompt_ids", "chosen_ids", "rejected_ids"]) {
    const type = schema.fields.find((field) => field.name === name)?.type as DataType | undefined;
    if (type === undefined) throw new Error(`no column ${name}`);
    if (!DataType.isList(type) || !DataType.isInt(type.children[0]?.type) || type.children[0].type.bitWidth !== 32) throw new Error(`column ${name} is not list<int32>`);
  }
}

function metadataOf(schema: Schema): PairsMetadata {
  const value = (name: string): string => schema.metadata.get(name) ?? "";
  return { tokens: value(metadataKeys.tokens), source: value(metadataKeys.source), reference: value(metadataKeys.reference) };
}

function columnsOf(batch: RecordBatch): Columns {
  const data = (name: string): Data | undefined => batch.getChild(name)?.data[0] as Data | undefined;
  const list = (name: string): ListColumn => listView(data(name) as Data<List<Int32>>, 0, batch.numRows);
  const prompt = list("prompt_ids");
  const chosen = list("chosen_ids");
  const rejected = list("rejected_ids");
  return {
    rows: batch.numRows, prompt, chosen, rejected,
    refChosen: data("ref_chosen_logps")?.values as Float32Array | undefined,
    refRejected: data("ref_rejected_logps")?.values as Float32Array | undefined,
    bytes: [prompt, chosen, rejected].reduce((sum, column) => sum + column.values.byteLength + column.offsets.byteLength, 0),
  };
}

function slice(columns: Columns, from: number, to: number): PairBatch {
  const list = ({ offsets, values }: ListColumn): ListColumn => ({ offsets: offsets.subarray(from, to + 1), values });
  return {
    rows: to - from, prompt: list(columns.prompt), chosen: list(columns.chosen), rejected: list(columns.rejected),
    refChosen: columns.refChosen?.subarray(from, to), refRejected: columns.refRejected?.subarray(from, to),
  };
}
