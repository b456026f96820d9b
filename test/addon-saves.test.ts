/** Checkpoints from a GPU: taken where the engine stands, written while it goes on. The emulated one does where there is none. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { Dtype, NativeModel, NativeTrainer } from "../lib/engine/addon.js";
import { loadAddon } from "../lib/engine/addon.js";
import { listColumn } from "../lib/engine/columns.js";
import { freshFolder, pairBatch, randomPairs, tinyModelFolder, trainOptions } from "./helpers/addon-fixtures.js";
import type { WorkerJob } from "./helpers/addon-worker.js";
import { gpuLibrary, skipWithoutGpu as skip } from "./helpers/gpu.js";

process.env.RLHI_CUDA_LIBRARY = gpuLibrary;      // of the workers below too
const addon = loadAddon();
const path = tinyModelFolder();
// Some megabytes: longer in the writing than in the taking.
const large = tinyModelFolder({ layers: 4, hiddenSize: 128, intermediateSize: 512 });
const batch = (seed: number): ReturnType<typeof pairBatch> => pairBatch(randomPairs(seed, 3, 8));

function madeFolder(): string {
  const dir = freshFolder();
  mkdirSync(dir);
  return dir;
}

async function opened(device: string, from = path, dtype: Dtype = "bf16"): Promise<{ model: NativeModel; trainer: NativeTrainer }> {
  const model = await addon.loadModel({ path: from, dtype, threads: 1, device });
  return { model, trainer: await model.createTrainer(trainOptions) };
}

const filesOf = (dir: string): Map<string, string> => new Map(readdirSync(dir).toSorted().map((name) => [name, readFileSync(join(dir, name)).toString("base64")]));
const wholeFiles = ["config.json", "model.safetensors", "optimizer.safetensors"];

/** Two checkpoints and three steps; whether training stands until each is written. */
async function checkpointed(stand: boolean): Promise<{ files: Map<string, string>[]; end: unknown }> {
  const { model, trainer } = await opened("cuda");
  const dirs = [madeFolder(), madeFolder()];
  const saves: Promise<void>[] = [];
  for (const [index, dir] of dirs.entries()) {
    await trainer.step(batch(index));
    saves.push(model.save(dir, index === 0 ? "bf16" : "f32"), trainer.saveState(dir));
    if (stand) await Promise.all(saves);
  }
  const last = await trainer.step(batch(2));
  await Promise.all(saves);
  const end = [last, model.info().fingerprint];
  await model.close();
  return { files: dirs.map(filesOf), end };
}

test("a checkpoint holds what was there when it was asked for, though the next steps are made before it is written", { skip }, async () => {
  const beside = await checkpointed(false);
  for (const files of beside.files) assert.deepEqual([...files.keys()], wholeFiles);
  assert.notDeepEqual(beside.files[0], beside.files[1]);
  assert.deepEqual(beside, await checkpointed(true));
});

const nothing = { rows: 0, prompt: listColumn([]), continuations: listColumn([]), parents: new Int32Array() };

/** Whether work that takes no time, given to the engine after a save, ended before that was written. */
async function wentOn(device: string, kind: "state" | "weights", tries: number): Promise<boolean> {
  const { model, trainer } = await opened(device, large);
  let went = false;
  for (let i = 0; i < tries && !went; i++) {
    const order: string[] = [];
    const dir = madeFolder();
    const taken = (): void => { order.push("taken"); };
    await Promise.all([
      (kind === "state" ? trainer.saveState(dir, taken) : model.save(dir, "f32", taken)).then(() => order.push("written")),
      model.score(nothing, 8).then(() => order.push("other work")),
    ]);
    assert.deepEqual(order.filter((what) => what !== "other work"), ["taken", "written"]);
    went = order.indexOf("other work") < order.indexOf("written");
  }
  await model.close();
  return went;
}

test("on a GPU the engine goes on before the files are written; on the CPU it writes them first", { skip }, async () => {
  for (const kind of ["state", "weights"] as const) {
    assert.equal(await wentOn("cuda", kind, 30), true, kind);
    assert.equal(await wentOn("cpu", kind, 3), false, kind);
  }
});

test("a state is loaded after the writing of those that were saved before", { skip }, async () => {
  const { model, trainer } = await opened("cuda");
  const dir = madeFolder();
  void trainer.saveState(dir);
  await trainer.step(batch(1));
  const second = trainer.saveState(dir);
  await trainer.step(batch(2));
  await Promise.all([second, trainer.loadState(dir)]);
  assert.equal(trainer.stepsDone(), 1);
  await model.close();
});

test("close waits for what is being written", { skip }, async () => {
  const { model, trainer } = await opened("cuda", large);
  const dir = madeFolder();
  const order: string[] = [];
  await Promise.all([
    model.save(dir, "bf16").then(() => order.push("weights")), trainer.saveState(dir).then(() => order.push("state")),
    trainer.close().then(() => order.push("trainer closed")), model.close().then(() => order.push("model closed")),
  ]);
  assert.deepEqual(order, ["weights", "state", "trainer closed", "model closed"]);
  assert.deepEqual(readdirSync(dir).toSorted(), wholeFiles);
});

test("a write that fails rejects with the file's name, and the engine works on", { skip }, async () => {
  const { model, trainer } = await opened("cuda");
  const gone = madeFolder();
  rmSync(gone, { recursive: true });
  const saves = [trainer.saveState(gone), trainer.step(batch(1)), model.save(gone, "f32")] as const;
  await assert.rejects(saves[0], (error: Error & { code: string }) => error.code === "ERR_IO" && error.message.startsWith(join(gone, "optimizer.safetensors")));
  await assert.rejects(saves[2], { code: "ERR_IO", message: `${gone}: not a folder` });
  assert.equal((await saves[1]).step, 1);
  const dir = madeFolder();
  await Promise.all([trainer.saveState(dir), model.save(dir, "bf16")]);
  assert.deepEqual(readdirSync(dir).toSorted(), wholeFiles);
  await model.close();
});

async function present(dir: string): Promise<void> {
  while (!wholeFiles.every((name) => existsSync(join(dir, name)))) await sleep(1);
}

test("a worker terminated while it saves takes nothing down and leaves no part of a file under its name", { skip }, async () => {
  const whole = madeFolder();
  const { model, trainer } = await opened("cuda", large, "f32");
  await Promise.all([model.save(whole, "f32"), trainer.saveState(whole)]);
  await model.close();
  const dir = madeFolder();
  for (let round = 0; round < 8; round++) {
    const worker = new Worker(new URL("./helpers/addon-worker.js", import.meta.url), { workerData: { job: "save", path: large, rounds: 1_000_000, dir } satisfies WorkerJob });
    await once(worker, "message");
    await sleep(round * 7);
    if (round === 7) await present(dir);   // the last one ends a save at least
    assert.equal(await worker.terminate(), 1);
    // What is there was written whole, and what was not is gone.
    for (const name of readdirSync(dir)) assert.ok(wholeFiles.includes(name), name);
  }
  for (const name of wholeFiles) assert.equal(statSync(join(dir, name)).size, statSync(join(whole, name)).size, name);
});
