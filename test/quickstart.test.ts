/** The quickstart's own part (what comes after setup): on the bundled sample with a tiny model instead of a download. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { stageNames } from "../lib/run/stage.js";
import { runCommand, startCommand } from "./helpers/run-process.js";
import type { Ended } from "./helpers/run-process.js";
import { writeTinyModel } from "./helpers/tiny-model.js";

const main = fileURLToPath(new URL("../lib/quickstart/main.js", import.meta.url));
const root = mkdtempSync(join(tmpdir(), "rlhi-quickstart-"));
after(() => rmSync(root, { recursive: true, force: true }));
const quickstart = (...args: string[]): Promise<Ended> => runCommand(args, root, main);

test("the whole method on the bundled sample; a second call does nothing again and tells the same", async () => {
  writeTinyModel(join(root, "tiny"), { dtype: "BF16", seed: 1 });
  const first = await quickstart("--model", join(root, "tiny"), "--run", join(root, "run"), "--json");
  assert.equal(first.code, 0, first.stderr);
  const facts = JSON.parse(first.stdout.trim()) as Record<string, unknown>;
  assert.equal(facts["report"], join(root, "run", "report.html"));
  assert.ok(existsSync(join(root, "run", "report.html")));
  assert.equal(facts["users"], 32);
  const { rewrite, reward } = facts["pairs"] as Record<string, number>;
  assert.ok((rewrite ?? 0) > 0 && (reward ?? 0) > 0);
  assert.ok((facts["loss_last"] as number) < Math.LN2);
  assert.ok((facts["held_out_pairs"] as number) > 0);
  const second = await quickstart("--model", join(root, "tiny"), "--run", join(root, "run"), "--json");
  assert.deepEqual(JSON.parse(second.stdout.trim()), facts);
  for (const [i, stage] of stageNames.entries()) assert.match(second.stderr, new RegExp(`^\\[${i + 1}/9\\] ${stage}: done before$`, "m"));
});

test("Ctrl-C ends with 130 and says how to go on", async () => {
  writeTinyModel(join(root, "stopped-model"), { dtype: "BF16", seed: 1 });
  const running = startCommand(["--model", join(root, "stopped-model"), "--run", join(root, "stopped")], root, main);
  await running.shown("[3/9] personas");
  running.child.kill("SIGINT");
  const { code, stderr } = await running.ended;
  assert.equal(code, 130, stderr);
  assert.match(stderr, /^stopped; what is done is kept\. Run the same command again to go on$/m);
  assert.ok(!existsSync(join(root, "stopped", ".lock")));
});

test("help says what it does, and wrong arguments what is wrong", async () => {
  const help = await quickstart("--help");
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^npm run quickstart --/);
  for (const [args, message] of [
    [["--data", join(root, "nothing.jsonl")], /nothing\.jsonl: no such file/],
    [["--dta", "x"], /Unknown argument: dta/],
    [["--min-conversations", "few", "--model", root], /data\.min_conversations/],
  ] as const) {
    const { code, stderr } = await quickstart(...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
});
