/** The evaluation stage on a run folder: which requests, what both models get, going on after a crash, other weights. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { ChatModel, ChatRequest, LabelRequest } from "../lib/chat-models/types.js";
import { isHeldOut } from "../lib/conversations/index.js";
import { BusyClock } from "../lib/engine/busy-clock.js";
import { evalStage, readEvaluation } from "../lib/eval/user-eval.js";
import type { AnswerRecord, JudgementRecord } from "../lib/eval/types.js";
import { readAllJsonl } from "../lib/files.js";
import { silent } from "../lib/progress.js";
import { criteria } from "../lib/prompts/user-eval.js";
import type { ModelRole, StageContext } from "../lib/run/stage.js";
import { writeRunFolder } from "./helpers/run-folder.js";
import type { Fixture } from "./helpers/run-folder.js";
import { standInModel } from "./helpers/stand-in-models.js";

const root = mkdtempSync(join(tmpdir(), "rlhi-eval-stage-"));
after(() => rmSync(root, { recursive: true, force: true }));

function contextOf({ folder, config }: Fixture, models: (role: ModelRole) => ChatModel): StageContext {
  return { folder, config, progress: silent, signal: new AbortController().signal, model: async (role) => models(role), closeModels: async () => {}, clock: new BusyClock(), tokenizer: () => assert.fail("an evaluation asks for no tokenizer") };
}

async function records({ folder }: Fixture): Promise<{ answers: AnswerRecord[]; judgements: JudgementRecord[] }> {
  return { answers: await readAllJsonl<AnswerRecord>(join(folder.dir, "answers.jsonl")), judgements: await readAllJsonl<JudgementRecord>(folder.judgements) };
}

test("held-out users' requests alone, the same context, persona and seed for both models", async () => {
  const fixture = await writeRunFolder(join(root, "same"), { until: "train" });
  const asked: Record<string, (ChatRequest | LabelRequest)[]> = { base: [], trained: [], judge: [] };
  const facts = await evalStage(contextOf(fixture, (role) => standInModel(role, { asked: asked[role] ?? [] })));
  assert.equal(facts.requests, 16);
  assert.deepEqual(asked["base"], asked["trained"]);
  const systems = (asked["base"] as ChatRequest[]).flatMap(({ messages }) => (messages[0]?.role === "system" ? [messages[0].content] : []));
  assert.ok(systems.length > 5 && systems.every((text) => text.startsWith("What is known of this user from earlier conversations:")));
  const { judgements } = await records(fixture);
  assert.ok(judgements.every(({ user_id }) => isHeldOut(user_id, fixture.config.data.held_out)));
  assert.equal(judgements.length, facts.requests * criteria.length * 2);
  const requests = new Map((await readEvaluation(fixture, facts)).tasks.map(({ request }) => [request.id, request.messages.at(-1)?.content ?? "?"]));
  assert.ok(judgements.every(({ id, prompt }) => prompt.at(-1)?.content.includes(requests.get(id) ?? "?")), "every verdict keeps the prompt it was given on");
  const { wins, ties, losses } = facts.win_rates.overall.all;
  assert.equal(wins + ties + losses, facts.requests);
  assert.equal(facts.win_rates.overall.first.comparisons + facts.win_rates.overall.follow_up.comparisons, facts.requests);
});

test("without personas nobody's profile is shown, not even where the file is there", async () => {
  const fixture = await writeRunFolder(join(root, "plain"), { until: "train", config: { personas: { enabled: false } } });
  const asked: ChatRequest[] = [];
  await evalStage(contextOf(fixture, (role) => standInModel(role, role === "base" ? { asked } : {})));
  assert.ok(asked.length > 0 && asked.every(({ messages }) => messages[0]?.role === "user"));
});

test("killed anywhere and run again: the same records and figures as unbroken, none twice", async () => {
  const unbroken = await writeRunFolder(join(root, "unbroken"));
  const whole = await records(unbroken);
  const fixture = await writeRunFolder(join(root, "broken"), { until: "train" });
  let crashes = 0;
  for (const left of [3, 9, 8, 20, 31, 1, 1000]) {
    const lifetime = { left };
    try {
      assert.deepEqual(await evalStage(contextOf(fixture, (role) => standInModel(role, { lifetime }))), unbroken.evaluation);
    } catch (error) {
      assert.equal((error as Error).message, "the model died");
      crashes += 1;
    }
  }
  assert.equal(crashes, 6);
  const sorted = ({ answers, judgements }: Awaited<ReturnType<typeof records>>): string[] => [...answers, ...judgements].map((r) => JSON.stringify(r)).sort();
  assert.deepEqual(sorted(await records(fixture)), sorted(whole));
});

test("a run that is finished asks nothing again", async () => {
  const fixture = await writeRunFolder(join(root, "again"));
  const before = readFileSync(fixture.folder.judgements, "utf8");
  const asked: ChatRequest[] = [];
  assert.deepEqual(await evalStage(contextOf(fixture, (role) => standInModel(role, { asked }))), fixture.evaluation);
  assert.deepEqual(asked, []);
  assert.equal(readFileSync(fixture.folder.judgements, "utf8"), before);
});

test("other weights are answered and judged anew, and only their verdicts count", async () => {
  const fixture = await writeRunFolder(join(root, "retrained"));
  const facts = await evalStage(contextOf(fixture, (role) => standInModel(role, role === "trained" ? { fingerprint: "trained-longer" } : {})));
  assert.equal(facts.trained, "trained-longer");
  const { answers, judgements } = await records(fixture);
  assert.deepEqual(["base-weights", "trained-weights", "trained-longer"].map((model) => answers.filter((a) => a.model === model).length), [16, 16, 16]);
  const evaluation = await readEvaluation(fixture, facts);
  assert.equal(evaluation.verdicts.length, judgements.length / 2);
  assert.ok(evaluation.verdicts.every(({ trained }) => trained === "trained-longer"));
});

test("no held-out user with a request is an error that says what to do", async () => {
  const fixture = await writeRunFolder(join(root, "nobody"), { until: "train" });
  const config = { ...fixture.config, data: { ...fixture.config.data, held_out: 0 } };
  await assert.rejects(evalStage(contextOf({ ...fixture, config }, (role) => standInModel(role))), /no held-out user has a request[\s\S]*to do: +mine more users, or raise data\.held_out/);
});

test("a judge is shown the latest messages and bounded texts, whatever was logged", async () => {
  const fixture = await writeRunFolder(join(root, "bounded"), { until: "train" });
  const asked: LabelRequest[] = [];
  await evalStage(contextOf(fixture, (role) => standInModel(role, role === "judge" ? { asked } : {})));
  for (const { messages } of asked) assert.ok(messages.reduce((sum, m) => sum + m.content.length, 0) < 2 * 6000 + 4000 + 8 * 1500 + 3000);
});
