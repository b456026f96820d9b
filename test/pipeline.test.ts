/** `rlhi-native run` on a tiny model and a part of the bundled sample: every stage, again, stopped, killed and forced. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../lib/engine/addon.js";
import { readAllJsonl, sha256 } from "../lib/files.js";
import type { JudgementRecord } from "../lib/eval/types.js";
import type { PairRecord } from "../lib/pairs/types.js";
import { seededRandom } from "../lib/random.js";
import { runFolder } from "../lib/run/folder.js";
import type { RunFolder } from "../lib/run/folder.js";
import type { ManifestData } from "../lib/run/manifest.js";
import { stageNames } from "../lib/run/stage.js";
import { startOpenAiServer } from "./helpers/openai-server.js";
import type { TestServer } from "./helpers/openai-server.js";
import { runCommand, startCommand, writeRunYaml } from "./helpers/run-process.js";
import type { Ended } from "./helpers/run-process.js";
import { writeTinyModel } from "./helpers/tiny-model.js";

const root = mkdtempSync(join(tmpdir(), "rlhi-pipeline-"));
const model = join(root, "tiny");

/** Small enough for seconds. A tiny model's answers are noise that never ends, so filters that look at the text are off. */
const config = {
  model, dtype: "bf16",
  data: { path: join(packageRoot, "datasets", "sample", "conversations.jsonl"), held_out: 0.4, max_users: 10, max_conversations_per_user: 3, max_messages: 6 },
  feedback: { classifier: "both" },
  personas: { max_new_tokens: 24, max_conversations: 2 },
  rewrites: { max: 8, max_new_tokens: 12 },
  rewards: { n: 3, max: 8, max_new_tokens: 12 },
  pairs: { max_tokens: 512, min_margin: 0, filters: ["tie"] },
  train: { learning_rate: 1e-4, pairs_per_step: 3, num_epochs: 2, warmup_steps: 1, save_steps: 2, max_tokens_per_micro_batch: 1200 },
  eval: { max_prompts: 6, max_new_tokens: 12, bootstrap: 200 },
};

/** A working folder with run.yaml; its run goes into runs/run. */
function workplace(name: string, changes: object = {}): { cwd: string; yaml: string; folder: RunFolder } {
  const cwd = join(root, name);
  mkdirSync(cwd);
  return { cwd, yaml: writeRunYaml(cwd, { ...config, ...changes }), folder: runFolder(join(cwd, "runs", "run")) };
}

const manifestOf = ({ manifest }: RunFolder): ManifestData => JSON.parse(readFileSync(manifest, "utf8")) as ManifestData;
const facts = (stage: keyof ManifestData["stages"], folder: RunFolder): Record<string, unknown> => manifestOf(folder).stages[stage]?.facts ?? {};
const lines = (path: string): string[] => readFileSync(path, "utf8").split("\n").filter((line) => line !== "");

const ifThere = (path: string): string[] => (existsSync(path) ? lines(path) : []);

const timeless = (line: string): string => JSON.stringify(JSON.parse(line), (key, value: unknown) => (["tokens_per_second", "elapsed"].includes(key) ? undefined : value));

/** Everything a run has made, without what is about time: records as sorted lines, other files as hashes. */
function contents(folder: RunFolder): Record<string, unknown> {
  const records = ["feedback", "personas", "candidates", "pairs", "filtered", "metrics", "judgements"] as const;
  return {
    ...Object.fromEntries(records.map((name) => [name, ifThere(folder[name]).map(timeless).sort()])),
    answers: ifThere(join(folder.dir, "answers.jsonl")).sort(),
    conversations: sha256(readFileSync(folder.conversations)),
    model: Object.fromEntries(readdirSync(folder.model).sort().map((name) => [name, sha256(readFileSync(join(folder.model, name)))])),
  };
}

function assertSame(actual: Record<string, unknown>, expected: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(expected)) assert.deepEqual(actual[name], value, name);
}

function succeeded({ code, stderr }: Ended): void {
  assert.equal(code, 0, stderr);
}

after(() => rmSync(root, { recursive: true, force: true }));
before(() => { writeTinyModel(model, { dtype: "BF16", seed: 1 }); });

describe("the whole method on a tiny model", () => {
  let unbroken: { cwd: string; yaml: string; folder: RunFolder };
  let first: Ended;

  before(async () => {
    unbroken = workplace("unbroken");
    first = await runCommand(["run", unbroken.yaml, "--json"], unbroken.cwd);
  });

  test("every stage leaves its files, and their counts agree", async () => {
    succeeded(first);
    const { folder } = unbroken;
    const manifest = manifestOf(folder);
    for (const stage of stageNames) assert.equal(manifest.stages[stage]?.state, "finished", stage);
    assert.equal(lines(folder.feedback).length, facts("mine", folder)["follow_ups"]);
    const pairs = await readAllJsonl<PairRecord>(folder.pairs);
    assert.ok(pairs.some(({ method }) => method === "rewrite") && pairs.some(({ method }) => method === "reward"));
    assert.equal(lines(folder.candidates).length, 16);
    assert.equal(pairs.length + lines(folder.filtered).length, 16);
    const trained = pairs.filter(({ held_out }) => !held_out).length;
    assert.equal(facts("train", folder)["pairs"], trained);
    const metrics = lines(folder.metrics).map((line) => JSON.parse(line) as Record<string, number>);
    assert.equal(metrics.length, facts("train", folder)["steps"]);
    assert.ok(Math.abs((metrics[0]?.["loss"] ?? 0) - Math.LN2) < 1e-6, "the first loss is ln 2");
    assert.ok((metrics.at(-1)?.["loss"] ?? 1) < Math.LN2, "and then it falls");
    const judgements = await readAllJsonl<JudgementRecord>(folder.judgements);
    assert.equal(judgements.length % 6, 0);
    assert.equal(new Set(judgements.map(({ id, criterion, shown_first }) => `${id} ${criterion} ${shown_first}`)).size, judgements.length);
    assert.ok(existsSync(folder.report) && existsSync(folder.config) && existsSync(folder.pairsArrow));
  });

  test("its last line is the headline, as JSON", () => {
    const line = JSON.parse(first.stdout.trim()) as Record<string, unknown>;
    const { folder } = unbroken;
    assert.equal(line["report"], folder.report);
    assert.equal(line["users"], 10);
    assert.deepEqual(Object.keys(line["seconds_by_stage"] as object), stageNames.filter((name) => name !== "report"));
    assert.equal(line["steps"], lines(folder.metrics).length);
    assert.equal(typeof line["win_rate"], "number");
  });

  test("progress names each stage, its place and a rough time for the rest", () => {
    for (const [i, stage] of stageNames.entries()) assert.match(first.stderr, new RegExp(`^\\[${i + 1}/9\\] ${stage}: done in [\\d.]+ s`, "m"));
    assert.match(first.stderr, /^\[4\/9\] rewrite: done in .*; the rest takes roughly \d+ s$/m);
  });

  test("the trained model is a folder that the other commands open", async () => {
    const { folder, cwd } = unbroken;
    const chats = join(cwd, "runs", "run", "pairs.jsonl");
    const scored = await runCommand(["logps", "--model", folder.model, "--data", chats, "--json"], cwd);
    succeeded(scored);
    assert.equal(lines(folder.pairs).length, scored.stdout.trim().split("\n").length);
    for (const file of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]) assert.ok(existsSync(join(folder.model, file)), file);
  });

  test("run again, nothing is done and no file changes", async () => {
    const { folder, cwd, yaml } = unbroken;
    const files = readdirSync(folder.dir, { recursive: true, encoding: "utf8" }).map((name) => join(folder.dir, name)).filter((path) => statSync(path).isFile());
    const state = (): unknown[] => files.map((path) => [path, statSync(path).mtimeMs, statSync(path).size]);
    const earlier = state();
    for (const args of [["run", yaml], ["run", folder.dir]]) {
      const again = await runCommand(args, cwd);
      succeeded(again);
      for (const [i, stage] of stageNames.entries()) assert.match(again.stderr, new RegExp(`^\\[${i + 1}/9\\] ${stage}: done before$`, "m"));
    }
    assert.deepEqual(state(), earlier);
  });

  test("killed during each stage and run again: the records and the weights of an unbroken run", async () => {
    const { cwd, yaml, folder } = workplace("killed");
    const durations = manifestOf(unbroken.folder).stages;
    const random = seededRandom(3);
    let kills = 0;
    for (const [i, stage] of stageNames.entries()) {
      for (const part of [0.1, 0.6]) {
        const running = startCommand(["run", yaml], cwd);
        await running.shown(`[${i + 1}/9] ${stage}`);
        await sleep(1000 * (durations[stage]?.duration_s ?? 0) * (part + 0.3 * random()));
        running.child.kill("SIGKILL");
        if ((await running.ended).code === null) kills += 1;
      }
    }
    assert.ok(kills >= 9, `${kills} kills while it ran`);
    succeeded(await runCommand(["run", yaml], cwd));
    assertSame(contents(folder), contents(unbroken.folder));
    assert.deepEqual(readdirSync(folder.dir).filter((name) => /tmp|\.new|\.kept|\.work|lock/.test(name)), []);
  });

  test("Ctrl-C ends with 130, says how to go on, and going on gives the same", async () => {
    const { cwd, yaml, folder } = workplace("stopped");
    for (const stage of ["feedback", "reward", "train"] as const) {
      const running = startCommand(["run", yaml], cwd);
      await running.shown(`[${stageNames.indexOf(stage) + 1}/9] ${stage}`);
      running.child.kill("SIGINT");
      const { code, stderr } = await running.ended;
      assert.equal(code, 130, stderr);
      assert.match(stderr, /^stopped; what is done is kept\. Go on with: rlhi-native run runs\/run$/m);
      assert.ok(!existsSync(join(folder.dir, ".lock")));
    }
    succeeded(await runCommand(["run", "runs/run"], cwd));
    assertSame(contents(folder), contents(unbroken.folder));
  });

  test("a changed setting is refused with the stage it belongs to; --force makes that stage and later ones again", async () => {
    const { cwd, folder } = workplace("forced");
    succeeded(await runCommand(["run", "run.yaml"], cwd));
    assertSame(contents(folder), contents(unbroken.folder));
    writeRunYaml(cwd, { ...config, train: { ...config.train, beta: 0.5 } });
    const refused = await runCommand(["run", "run.yaml"], cwd);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /stage `train`.*[\s\S]*train\.beta: 0\.1[\s\S]*train\.beta: 0\.5/);
    assertSame(contents(folder), contents(unbroken.folder));
    const forced = await runCommand(["run", "run.yaml", "--force", "train"], cwd);
    succeeded(forced);
    assert.match(forced.stderr, /\[6\/9\] pairs: done before\n/);
    assert.match(forced.stderr, /\[7\/9\] train: done in /);
    const [now, then] = [contents(folder), contents(unbroken.folder)];
    assert.deepEqual(now["candidates"], then["candidates"]);
    assert.notDeepEqual(now["model"], then["model"]);
  });

  test("what is switched off is no stage, and cannot be forced", async () => {
    const { cwd, folder } = workplace("less", { personas: { enabled: false }, rewrites: { enabled: false }, eval: { enabled: false }, feedback: { classifier: "rules" } });
    const ended = await runCommand(["run", "run.yaml"], cwd);
    succeeded(ended);
    assert.match(ended.stderr, /\[6\/6\] report: done in/);
    assert.ok((await readAllJsonl<PairRecord>(folder.pairs)).every(({ method, persona_used }) => method === "reward" && !persona_used));
    const forced = await runCommand(["run", "run.yaml", "--force", "eval"], cwd);
    assert.equal(forced.code, 2);
    assert.match(forced.stderr, /switched off/);
  });

  test("what is switched on or off later is refused before anything is done, and --force makes it and what follows", async () => {
    const off = { personas: { enabled: false }, rewards: { enabled: false }, eval: { enabled: false }, feedback: { classifier: "rules" } };
    const { cwd, folder } = workplace("switched", off);
    succeeded(await runCommand(["run", "run.yaml"], cwd));
    const methods = async (): Promise<string[]> => [...new Set((await readAllJsonl<PairRecord>(folder.pairs)).map(({ method }) => method))].sort();
    const made = contents(folder);
    assert.deepEqual(await methods(), ["rewrite"]);

    writeRunYaml(cwd, { ...config, ...off, rewards: config.rewards });
    const on = await runCommand(["run", "run.yaml"], cwd);
    assert.equal(on.code, 2);
    assert.match(on.stderr, /stage `pairs`[\s\S]*rewards\.enabled: false[\s\S]*rewards\.enabled: true/);
    assert.doesNotMatch(on.stderr, /reward: done/);
    assertSame(contents(folder), made);
    succeeded(await runCommand(["run", "run.yaml", "--force", "pairs"], cwd));
    assert.deepEqual(await methods(), ["reward", "rewrite"]);
    assert.equal(facts("train", folder)["steps"], lines(folder.metrics).length);

    writeRunYaml(cwd, { ...config, ...off });
    const again = await runCommand(["run", "run.yaml"], cwd);
    assert.equal(again.code, 2);
    assert.match(again.stderr, /stage `reward`[\s\S]*--force reward/);
    succeeded(await runCommand(["run", "run.yaml", "--force", "reward"], cwd));
    assertSame(contents(folder), made);
  });

  test("a file that is lost is made again, and what follows is gone over: nothing is trained twice", async () => {
    const { cwd, folder } = unbroken;
    const earlier = contents(folder);
    rmSync(folder.candidates);
    const repaired = await runCommand(["run", folder.dir], cwd);
    succeeded(repaired);
    for (const stage of ["rewrite", "reward", "pairs", "train", "eval", "report"]) assert.match(repaired.stderr, new RegExp(`\\] ${stage}: done in`));
    assert.match(repaired.stderr, /\] personas: done before/);
    assertSame(contents(folder), earlier);
    assert.equal(facts("train", folder)["resumed_from"], lines(folder.metrics).length);
  });

  test("pairs that changed under a finished training are told, and the model stays until --force", async () => {
    const { cwd, folder } = workplace("other-pairs", { personas: { enabled: false }, rewards: { enabled: false }, eval: { enabled: false }, feedback: { classifier: "rules" } });
    succeeded(await runCommand(["run", "run.yaml"], cwd));
    const weights = (): unknown => Object.values(contents(folder)["model"] as object);
    const trained = weights();
    writeFileSync(folder.candidates, lines(folder.candidates).slice(1).map((line) => `${line}\n`).join(""));
    rmSync(folder.pairs);
    const refused = await runCommand(["run", "run.yaml"], cwd);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /another training[\s\S]*--force train/);
    assert.deepEqual(weights(), trained);
    succeeded(await runCommand(["run", "run.yaml", "--force", "train"], cwd));
    assert.notDeepEqual(weights(), trained);
  });

  test("two runs in one folder at once: the second is told so and changes nothing", async () => {
    const { cwd, yaml } = workplace("busy");
    const running = startCommand(["run", yaml], cwd);
    await running.shown("[2/9] feedback");
    const second = await runCommand(["report", "runs/run"], cwd);
    assert.equal(second.code, 1);
    assert.match(second.stderr, /another process works in this run folder/);
    succeeded(await running.ended);
  });

  test("single stages by their commands give what `run` gives", async () => {
    const { folder, cwd } = unbroken;
    const evaluated = await runCommand(["eval", folder.dir, "--json"], cwd);
    succeeded(evaluated);
    assert.equal((JSON.parse(evaluated.stdout) as { skipped: boolean }).skipped, true);
    rmSync(folder.report);
    const reported = await runCommand(["report", folder.dir], cwd);
    succeeded(reported);
    assert.match(reported.stdout, /open in a browser: runs\/run\/report\.html/);
    assert.ok(existsSync(folder.report));
  });
});

describe("the whole method with an endpoint for everything but the policy", () => {
  let server: TestServer;
  let models: Record<string, string>;
  let unbroken: { cwd: string; yaml: string; folder: RunFolder };
  /** The texts of an endpoint are whole answers: the filters that read them can run. */
  const withEndpoint = (): object => ({ models, endpoint: { concurrency: 4, max_retries: 6 }, pairs: { max_tokens: 512, min_margin: 0, filters: ["empty_answer", "tie", "near_duplicate", "leaked_feedback"] } });

  before(async () => {
    server = await startOpenAiServer({ delayMs: 4 });
    models = Object.fromEntries(["classifier", "persona", "rewriter", "judge"].map((role) => [role, server.spec]));
    unbroken = workplace("endpoint", withEndpoint());
    succeeded(await runCommand(["run", unbroken.yaml], unbroken.cwd));
  });
  after(() => server.close());

  test("the server is asked for labels, personas, rewrites and verdicts, the policy answers itself", () => {
    const { models: used } = manifestOf(unbroken.folder);
    for (const role of ["classifier", "persona", "rewriter", "judge"]) assert.equal(used[role]?.spec, server.spec, role);
    for (const role of ["policy", "base", "trained"]) assert.match(used[role]?.spec ?? "", /^native:/, role);
    assert.ok((facts("personas", unbroken.folder)["personas"] as number) > 0);
    const rewritten = lines(unbroken.folder.candidates).filter((line) => line.includes('"origin":"rewrite"'));
    assert.ok(rewritten.length > 0 && rewritten.every((line) => line.includes("The answer speaks of")));
    assert.ok(server.peak() > 1 && server.peak() <= 4, `${server.peak()} requests at once`);
    const page = readFileSync(unbroken.folder.report, "utf8");
    assert.ok(page.includes("tiny, at an endpoint") && !page.includes(server.url));
  });

  test("run again, the server hears nothing", async () => {
    const heard = server.requests.length;
    succeeded(await runCommand(["run", unbroken.yaml], unbroken.cwd));
    assert.equal(server.requests.length, heard);
  });

  test("killed between answers, on a server that fails now and then: the same records, and no answer is paid for twice", async () => {
    const { cwd, yaml, folder } = workplace("endpoint-killed", withEndpoint());
    const answered = server.requests.length;
    let failures = 0;
    server.options.misbehave = (_, count) => (count % 11 === 5 ? (failures += 1, { kind: "status", status: count % 2 === 0 ? 500 : 429, headers: { "retry-after": "0" } }) : undefined);
    const random = seededRandom(5);
    let kills = 0;
    for (let i = 0; i < 5; i += 1) {
      const running = startCommand(["run", yaml], cwd);
      const target = server.requests.length + 25 + Math.floor(30 * random());
      while (server.requests.length < target && running.child.exitCode === null) await sleep(5);
      running.child.kill("SIGKILL");
      if ((await running.ended).code === null) kills += 1;
    }
    succeeded(await runCommand(["run", yaml], cwd));
    delete server.options.misbehave;
    assert.ok(kills >= 3, `${kills} kills while it ran`);
    assert.ok(failures > 0);
    assertSame(contents(folder), contents(unbroken.folder));
    // Each kill loses what was under way, four requests at most.
    assert.ok(server.requests.length - answered <= answered + failures + 4 * kills, `${server.requests.length - answered} requests, ${answered} in an unbroken run`);
  });

  test("a server that is not there is an error that names it; the run goes on when it is back", async () => {
    const { cwd, folder } = workplace("endpoint-gone", { ...withEndpoint(), models: { judge: "openai:http://127.0.0.1:9/v1#tiny" }, endpoint: { max_retries: 1 }, feedback: { classifier: "rules" } });
    const gone = await runCommand(["run", "run.yaml"], cwd);
    assert.equal(gone.code, 1);
    assert.match(gone.stderr, /127\.0\.0\.1:9/);
    assert.equal(manifestOf(folder).stages.rewrite?.state, "finished");
    assert.equal(manifestOf(folder).stages.reward?.state, "running");
  });
});

test("a model without a tokenizer is refused before the first stage, though other models do the first ones", async () => {
  const bare = writeTinyModel(join(root, "bare")).path;
  rmSync(join(bare, "tokenizer.json"));
  const models = Object.fromEntries(["classifier", "persona", "rewriter", "judge"].map((role) => [role, "openai:http://127.0.0.1:9/v1#none"]));
  const { cwd, folder } = workplace("no-tokenizer", { model: bare, models });
  const { code, stderr } = await runCommand(["run", "run.yaml"], cwd);
  assert.equal(code, 1);
  assert.match(stderr, new RegExp(`^error: ${bare}: the model folder has no tokenizer\\.json\\n  expected: .*\\n  to do:    download tokenizer\\.json`, "m"));
  assert.ok(!existsSync(folder.conversations));
  assert.ok(!existsSync(folder.manifest));
});
