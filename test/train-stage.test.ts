import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runConfigSchema } from "../lib/config.js";
import { BusyClock } from "../lib/engine/busy-clock.js";
import { sha256 } from "../lib/files.js";
import { pairsIdentity } from "../lib/pairs/build.js";
import type { PairRecord } from "../lib/pairs/types.js";
import { silent } from "../lib/progress.js";
import { runFolder } from "../lib/run/folder.js";
import type { RunFolder } from "../lib/run/folder.js";
import type { StageContext } from "../lib/run/stage.js";
import { trainStage } from "../lib/run/stages/train.js";
import { writePairsArrow } from "../lib/tokens/arrow.js";
import { openTokenizer } from "../lib/tokens/open.js";
import { isTooLong, tokenizePair } from "../lib/tokens/pair-tokens.js";
import { PairsFile } from "../lib/tokens/pairs-file.js";
import { writeTinyModel } from "./helpers/tiny-model.js";

const root = mkdtempSync(join(tmpdir(), "rlhi-train-stage-"));
process.on("exit", () => rmSync(root, { recursive: true, force: true }));
const model = writeTinyModel(join(root, "tiny")).path;
const tokenizer = openTokenizer(model);

const record = (index: number, answer = `answer ${index}`): PairRecord => ({
  id: `pair-${index}`, method: "rewrite", user_id: `u${index % 3}`, conversation_id: `c${index}`, turn: 0, follow_up_turn: 2, prompt: [{ role: "system", content: "Likes tea." }, { role: "user", content: `question ${index}` }],
  chosen: [{ role: "assistant", content: answer }], rejected: [{ role: "assistant", content: "no" }], score_chosen: null, score_rejected: null, persona_used: true, held_out: index >= 6,
});

function context(name: string, records: readonly PairRecord[], train: Record<string, unknown> = {}): StageContext & { closed: number } {
  const dir = join(root, name);
  mkdirSync(dir);
  const folder = runFolder(dir);
  writeFileSync(folder.pairs, records.map((one) => `${JSON.stringify(one)}\n`).join(""));
  const config = runConfigSchema.parse({ model, data: { path: "none" }, dtype: "f32", pairs: { max_tokens: 200 }, train: { pairs_per_step: 2, num_epochs: 2, learning_rate: 1e-3, ...train } });
  const made = {
    folder, config, progress: silent, signal: new AbortController().signal, clock: new BusyClock(), tokenizer: () => tokenizer, closed: 0,
    model: () => assert.fail("training asks for no chat model"),
    closeModels: () => {
      made.closed += 1;
      return Promise.resolve();
    },
  };
  return made;
}

const weights = (folder: RunFolder): string => sha256(readFileSync(join(folder.model, "model.safetensors")));
const records = Array.from({ length: 8 }, (_, index) => record(index));

async function writeArrow(folder: RunFolder, fingerprint: string): Promise<void> {
  const rows = records.map((one) => {
    const tokens = tokenizePair(tokenizer, { prompt: one.prompt, chosen: one.chosen[0].content, rejected: one.rejected[0].content }, 200);
    assert.ok(!isTooLong(tokens));
    return { id: one.id, held_out: one.held_out, prompt_ids: tokens.prompt_ids, chosen_ids: tokens.chosen_ids, rejected_ids: tokens.rejected_ids };
  });
  await writePairsArrow(folder.pairsArrow, rows, { tokens: fingerprint, source: await pairsIdentity(folder.pairs, 200), reference: "" });
}

test("a run's pairs are trained on; held-out ones are measured; models are closed before", async () => {
  const run = context("plain", records);
  const facts = await trainStage(run);
  assert.equal(run.closed, 1);
  assert.deepEqual([facts["pairs"], facts["held_out_pairs"], facts["steps"], facts["dropped_too_long"]], [6, 2, 6, 0]);
  assert.ok(Math.abs((facts["loss_first"] as number) - Math.LN2) < 1e-6);
  for (const path of [run.folder.metrics, join(run.folder.model, "config.json"), join(run.folder.model, "tokenizer.json"), join(run.folder.checkpoints, "step-6")]) assert.ok(existsSync(path), path);
  const arrow = await PairsFile.open(run.folder.pairsArrow);
  assert.equal(arrow.hasReference, true);
  assert.equal(arrow.metadata.tokens, tokenizer.fingerprint);
  assert.deepEqual(arrow.ids, records.map((one) => one.id));
  await arrow.close();
});

test("ids that the stage before wrote are taken as they are; another tokenizer's are made again", async () => {
  const run = context("with-arrow", records);
  await writeArrow(run.folder, tokenizer.fingerprint);
  await trainStage(run);
  assert.equal(weights(run.folder), weights(runFolder(join(root, "plain"))));
  const stale = context("stale", records);
  await writeArrow(stale.folder, "of another tokenizer");
  await trainStage(stale);
  assert.equal(weights(stale.folder), weights(run.folder));
});

test("a pair whose answers alone are too long is dropped and counted", async () => {
  const run = context("long", [...records, record(5, "word ".repeat(300))].map((one, index) => ({ ...one, id: `pair-${index}` })));
  const facts = await trainStage(run);
  assert.equal(facts["dropped_too_long"], 1);
  assert.equal((facts["pairs"] as number) + (facts["held_out_pairs"] as number), 8);
});

test("no pairs, or only held-out ones, is an error that says where", async () => {
  await assert.rejects(trainStage(context("empty", [])), { code: "ERR_EMPTY", message: /pairs\.jsonl.*no pairs to train on/s });
  await assert.rejects(trainStage(context("only-held-out", records.slice(6))), { code: "ERR_EMPTY", message: /2 pairs, 2 held out/ });
});
