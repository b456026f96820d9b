import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runConfigSchema } from "../lib/config.js";
import { isHeldOut, mine } from "../lib/conversations/index.js";
import { followUpTurns } from "../lib/conversations/types.js";
import type { Conversation, FeedbackLabel } from "../lib/conversations/types.js";
import { readAllJsonl } from "../lib/files.js";
import { selectRequests, withTexts } from "../lib/pairs/requests.js";
import type { FeedbackLabels } from "../lib/pairs/requests.js";
import type { CandidateRecord, PairRecord } from "../lib/pairs/types.js";
import { runFolder } from "../lib/run/folder.js";
import { runStage } from "../lib/run/run-stage.js";
import { pairsStage } from "../lib/run/stages/pairs.js";
import { personasStage } from "../lib/run/stages/personas.js";
import { rewardStage } from "../lib/run/stages/reward.js";
import { rewriteStage } from "../lib/run/stages/rewrite.js";
import { miningSettings, readAll, temporaryFolder, writeJsonl } from "./helpers/conversations.js";
import { methodRun, openMethodRun } from "./helpers/method-run.js";
import { startOpenAiServer } from "./helpers/openai-server.js";
import { shared } from "./helpers/shared.js";

const share = 0.3;
const someone = (name: string, heldOut: boolean): string => {
  for (let i = 0; ; i += 1) if (isHeldOut(`${name}-${i}`, share) === heldOut) return `${name}-${i}`;
};
const [ann, cat, eve] = ["ann", "cat", "eve"].map((name) => someone(name, false)) as [string, string, string];
const [ben, sam] = ["ben", "sam"].map((name) => someone(name, true)) as [string, string];

let day = 0;
/** Messages one under the other, the first a prompter's, each on a day of its own. */
function chain(name: string, ...authors: string[]): Record<string, unknown>[] {
  return authors.map((user_id, i) => ({
    message_id: `${name}${i}`, parent_id: i === 0 ? null : `${name}${i - 1}`, user_id, role: i % 2 === 0 ? "prompter" : "assistant",
    created_date: new Date(Date.UTC(2024, 0, (day += 1))).toISOString(),
    text: `These are the words of ${user_id} in message ${name}${i}, make them shorter.`, lang: "en", review_result: true, deleted: false,
  }));
}

const trees = [
  // cat follows up on what ben, held out, wrote before: ben's words are cat's context.
  ...chain("a", ann, eve, ben, eve, cat, eve, cat, eve),
  // cat's own, whose persona comes from the tree above.
  ...chain("b", cat, eve, cat, eve),
  // An answer may be a held-out user's text as well.
  ...chain("c", cat, sam, cat, eve),
  // ben's own, in which ann is context: measured, not trained on.
  ...chain("d", ann, eve, ben, eve, ben, eve),
];

function labelAll(conversations: readonly Conversation[], label: FeedbackLabel): FeedbackLabels {
  return new Map(conversations.map((conversation) => [conversation.conversation_id, new Map(followUpTurns(conversation).map((turn) => [turn, label]))]));
}

test("no words of a held-out user are trained on, though others went on from them", async (t) => {
  const server = await startOpenAiServer();
  t.after(() => server.close());
  const run = await methodRun(temporaryFolder(t), [], {
    models: { persona: server.spec, rewriter: server.spec, judge: server.spec }, data: { path: "logs.jsonl", held_out: share },
    rewrites: { rejected: "logged", max_new_tokens: 12 }, pairs: { max_tokens: 1024, judge_rewrites: false, persona_dropout: 0, filters: ["too_long"] },
  });
  const folder = runFolder(run.dir);
  await mine(miningSettings(writeJsonl(join(run.dir, "trees.jsonl"), trees)), folder.conversations);
  const conversations = await readAll(folder.conversations);
  const authors = Object.fromEntries(conversations.map(({ conversation_id, other_authors }) => [conversation_id, other_authors]));
  assert.deepEqual(authors, { a0: [eve], a2: [ann, eve], a4: [ann, eve, ben], b0: [eve], c0: [sam, eve], d0: [eve], d2: [ann, eve] });
  const labels = [...labelAll(conversations, "reattempt_with_feedback")];
  writeJsonl(folder.feedback, labels.flatMap(([conversation_id, turns]) => [...turns].map(([turn, label]) => ({ conversation_id, turn, label }))));
  const context = openMethodRun(run);
  t.after(() => context.close());
  const facts: Record<string, unknown>[] = [];
  const stages = { personas: personasStage, rewrite: rewriteStage, reward: rewardStage, pairs: pairsStage } as const;
  for (const name of ["personas", "rewrite", "reward", "pairs"] as const) facts.push((await runStage(name, stages[name], context)).facts);
  // Of cat: two rewrites in a4 and one in c0; the first messages are those of a0, b0, d0 and, left out, c0.
  assert.deepEqual([facts[1]?.["beside_held_out"], facts[2]?.["beside_held_out"]], [3, 1]);
  const candidates = await readAllJsonl<CandidateRecord>(folder.candidates);
  assert.deepEqual([...new Set(candidates.map(({ conversation_id }) => conversation_id))].toSorted(), ["a0", "a2", "b0", "d0", "d2"]);
  const trained = (await readAllJsonl<PairRecord>(folder.pairs)).filter(({ held_out }) => !held_out);
  assert.deepEqual([...new Set(trained.map(({ user_id }) => user_id))].toSorted(), [ann, cat]);
  for (const word of [ben, sam]) assert.ok(!JSON.stringify(trained.map(({ prompt, chosen, rejected }) => [prompt, chosen, rejected])).includes(word), word);
  // cat's persona in b0 comes from a4, of which ben's words are a part: they are neither shown nor quoted.
  const asked = server.requests.filter(({ response_format }) => response_format?.json_schema?.name === "persona").map(({ messages }) => JSON.stringify(messages));
  const ofCat = asked.filter((text) => text.includes(cat));
  assert.ok(ofCat.length > 0 && ofCat.every((text) => text.includes("message a4") && !text.includes(ben)));
});

test("in real trees too", { skip: shared("data", "oasst").skip }, async (t) => {
  const folder = runFolder(temporaryFolder(t));
  const file = shared("data", "oasst", "oasst1-en-validation.jsonl").path;
  await mine(miningSettings(file), folder.conversations);
  const conversations = await readAll(folder.conversations);
  const config = runConfigSchema.parse({ model: "m", data: { path: file } });
  const raw = readFileSync(file, "utf8").split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as { user_id: string; text: string });
  const heldOut = (user: string): boolean => isHeldOut(user, config.data.held_out);
  const free = new Set(raw.filter(({ user_id }) => !heldOut(user_id)).map(({ text }) => text));
  const kept = new Set(raw.filter(({ user_id, text }) => heldOut(user_id) && !free.has(text)).map(({ text }) => text));
  assert.ok(kept.size > 100);
  const counts: number[] = [];
  for (const [stage, label] of [["rewrite", "reattempt_with_feedback"], ["reward", "new_request"]] as const) {
    const { refs, beside_held_out } = await selectRequests(stage, folder, config, labelAll(conversations, label));
    const training = refs.filter(({ user_id }) => !heldOut(user_id));
    for await (const requests of withTexts(training, folder.conversations, 64)) {
      for (const { prompt, logged, follow_up } of requests) for (const text of [...prompt.map(({ content }) => content), logged, follow_up]) assert.ok(!kept.has(text), text);
    }
    counts.push(refs.length, training.length, beside_held_out);
  }
  // Requests, those of training users among them, and those left out.
  assert.deepEqual(counts, [396, 347, 134, 565, 494, 149]);
});
