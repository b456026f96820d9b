import assert from "node:assert/strict";
import { test } from "node:test";
import { about } from "../lib/cli/stage-notes.js";
import { runConfigSchema } from "../lib/config.js";
import type { RunConfigInput } from "../lib/config.js";
import { secondsLeft } from "../lib/run/estimate.js";
import type { StageRecord } from "../lib/run/manifest.js";
import type { StageFacts, StageName } from "../lib/run/stage.js";

const config = (changes: Partial<RunConfigInput> = {}) => runConfigSchema.parse({ model: "m", data: { path: "p" }, feedback: { classifier: "rules" }, ...changes });
const mined: StageFacts = { conversations: 100, users: 20, held_out_users: 4, follow_ups: 300 };

function stages(durations: Partial<Record<StageName, number>>): Partial<Record<StageName, StageRecord>> {
  return Object.fromEntries(Object.entries(durations).map(([name, duration_s]) => [name, { state: "finished", started: "", finished: "", duration_s, settings: {}, facts: name === "mine" ? mined : {} }]));
}

test("nothing is said before a stage worth counting has finished", () => {
  assert.equal(secondsLeft({ stages: {} }, config(), ["mine", "rewrite"]), null);
  assert.equal(secondsLeft({ stages: stages({ mine: 5, feedback: 2 }) }, config(), ["personas", "rewrite"]), null);
  assert.equal(secondsLeft({ stages: stages({ mine: 5, personas: 60 }) }, config(), ["report"]), null);
});

test("a machine twice as slow takes twice as long, for less left it takes less", () => {
  const rest: StageName[] = ["reward", "pairs", "train", "eval", "report"];
  const after = (seconds: number, names = rest): number => secondsLeft({ stages: stages({ mine: 1, personas: seconds }) }, config(), names) ?? 0;
  assert.ok(Math.abs(after(120) - 2 * after(60)) < 1e-9);
  assert.ok(after(60, ["eval"]) > 0 && after(60, ["eval"]) < after(60));
});

const left = (changes: Partial<RunConfigInput>): number => secondsLeft({ stages: stages({ mine: 1, personas: 60 }) }, config(changes), ["rewrite", "reward", "eval"]) ?? 0;

test("limits in the settings bound it", () => {
  assert.ok(left({ rewrites: { max: 5 }, rewards: { max: 5 }, eval: { max_prompts: 5 } }) < left({}) / 5);
  assert.ok(left({ rewards: { n: 4 } }) < left({ rewards: { n: 8 } }));
});

test("an estimate is written no more exactly than it is known", () => {
  assert.deepEqual([0, 14, 44, 59, 61, 200, 3590, 3600, 8000].map(about), ["10 s", "10 s", "40 s", "1 min", "1 min", "3 min", "1 h", "1 h", "2 h 10 min"]);
});
