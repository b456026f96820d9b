import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { tableFromIPC } from "apache-arrow";
import { listAt } from "../lib/engine/columns.js";
import { openPairs, storedRows } from "../lib/engine/reference.js";
import { rowsPerBatch, writePairsArrow } from "../lib/tokens/arrow.js";
import type { PairRow, PairsMetadata } from "../lib/tokens/arrow.js";
import { PairsFile } from "../lib/tokens/pairs-file.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-arrow-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const ids = (length: number, first: number): number[] => Array.from({ length }, (_, index) => first + index);
/** Lists of every length from 1 up, so that no two rows can be taken for one another. */
const row = (index: number): PairRow => ({
  id: `pair-${index}`, held_out: index % 7 === 3, prompt_ids: ids(1 + (index % 5), index), chosen_ids: ids(1 + (index % 3), 10_000 + index), rejected_ids: ids(1 + (index % 4), 20_000 + index),
});
const rows = Array.from({ length: 2 * rowsPerBatch + 37 }, (_, index) => row(index));
const metadata: PairsMetadata = { tokens: "t", source: "s", reference: "" };
const scored: PairsMetadata = { ...metadata, reference: "r" };
const score = async (group: readonly PairRow[]): Promise<{ ref_chosen_logps: Float32Array; ref_rejected_logps: Float32Array }> => ({
  ref_chosen_logps: Float32Array.from(group, (one) => -(one.chosen_ids[0] as number)), ref_rejected_logps: Float32Array.from(group, (one) => -(one.rejected_ids[0] as number)),
});

async function written(name: string, withScores = true): Promise<string> {
  const path = join(folder, name);
  assert.equal(await writePairsArrow(path, rows, withScores ? scored : metadata, withScores ? score : undefined), rows.length);
  return path;
}

async function check(file: PairsFile, wanted: readonly number[]): Promise<void> {
  const batch = await file.batch(wanted);
  assert.equal(batch.rows, wanted.length);
  wanted.forEach((index, at) => {
    const expected = rows[index] as PairRow;
    assert.deepEqual([...listAt(batch.prompt, at)], expected.prompt_ids);
    assert.deepEqual([...listAt(batch.chosen, at)], expected.chosen_ids);
    assert.deepEqual([...listAt(batch.rejected, at)], expected.rejected_ids);
    assert.deepEqual([batch.refChosen?.[at], batch.refRejected?.[at]], [-(expected.chosen_ids[0] as number), -(expected.rejected_ids[0] as number)]);
  });
}

test("rows come back in any order: slices of a record batch, across batches, repeated", async () => {
  const file = await PairsFile.open(await written("order.arrow"));
  assert.equal(file.rows, rows.length);
  assert.deepEqual(file.metadata, scored);
  assert.deepEqual(file.heldOut, rows.map((one) => one.held_out));
  assert.deepEqual([...file.tokens], rows.map((one) => one.prompt_ids.length + one.chosen_ids.length + one.rejected_ids.length));
  const last = rows.length - 1;
  for (const wanted of [[0], [0, 1, 2], [5, 6, 7, 8], [rowsPerBatch - 1, rowsPerBatch], [last], [last, 0, 300, 300], ids(rowsPerBatch, rowsPerBatch), []]) await check(file, wanted);
  await file.close();
});

test("a run of rows is a view of the file's buffers, whose offsets do not begin at 0", async () => {
  const file = await PairsFile.open(await written("view.arrow"));
  const whole = await file.batch(ids(20, 0));
  const part = await file.batch([9, 10, 11]);
  assert.equal(part.prompt.values.buffer, whole.prompt.values.buffer);
  assert.ok((part.prompt.offsets[0] as number) > 0);
  assert.equal(part.prompt.offsets.length, 4);
  await file.close();
});

test("record batches that do not fit into memory are read again", async () => {
  const file = await PairsFile.open(await written("cache.arrow"), 1);
  for (const wanted of [[0], [rowsPerBatch + 3], [2 * rowsPerBatch], [1], [rowsPerBatch + 4]]) await check(file, wanted);
  await file.close();
});

test("all rows one after the other, a record batch in memory at a time", async () => {
  const path = await written("stored.arrow", false);
  const file = await openPairs(path, metadata, 0);
  assert.ok(file !== undefined);
  const stored: PairRow[] = [];
  for await (const one of storedRows(file)) stored.push({ ...one, prompt_ids: Array.from(one.prompt_ids), chosen_ids: Array.from(one.chosen_ids), rejected_ids: Array.from(one.rejected_ids) });
  assert.deepEqual(stored, rows);
  assert.equal(await openPairs(path, { ...metadata, source: "other" }), undefined);
});

test("the schema is TRL's columns, int32 lists without nulls, float32 log-probabilities", async () => {
  const table = tableFromIPC(readFileSync(await written("schema.arrow")));
  assert.deepEqual(table.schema.fields.map((field) => `${field.name}: ${String(field.type)}${field.nullable ? "?" : ""}`), [
    "id: Utf8", "prompt_ids: List<Int32>", "chosen_ids: List<Int32>", "rejected_ids: List<Int32>", "held_out: Bool", "ref_chosen_logps: Float32", "ref_rejected_logps: Float32",
  ]);
  assert.equal(table.schema.metadata.get("rlhi.reference"), "r");
  assert.equal(tableFromIPC(readFileSync(await written("bare.arrow", false))).schema.fields.length, 5);
});

test("a failure while rows are made or scored leaves the older file as it was and nothing else", async () => {
  const path = await written("kept.arrow");
  const before = readFileSync(path);
  const failing = async function* (): AsyncGenerator<PairRow> {
    yield* rows.slice(0, rowsPerBatch + 1);
    throw new Error("row 257 is bad");
  };
  await assert.rejects(writePairsArrow(path, failing(), metadata), /row 257 is bad/);
  await assert.rejects(writePairsArrow(path, rows, scored, () => Promise.reject(new Error("engine gone"))), /engine gone/);
  assert.deepEqual(readFileSync(path), before);
  assert.deepEqual(readdirSync(folder).filter((name) => name.includes(".tmp")), []);
});

test("torn, foreign and empty files are refused by name", async () => {
  const torn = await written("torn.arrow");
  truncateSync(torn, 5000);
  await assert.rejects(PairsFile.open(torn), { code: "ERR_INVALID_FILE", message: /torn\.arrow/ });
  const text = join(folder, "text.arrow");
  writeFileSync(text, "not arrow");
  await assert.rejects(PairsFile.open(text), { code: "ERR_INVALID_FILE" });
  const empty = join(folder, "empty.arrow");
  writeFileSync(empty, "");
  await assert.rejects(PairsFile.open(empty), { code: "ERR_INVALID_FILE" });
});

test("no pairs make a whole file with no rows", async () => {
  const path = join(folder, "none.arrow");
  assert.equal(await writePairsArrow(path, [], metadata), 0);
  const file = await PairsFile.open(path);
  assert.equal(file.rows, 0);
  await file.close();
  assert.ok(existsSync(path));
});
