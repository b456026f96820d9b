// The package as another project imports it: by its name.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import * as rlhi from "rlhi-native";
import { tinyImEnd, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-api-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;

test("the engine scores and generates", async () => {
  const engine = await rlhi.Engine.open({ path: model, dtype: "f32", threads: 1 });
  try {
    const prompt = engine.requireTokenizer().encodeChat([{ role: "user", content: "the other" }]);
    const [generated] = await engine.generate([{ prompt, max_new_tokens: 5, temperature: 0, ignore_eos: true, n: 1 }]);
    const answer = generated?.[0];
    assert.equal(answer?.token_ids.length, 5);
    const [scores] = await engine.score([{ prompt, continuations: [answer.token_ids] }]);
    assert.ok(scores?.[0] !== undefined && answer.logps.every((logp, at) => Math.abs(logp - (scores[0]?.tokenLogps[at] as number)) < 1e-4));
  } finally {
    await engine.close();
  }
});

test("pairs of a file are trained on, and the folder is a model again", async () => {
  const data = join(folder, "pairs.jsonl");
  writeFileSync(data, [[5, 6], [7, 8], [9, 5]].map(([a, b]) => `${JSON.stringify({ prompt_ids: [a, 4], chosen_ids: [b, tinyImEnd], rejected_ids: [a, b, tinyImEnd] })}\n`).join(""));
  const dir = join(folder, "trained");
  const facts = await rlhi.train({
    model, dtype: "f32", threads: 1, seed: 0, settings: rlhi.trainSettingsSchema.parse({ learning_rate: 1e-3, max_steps: 3 }),
    pairs: await rlhi.filePairs(data, 0, () => rlhi.openTokenizer(model)), files: rlhi.trainFilesIn(dir), progress: rlhi.silent, signal: new AbortController().signal,
  });
  assert.equal(facts.steps, 3);
  assert.ok(Math.abs(facts.loss_first - Math.LN2) < 1e-6 && facts.loss_last < facts.loss_first);
  const trained = await rlhi.Engine.open({ path: dir, dtype: "f32", threads: 1 });
  await trained.close();
});

test("conversations are mined, and follow-ups labelled by rules", async () => {
  const logs = join(folder, "logs.jsonl");
  const messages = ["What is the tallest tower in Paris?", "The Eiffel Tower, which was built by ...", "Too long. Give me only the name."].map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
  writeFileSync(logs, `${JSON.stringify({ user_id: "a", conversation_id: "c", timestamp: "2024-01-01T00:00:00Z", messages })}\n`);
  const out = join(folder, "conversations.parquet");
  const settings = rlhi.loadRunConfig(undefined, { model, data: { path: logs, min_conversations: 1 } }).data;
  const facts = await rlhi.mine(settings, out, { progress: rlhi.silent, signal: new AbortController().signal });
  assert.equal(facts.conversations, 1);
  for await (const conversation of rlhi.readConversations(out)) {
    assert.deepEqual(rlhi.followUpTurns(conversation), [2]);
    assert.equal(rlhi.classifyByRules(rlhi.followUpAt(conversation.messages, 2)).label, "reattempt_with_feedback");
  }
});

test("a run is opened, a stage that lacks its files says which, and mistakes have a kind and a code", async () => {
  const logs = join(folder, "some.jsonl");
  writeFileSync(logs, "{}\n");
  const context = rlhi.openRun({ config: rlhi.loadRunConfig(undefined, { model, data: { path: logs } }), dir: join(folder, "run"), progress: rlhi.silent, signal: new AbortController().signal });
  try {
    await assert.rejects(rlhi.runStageNamed("pairs", context), (error: rlhi.RlhiError) => error.code === "ERR_STAGE_ORDER" && error.exitCode === 1);
    assert.ok(existsSync(join(folder, "run")));
  } finally {
    await context.close();
  }
  assert.throws(() => rlhi.loadRunConfig(undefined, { modle: "x" }), (error: rlhi.UsageError) => error instanceof rlhi.UsageError && error.exitCode === 2);
});
