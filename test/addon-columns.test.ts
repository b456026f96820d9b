/** Arrow columns at the border: padded, sliced, detached, contradictory. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Float32, TypeMap } from "apache-arrow";
import { Field, Int32, List, makeVector, Table, tableFromIPC, tableToIPC, vectorFromArray } from "apache-arrow";
import type { ListColumn, NativeModel, NativeTrainer, PairBatch, ScoreResult } from "../lib/engine/addon.js";
import { listColumn } from "../lib/engine/columns.js";
import { detach, loadTiny, pairBatch, randomPairs, request, slicedAndPadded, trainOptions } from "./helpers/addon-fixtures.js";
import { tinyVocabSize } from "./helpers/tiny-model.js";

let model: NativeModel;
let trainer: NativeTrainer;
before(async () => {
  model = await loadTiny();
  trainer = await model.createTrainer(trainOptions);
});
after(async () => model.close());

const pairs = randomPairs(5, 4);
const copyOf = (c: ListColumn): ListColumn => ({ offsets: c.offsets.slice(), values: c.values.slice() });

test("slices and padding give the same result as plain columns, to the bit", async () => {
  const plain = pairBatch(pairs);
  const expected = await trainer.accumulate(plain);
  const cut: PairBatch = {
    rows: 4, prompt: slicedAndPadded(plain.prompt, 4), chosen: slicedAndPadded(plain.chosen, 4), rejected: slicedAndPadded(plain.rejected, 4),
    refChosen: Float32Array.of(...(plain.refChosen ?? []), NaN, NaN), refRejected: Float32Array.of(...(plain.refRejected ?? []), NaN),
  };
  assert.deepEqual(await trainer.accumulate(cut), expected);
});

test("fewer rows than the columns hold means the first ones", async () => {
  const expected = await trainer.accumulate(pairBatch(pairs.slice(0, 2)));
  assert.deepEqual(await trainer.accumulate({ ...pairBatch(pairs), rows: 2 }), expected);
});

interface Columns extends TypeMap { prompt: List<Int32>; chosen: List<Int32>; rejected: List<Int32>; refs: Float32; others: Float32 }

test("columns of a real Arrow record batch, sliced and read back from its file form", async () => {
  const type = new List(new Field("item", new Int32(), false));
  const column = (lists: number[][]) => vectorFromArray(lists, type);
  const all = randomPairs(6, 9);
  const table = new Table<Columns>({
    prompt: column(all.map((p) => p.prompt)), chosen: column(all.map((p) => p.chosen)), rejected: column(all.map((p) => p.rejected)),
    refs: makeVector(Float32Array.from(all, (p) => p.refs?.[0] ?? 0)), others: makeVector(Float32Array.from(all, (p) => p.refs?.[1] ?? 0)),
  });
  const readBack = tableFromIPC<Columns>(tableToIPC(table, "file"));
  for (const whole of [table, readBack]) {
    const batch = whole.batches[0]?.slice(3, 8);
    assert.ok(batch);
    const lists = (name: "prompt" | "chosen" | "rejected"): ListColumn => {
      const data = batch.getChild(name)?.data[0];
      assert.ok(data);
      return { offsets: data.valueOffsets as Int32Array, values: data.children[0]?.values as Int32Array };
    };
    const floats = (name: "refs" | "others"): Float32Array => batch.getChild(name)?.data[0]?.values as Float32Array;
    const got = await trainer.accumulate({
      rows: batch.numRows, prompt: lists("prompt"), chosen: lists("chosen"), rejected: lists("rejected"), refChosen: floats("refs"), refRejected: floats("others"),
    });
    assert.deepEqual(got, await trainer.accumulate(pairBatch(all.slice(3, 8))));
  }
});

test("the columns are copied: changing or detaching them during the work changes nothing", async () => {
  const expected = await trainer.accumulate(pairBatch(pairs));
  const batch = pairBatch(pairs);
  const work = trainer.accumulate(batch);
  batch.prompt.values.fill(0);
  batch.chosen.offsets.fill(0);
  detach(batch.rejected.values);
  assert.deepEqual(await work, expected);
});

/** Each case changes a good batch of four pairs into a bad one. */
const badBatches: [string, (b: PairBatch) => unknown, RegExp][] = [
  ["detached offsets", (b) => detach(b.prompt.offsets), /^prompt\.offsets: expected at least 5 elements for 4 rows, found 0 \(is the buffer detached\?\)$/],
  ["detached values", (b) => detach(b.chosen.values), /^chosen, row 0: expected at least \d+ values, found 0 \(is the buffer detached\?\)$/],
  ["detached references", (b) => detach(b.refChosen as Float32Array), /^refChosen: expected at least 4 values, found 0 \(is the buffer detached\?\)$/],
  ["more rows than offsets", (b) => { b.rows = 5; }, /^prompt\.offsets: expected at least 6 elements for 5 rows, found 5$/],
  ["no rows", (b) => { b.rows = 0; }, /^batch\.rows: expected a whole number from 1 /],
  ["a fraction of a row", (b) => { b.rows = 1.5; }, /^batch\.rows: .* found 1\.5$/],
  ["rows beyond int32", (b) => { b.rows = 2 ** 40; }, /^batch\.rows: /],
  ["descending offsets", (b) => { b.rejected.offsets[2] = (b.rejected.offsets[1] as number) - 1; }, /^rejected, row 1: expected ascending offsets/],
  ["a negative offset", (b) => { b.prompt.offsets[0] = -1; }, /^prompt, row 0: expected ascending offsets from 0 on, found -1 to/],
  ["offsets beyond the values", (b) => { b.prompt.offsets[4] = 9999; }, /^prompt, row 3: expected at least 9999 values, found \d+$/],
  ["an empty list", (b) => { b.chosen.offsets[1] = 0; }, /^chosen, row 0: expected at least one token, found none$/],
  ["a token beyond the vocabulary", (b) => { b.prompt.values[b.prompt.offsets[2] as number] = tinyVocabSize; },
    new RegExp(`^prompt, row 2: expected token ids in \\[0, ${tinyVocabSize}\\), found ${tinyVocabSize}$`)],
  ["a negative token", (b) => { b.rejected.values[0] = -1; }, /^rejected, row 0: expected token ids .* found -1$/],
  ["values of another kind", (b) => { b.prompt.values = new Uint32Array(100) as never; }, /^prompt\.values: expected Int32Array, found Uint32Array$/],
  ["64-bit offsets", (b) => { b.prompt.offsets = new BigInt64Array(5) as never; }, /^prompt\.offsets: expected Int32Array, found BigInt64Array$/],
  ["a plain array", (b) => { b.prompt.values = [1, 2] as never; }, /^prompt\.values: expected Int32Array, found an array$/],
  ["no column", (b) => { b.chosen = undefined as never; }, /^chosen: expected an object, found undefined$/],
  ["no references", (b) => { b.refChosen = undefined; }, /^refChosen: expected Float32Array, found undefined$/],
  ["double references", (b) => { b.refRejected = new Float64Array(4) as never; }, /^refRejected: expected Float32Array, found Float64Array$/],
  ["too few references", (b) => { b.refRejected = new Float32Array(3); }, /^refRejected: expected at least 4 values, found 3$/],
  ["a reference that is not a number", (b) => { (b.refRejected as Float32Array)[2] = NaN; }, /^refRejected, row 2: expected a finite number, found -?nan$/],
];
for (const [name, spoil, message] of badBatches) {
  test(`refused: ${name}`, async () => {
    const good = pairBatch(pairs);
    const batch = { ...good, prompt: copyOf(good.prompt), chosen: copyOf(good.chosen), rejected: copyOf(good.rejected) };
    spoil(batch);
    await assert.rejects(trainer.accumulate(batch), { code: "ERR_INVALID_ARGUMENT", message });
  });
}

test("refused: an answer beyond the context, with its row", async () => {
  const long = { prompt: [1], chosen: Array.from({ length: 1030 }, () => 5), rejected: [6] };
  await assert.rejects(trainer.accumulate(pairBatch([...pairs, long])), { code: "ERR_INVALID_ARGUMENT", message: /^chosen, row 4: .* at most 1024 tokens .* found 1031$/ });
});

const score = async (parents: number[]): Promise<ScoreResult> =>
  model.score({ rows: 2, prompt: listColumn([[1], [2]]), continuations: listColumn([[3], [4], [5]]), parents: Int32Array.from(parents) }, 64);

test("scoring: parents must ascend and name prompts", async () => {
  assert.equal((await score([0, 1, 1])).logps.length, 3);
  assert.equal((await score([1, 1, 1])).logps.length, 3);
  await assert.rejects(score([1, 0, 1]), { code: "ERR_INVALID_ARGUMENT", message: "parents, row 1: expected ascending prompt indices from 1 to 1, found 0" });
  await assert.rejects(score([0, 1, 2]), { code: "ERR_INVALID_ARGUMENT", message: /^parents, row 2: .* found 2$/ });
  await assert.rejects(score([0, 0, 1, 1]), { code: "ERR_INVALID_ARGUMENT", message: /^continuations\.offsets: expected at least 5 elements/ });
});

test("generation: wrong fields are named", async () => {
  const run = async (options: object) => model.generate([request([1, 2]), { ...request([1, 2]), ...options }], () => undefined);
  const refused = async (options: object, message: RegExp) => assert.rejects(run(options), { code: "ERR_INVALID_ARGUMENT", message });
  await refused({ prompt: new Int32Array() }, /^requests\[1\]\.prompt: expected at least one token/);
  await refused({ prompt: Int32Array.of(tinyVocabSize) }, /^requests\[1\]\.prompt: expected token ids/);
  await refused({ prompt: [1] }, /^requests\[1\]\.prompt: expected Int32Array, found an array$/);
  await refused({ seeds: new BigUint64Array(2) }, /^request 1: seeds: expected one a sample \(1\), found 2$/);
  await refused({ seeds: [1n] }, /^requests\[1\]\.seeds: expected BigUint64Array/);
  await refused({ temperature: "hot" }, /^requests\[1\]\.temperature: expected a number .* found "hot"$/);
  await refused({ temperature: NaN }, /^requests\[1\]\.temperature: /);
  await refused({ topP: 0 }, /^requests\[1\]\.topP: /);
  await refused({ minP: 1 }, /^request 1: min_p: /);
  await refused({ n: 0 }, /^requests\[1\]\.n: /);
  await refused({ maxNewTokens: 2000 }, /^request 1: 2 prompt tokens and max_new_tokens 2000 make 2002, more than the model's context of 1024$/);
  await refused({ stopStrings: "x" }, /^requests\[1\]\.stopStrings: expected an array of strings, found "x"$/);
  await refused({ stopStrings: ["x"] }, /^request 1: stop_strings: expected the bytes of each token/);
  await assert.rejects(model.generate([request([1])], undefined as never), { code: "ERR_INVALID_ARGUMENT", message: "onResult: expected a function, found undefined" });
  await assert.rejects(model.generate([request([1])], () => undefined, undefined, {} as never), { code: "ERR_INVALID_ARGUMENT", message: /^signal: expected an AbortSignal/ });
});
