import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { seededRandom } from "../lib/random.js";
import { temporaryFolder } from "./helpers/conversations.js";
import { methodRun, sampleLogs } from "./helpers/method-run.js";
import type { MethodRun } from "./helpers/method-run.js";
import { startOpenAiServer } from "./helpers/openai-server.js";

const cli = fileURLToPath(new URL("../lib/cli/main.js", import.meta.url));
const stages = ["personas", "rewrite", "reward", "pairs"] as const;
type StageName = (typeof stages)[number];

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a stage by the command line; `during` may end it. */
async function runCommand(run: MethodRun, stage: StageName, during?: (kill: (signal: NodeJS.Signals) => void, ended: () => boolean) => Promise<void>): Promise<Ended> {
  const child = spawn(process.execPath, [cli, stage, run.configPath, "--run", run.dir, "--json", "--quiet"], { stdio: ["ignore", "pipe", "pipe"] });
  const result: Ended = { code: null, signal: null, stdout: "", stderr: "" };
  child.stdout.on("data", (text) => (result.stdout += String(text)));
  child.stderr.on("data", (text) => (result.stderr += String(text)));
  let over = false;
  const end = new Promise<void>((resolve) => {
    child.on("close", (code, signal) => {
      over = true;
      Object.assign(result, { code, signal });
      resolve();
    });
  });
  await during?.((signal) => child.kill(signal), () => over);
  await end;
  return result;
}

/** Bytes of what a stage leaves behind as it goes. */
function progressOf(run: MethodRun, stage: StageName): number {
  const cache = join(run.dir, "cache");
  const files = [join(run.dir, stage === "personas" ? "personas.jsonl" : "candidates.jsonl"), ...(existsSync(cache) ? readdirSync(cache).map((name) => join(cache, name)) : [])];
  return files.filter((path) => existsSync(path)).reduce((sum, path) => sum + statSync(path).size, 0);
}

/** Kills the stage soon after it has written something more than it had, `times` times; then lets it finish. How often it was killed. */
async function runWithKills(run: MethodRun, stage: StageName, times: number, random: () => number): Promise<number> {
  let killed = 0;
  for (let attempt = 0; attempt < times; attempt += 1) {
    const before = progressOf(run, stage);
    const { code, signal, stderr } = await runCommand(run, stage, async (kill, ended) => {
      while (!ended() && progressOf(run, stage) === before) await sleep(2);
      await sleep(random() * 60);
      kill("SIGKILL");
    });
    if (signal === "SIGKILL") killed += 1;
    else assert.equal(code, 0, stderr);
  }
  const { code, stderr } = await runCommand(run, stage);
  assert.equal(code, 0, stderr);
  return killed;
}

function lines(run: MethodRun, name: string): string[] {
  return readFileSync(join(run.dir, name), "utf8").split("\n").filter((line) => line !== "").sort((a, b) => (a < b ? -1 : 1));
}

describe("stages killed at any moment and run again", () => {
  it("leave the same records as an unbroken run: nothing lost, nothing doubled", { timeout: 300_000 }, async (t) => {
    const server = await startOpenAiServer({ delayMs: 15 });
    t.after(() => server.close());
    const settings = { models: { persona: server.spec, rewriter: server.spec, judge: server.spec }, endpoint: { concurrency: 2 }, rewards: { n: 3, max: 10, max_new_tokens: 12 } };
    const logs = sampleLogs(6, 3);
    const dir = temporaryFolder(t);
    const broken = await methodRun(join(dir, "one"), logs, settings);
    const whole = await methodRun(join(dir, "two"), logs, settings);
    const random = seededRandom(5);
    for (const stage of stages) {
      const killed = await runWithKills(broken, stage, 2, random);
      assert.ok(killed >= 1, `${stage} was never caught at work`);
      const { code, stderr } = await runCommand(whole, stage);
      assert.equal(code, 0, stderr);
      const names = { personas: ["personas.jsonl"], rewrite: ["candidates.jsonl"], reward: ["candidates.jsonl"], pairs: ["pairs.jsonl", "filtered.jsonl"] }[stage];
      for (const name of names) {
        const [one, other] = [lines(broken, name), lines(whole, name)];
        assert.equal(new Set(one).size, one.length, `${name}: nothing twice`);
        // Each folder has a model of its own, with the same weights.
        assert.deepEqual(one, other, `${name} after ${stage}`);
      }
    }
    assert.ok(!existsSync(join(broken.dir, "pairs.jsonl.kept")));
    assert.ok(lines(broken, "pairs.jsonl").length > 8);
  });

  it("end with code 130 at Ctrl-C, whole lines in every file, and go on from there", { timeout: 120_000 }, async (t) => {
    const server = await startOpenAiServer({ delayMs: 25 });
    t.after(() => server.close());
    const run = await methodRun(temporaryFolder(t), sampleLogs(10, 3), { models: { persona: server.spec }, endpoint: { concurrency: 1 } });
    const { code, stderr } = await runCommand(run, "personas", async (kill, ended) => {
      while (!ended() && progressOf(run, "personas") === 0) await sleep(2);
      await sleep(100);
      kill("SIGINT");
    });
    assert.equal(code, 130, stderr);
    const text = readFileSync(join(run.dir, "personas.jsonl"), "utf8");
    assert.ok(text.endsWith("\n"));
    const done = lines(run, "personas.jsonl").length;
    assert.ok(done > 0 && done < 30, `${done} of 30`);
    assert.ok(!existsSync(join(run.dir, ".lock")));
    const asked = server.requests.length;
    const again = await runCommand(run, "personas");
    assert.equal(again.code, 0, again.stderr);
    assert.equal((JSON.parse(again.stdout) as { conversations: number }).conversations, 30);
    assert.equal(lines(run, "personas.jsonl").length, 30);
    // 20 have a history; one request may have been cut off under way.
    assert.ok(server.requests.length <= 21 && asked < server.requests.length);
  });
});
