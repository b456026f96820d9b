/**
 * Pairs as Arrow: columns id, prompt_ids, chosen_ids, rejected_ids (list<int32>, no nulls), held_out and, once a model
 * has scored them, ref_chosen_logps and ref_rejected_logps (float32). IPC file format, record batches of a fixed number
 * of rows, facts about where the ids come from in the schema's metadata. docs/formats.md describes the file.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { Bool, Field, Float32, Int32, List, makeData, RecordBatch, RecordBatchFileWriter, Schema, Struct, Utf8, vectorFromArray } from "apache-arrow";
import type { Data } from "apache-arrow";
import type { ListColumn } from "../engine/addon.js";
import { listColumn } from "../engine/columns.js";
import { RlhiError } from "../errors.js";
import { writeError } from "../files.js";
import type { PairTokens } from "./pair-tokens.js";

export const rowsPerBatch = 256;

export interface PairRow extends PairTokens {
  id: string;
  held_out: boolean;
}

/** Summed log-probabilities under the reference, a row each. */
export interface ReferenceLogps {
  ref_chosen_logps: Float32Array;
  ref_rejected_logps: Float32Array;
}

/** What the ids and the reference were made with. A file whose facts differ is made again. */
export interface PairsMetadata {
  /** ChatTokenizer.fingerprint, "" for pairs given as ids. */
  tokens: string;
  /** Hash of the pairs as they were given. */
  source: string;
  /** Weights and dtype of the model that gave ref_*_logps, "" for none. */
  reference: string;
}

export const metadataKeys = { tokens: "rlhi.tokens", source: "rlhi.source", reference: "rlhi.reference" } as const;

const idList = (): List<Int32> => new List(new Field("item", new Int32(), false));
const idFields = (): Field[] => [
  new Field("id", new Utf8(), false),
  new Field("prompt_ids", idList(), false), new Field("chosen_ids", idList(), false), new Field("rejected_ids", idList(), false),
  new Field("held_out", new Bool(), false),
];
const referenceFields = (): Field[] => [new Field("ref_chosen_logps", new Float32(), false), new Field("ref_rejected_logps", new Float32(), false)];

function schemaOf(metadata: PairsMetadata): Schema {
  const facts = new Map(Object.entries(metadataKeys).map(([key, name]) => [name as string, metadata[key as keyof PairsMetadata]]));
  return new Schema([...idFields(), ...(metadata.reference === "" ? [] : referenceFields())], facts);
}

function listData(lists: readonly ArrayLike<number>[]): Data<List<Int32>> {
  const { offsets, values } = listColumn(lists);
  return makeData({ type: idList(), length: lists.length, nullCount: 0, valueOffsets: offsets, child: makeData({ type: new Int32(), length: values.length, nullCount: 0, data: values }) });
}

function recordBatch(schema: Schema, rows: readonly PairRow[], reference: ReferenceLogps | undefined): RecordBatch {
  const children: Data[] = [
    vectorFromArray(rows.map((row) => row.id), new Utf8()).data[0] as Data,
    listData(rows.map((row) => row.prompt_ids)), listData(rows.map((row) => row.chosen_ids)), listData(rows.map((row) => row.rejected_ids)),
    vectorFromArray(rows.map((row) => row.held_out), new Bool()).data[0] as Data,
  ];
  if (reference !== undefined) {
    for (const values of [reference.ref_chosen_logps, reference.ref_rejected_logps]) children.push(makeData({ type: new Float32(), length: rows.length, nullCount: 0, data: values }));
  }
  return new RecordBatch(schema, makeData({ type: new Struct(schema.fields), length: rows.length, nullCount: 0, children }));
}

/**
 * Writes `path` batch by batch under a temporary name and renames it when it is whole. `score`, given with a reference in
 * the metadata, is asked for each batch's log-probabilities while the next one is being read. Returns the number of rows.
 */
export async function writePairsArrow(
  path: string,
  rows: Iterable<PairRow> | AsyncIterable<PairRow>,
  metadata: PairsMetadata,
  score?: (rows: readonly PairRow[]) => Promise<ReferenceLogps>,
): Promise<number> {
  const schema = schemaOf(metadata);
  if ((metadata.reference === "") !== (score === undefined)) throw new RlhiError("ERR_INVALID_ARGUMENT", { what: "reference log-probabilities need a reference in the metadata, and the other way round" });
  let count = 0;
  async function* batches(): AsyncGenerator<RecordBatch> {
    let pending: { rows: PairRow[]; reference: Promise<ReferenceLogps> | undefined } | undefined;
    for await (const group of grouped(rows, rowsPerBatch)) {
      count += group.length;
      // The engine works on this group while the one before is written and the next is read.
      const next = { rows: group, reference: score?.(group) };
      // A failure is reported where it is awaited.
      next.reference?.catch(() => undefined);
      if (pending !== undefined) yield recordBatch(schema, pending.rows, await pending.reference);
      pending = next;
    }
    if (pending !== undefined) yield recordBatch(schema, pending.rows, await pending.reference);
  }
  await writeWhole(path, schema, batches());
  return count;
}

/** The batches as one IPC file, in place of an older one only when all is written. */
async function writeWhole(path: string, schema: Schema, batches: AsyncIterable<RecordBatch>): Promise<void> {
  const writer = new RecordBatchFileWriter().reset(undefined, schema);
  let stopped = false;
  let failure: unknown;
  const produce = async (): Promise<void> => {
    try {
      for await (const batch of batches) {
        if (stopped) return;
        writer.write(batch);
      }
      writer.finish();
    } catch (error) {
      failure = error;
      writer.abort(error);
    }
  };
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    const fd = openSync(temporary, "w");
    try {
      const produced = produce();
      // Bytes leave memory as they come.
      for await (const chunk of writer) for (let at = 0; at < chunk.byteLength;) at += writeSync(fd, chunk, at);
      await produced;
      fsyncSync(fd);
    } finally {
      stopped = true;
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    if (failure !== undefined) throw failure;
    throw writeError(path, error);
  }
}

async function* grouped<T>(items: Iterable<T> | AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  let group: T[] = [];
  for await (const item of items) {
    group.push(item);
    if (group.length < size) continue;
    yield group;
    group = [];
  }
  if (group.length > 0) yield group;
}

/** Rows [from, to) of a list column as views of Arrow's own buffers; offsets of a slice do not begin at 0. */
export function listView(data: Data<List<Int32>>, from: number, to: number): ListColumn {
  return { offsets: data.valueOffsets.subarray(from, to + 1), values: (data.children[0] as Data<Int32>).values };
}

