import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { CheckpointFolder, publishModel } from "../lib/engine/checkpoints.js";
import type { TrainerState } from "../lib/engine/checkpoints.js";

const root = mkdtempSync(join(tmpdir(), "rlhi-checkpoints-"));
process.on("exit", () => rmSync(root, { recursive: true, force: true }));
const state = (global_step: number): TrainerState => ({ global_step, epoch: 1, elapsed: 1, num_tokens: 1, hash: "h" });

async function save(folder: CheckpointFolder, step: number, names: readonly string[]): Promise<void> {
  await folder.save(state(step), async (dir) => {
    for (const name of names) writeFileSync(join(dir, name), `${name} of ${step}`);
  });
}

test("the two newest are kept; one that lost its state in a kill is no checkpoint, and goes with the half-written", async () => {
  const dir = join(root, "kept");
  const folder = new CheckpointFolder(dir);
  for (const step of [5, 10, 15]) await save(folder, step, ["config.json"]);
  assert.deepEqual(folder.list().map(({ step }) => step), [10, 15]);
  mkdirSync(join(dir, "step-7"));
  mkdirSync(join(dir, "step-5.old.tmp"));
  mkdirSync(join(dir, "step-20.tmp"));
  folder.tidy();
  assert.equal(folder.latest()?.step, 15);
  assert.deepEqual(readdirSync(dir).filter((name) => name.endsWith(".tmp")), []);
  await save(folder, 15, ["config.json"]);
  assert.deepEqual(folder.list().map(({ step }) => step), [10, 15]);
});

test("publishing takes away weights that were cut into other files, and nothing else", async () => {
  const folder = new CheckpointFolder(join(root, "published"));
  const model = join(root, "model");
  mkdirSync(model);
  for (const name of ["model.safetensors", "model-00001-of-00003.safetensors", "notes.txt"]) writeFileSync(join(model, name), "old");
  await save(folder, 3, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "config.json", "optimizer.safetensors"]);
  const checkpoint = folder.latest();
  assert.ok(checkpoint !== undefined);
  await publishModel(checkpoint, model);
  assert.deepEqual(readdirSync(model).toSorted(), ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"]);
  assert.equal(readFileSync(join(model, "model-00002-of-00002.safetensors"), "utf8"), "model-00002-of-00002.safetensors of 3");
  assert.equal(existsSync(join(checkpoint.path, "optimizer.safetensors")), true);
});
