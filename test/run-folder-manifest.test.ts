import assert from "node:assert/strict";
import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { loadRunConfig } from "../lib/config-file.js";
import { RlhiError, UsageError } from "../lib/errors.js";
import { silent } from "../lib/progress.js";
import { openRun } from "../lib/run/context.js";
import { Manifest } from "../lib/run/manifest.js";
import type { ManifestData } from "../lib/run/manifest.js";
import { runStage } from "../lib/run/run-stage.js";
import { stageSettings } from "../lib/run/settings.js";
import type { Stage } from "../lib/run/stage.js";
import { temporaryFolder } from "./helpers/conversations.js";
import { methodRun, openMethodRun, sampleLogs } from "./helpers/method-run.js";

/** A stage that leaves one candidate of its method. */
function leaves(method: string): Stage & { runs: number } {
  const stage = Object.assign(async ({ folder }: Parameters<Stage>[0]) => {
    stage.runs += 1;
    appendFileSync(folder.candidates, `${JSON.stringify({ id: `${method}-${stage.runs}`, method })}\n`);
    return { made: stage.runs, prompts: { [method]: "abc" } };
  }, { runs: 0 });
  return stage;
}
/** A stage that loads a model and gives the engine work. */
const works: Stage = async ({ folder, clock }) => {
  appendFileSync(folder.candidates, "");
  await clock.load(() => sleep(5));
  await clock.call(() => sleep(5));
  return {};
};

const settings = { personas: { enabled: false } };
const message = (pattern: RegExp) => (error: unknown): boolean => error instanceof RlhiError && pattern.test(error.message);

describe("a run folder", () => {
  it("says in manifest.json what it was made from", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    const { facts, skipped } = await runStage("rewrite", leaves("rewrite"), context);
    await context.close();
    assert.deepEqual([facts["made"], skipped], [1, false]);
    const data = JSON.parse(readFileSync(join(run.dir, "manifest.json"), "utf8")) as ManifestData;
    assert.equal(data.stages.rewrite?.state, "finished");
    assert.equal(data.stages.rewrite?.settings["rewrites.max_new_tokens"], 12);
    assert.equal(data.prompts["rewrite"], "abc");
    const input = Object.values(data.inputs)[0];
    assert.equal(input?.sha256, "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356");
    assert.deepEqual(loadRunConfig(join(run.dir, "run.yaml")), run.config);
  });

  it("does not do a finished stage again, unless forced, which removes what followed", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    t.after(() => context.close());
    const [rewrite, reward] = [leaves("rewrite"), leaves("reward")];
    await runStage("rewrite", rewrite, context);
    await runStage("reward", reward, context);
    assert.deepEqual(await runStage("rewrite", rewrite, context), { facts: { made: 1, prompts: { rewrite: "abc" } }, skipped: true, seconds: 0 });
    await runStage("reward", reward, context, true);
    assert.deepEqual(ids(run.dir), ["rewrite-1", "reward-2"], "rewrites are earlier and stay");
    await runStage("rewrite", rewrite, context, true);
    assert.deepEqual(ids(run.dir), ["rewrite-2"]);
    assert.equal(context.manifest.data.stages.reward, undefined);
  });

  it("keeps each stage's part of the engine's time, added up over the runs that used the engine", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    const { manifest } = context;
    await manifest.begin("rewrite", run.config);
    manifest.end("rewrite", { seconds: 10, busy_seconds: 6, load_seconds: 2 }, null);
    await context.close();
    const again = openMethodRun(run);
    t.after(() => again.close());
    const rewrite = () => again.manifest.data.stages.rewrite;
    assert.deepEqual(rewrite()?.engine, { seconds: 10, busy_seconds: 6, load_seconds: 2, idle_share: 0.25 });
    await again.manifest.begin("rewrite", run.config);
    again.manifest.end("rewrite", { seconds: 22, busy_seconds: 18.5, load_seconds: 1.5 }, null);
    await again.manifest.begin("rewrite", run.config);
    again.manifest.end("rewrite", { seconds: 3, busy_seconds: 0, load_seconds: 0 }, {});
    assert.deepEqual(rewrite()?.engine, { seconds: 32, busy_seconds: 24.5, load_seconds: 3.5, idle_share: 0.1404 });
    assert.deepEqual([rewrite()?.duration_s, rewrite()?.state], [35, "finished"]);
  });

  it("counts the engine's work by the run's clock, and says nothing of stages without it", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    t.after(() => context.close());
    await runStage("rewrite", works, context);
    await runStage("reward", leaves("reward"), context);
    const { rewrite, reward } = context.manifest.data.stages;
    const { seconds = 0, busy_seconds = 0, load_seconds = 0 } = rewrite?.engine ?? {};
    assert.ok(busy_seconds > 0 && load_seconds > 0 && busy_seconds + load_seconds <= seconds);
    assert.equal(seconds, rewrite?.duration_s);
    assert.ok(reward !== undefined && !("engine" in reward));
  });

  it("killed while --force removes files, says what it still has and removes the rest first", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const [rewrite, reward, pairs] = [leaves("rewrite"), leaves("reward"), leaves("pairs")];
    const first = openMethodRun(run);
    await runStage("rewrite", rewrite, first);
    await runStage("reward", reward, first);
    writeFileSync(join(run.dir, "pairs.jsonl"), "old pairs");
    // The removal stops in the middle: a line of candidates.jsonl cannot be read.
    const whole = readFileSync(join(run.dir, "candidates.jsonl"), "utf8");
    writeFileSync(join(run.dir, "candidates.jsonl"), `{"id":\n${whole}`);
    await assert.rejects(runStage("reward", reward, first, true), message(/candidates\.jsonl:1: a line is not JSON/));
    await first.close();
    const { stages, clearing } = JSON.parse(readFileSync(join(run.dir, "manifest.json"), "utf8")) as ManifestData;
    assert.deepEqual([stages.rewrite?.state, stages.reward, clearing], ["finished", undefined, "reward"], "a stage without its files is not called finished");
    assert.deepEqual(readFileSync(join(run.dir, "candidates.jsonl"), "utf8"), `{"id":\n${whole}`);

    writeFileSync(join(run.dir, "candidates.jsonl"), `${whole}{"id":"torn`);
    const second = openMethodRun(run);
    t.after(() => second.close());
    assert.equal((await runStage("rewrite", rewrite, second)).skipped, true);
    assert.deepEqual(ids(run.dir), ["rewrite-1"], "the rest of the removal is done by whatever comes next, a torn last line goes with it");
    assert.ok(!existsSync(join(run.dir, "pairs.jsonl")));
    assert.equal(second.manifest.data.clearing, undefined);
    assert.equal((await runStage("reward", reward, second)).skipped, false);
    assert.deepEqual(ids(run.dir), ["rewrite-1", "reward-2"]);
    await assert.rejects(runStage("pairs", pairs, second).then(() => runStage("train", pairs, second)), message(/`train` needs the files of `pairs`/));
  });

  it("begun again from an earlier stage after a broken removal, removes what both would", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    t.after(() => context.close());
    await runStage("rewrite", leaves("rewrite"), context);
    writeFileSync(join(run.dir, "candidates.jsonl"), "{\n{}\n");
    await assert.rejects(runStage("reward", leaves("reward"), context, true), message(/candidates\.jsonl:1/));
    await runStage("rewrite", leaves("rewrite"), context, true);
    assert.deepEqual(ids(run.dir), ["rewrite-1"]);
  });

  it("loses nothing to a --force that is refused", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const first = openMethodRun(run);
    await runStage("rewrite", leaves("rewrite"), first);
    await runStage("reward", leaves("reward"), first);
    await first.close();
    const other = openMethodRun({ ...run, config: { ...run.config, rewrites: { ...run.config.rewrites, temperature: 0.1 } } });
    t.after(() => other.close());
    await assert.rejects(runStage("reward", leaves("reward"), other, true), UsageError);
    assert.deepEqual(ids(run.dir), ["rewrite-1", "reward-1"]);
    assert.equal(other.manifest.data.stages.reward?.state, "finished");
  });

  it("is refused for settings that changed what it holds, and not for others", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const first = openMethodRun(run);
    await runStage("rewrite", leaves("rewrite"), first);
    await first.close();
    const other = { ...run, config: { ...run.config, rewrites: { ...run.config.rewrites, temperature: 0.1 } } };
    const second = openMethodRun(other);
    for (const stage of ["rewrite", "reward", "pairs"] as const) {
      await assert.rejects(runStage(stage, leaves(stage), second), (error) => error instanceof UsageError && /stage `rewrite` of this run folder was made with other settings/.test(error.message) && /rewrites\.temperature: 0\.6/.test(error.message) && /rewrites\.temperature: 0\.1/.test(error.message) && /--force/.test(error.message));
    }
    await runStage("rewrite", leaves("rewrite"), second, true);
    await second.close();
    const harmless = { ...other, config: { ...other.config, threads: 2, endpoint: { ...other.config.endpoint, concurrency: 1 }, train: { ...other.config.train, beta: 9 } } };
    const third = openMethodRun(harmless);
    assert.equal((await runStage("rewrite", leaves("rewrite"), third)).skipped, true);
    await third.close();
  });

  it("is refused for a part that is switched on or off since its pairs were made", async (t) => {
    const base = await methodRun(temporaryFolder(t), sampleLogs(1, 1), { ...settings, rewards: { enabled: false } });
    const first = openMethodRun(base);
    await runStage("rewrite", leaves("rewrite"), first);
    await runStage("pairs", leaves("pairs"), first);
    await first.close();
    const second = openMethodRun({ ...base, config: { ...base.config, rewards: { ...base.config.rewards, enabled: true } } });
    t.after(() => second.close());
    await assert.rejects(runStage("pairs", leaves("pairs"), second), message(/stage `pairs` of this run folder[\s\S]*rewards\.enabled: false[\s\S]*rewards\.enabled: true[\s\S]*--force pairs/));
    const settingsOfPairs = (rewrites: boolean, rewards: boolean): unknown[] => {
      const { config } = base;
      const made = stageSettings("pairs", { ...config, rewrites: { ...config.rewrites, enabled: rewrites }, rewards: { ...config.rewards, enabled: rewards } });
      return [made["rewrites.enabled"], made["rewards.enabled"]];
    };
    assert.deepEqual([settingsOfPairs(false, true), settingsOfPairs(true, false)], [[false, true], [true, false]]);
    assert.equal(stageSettings("eval", base.config)["personas.enabled"], false);
    const trained = stageSettings("train", base.config);
    assert.equal(trained["train.moments"], "f32");
    assert.ok(!("train.moment_memory" in trained), "where moments lie changes no bit");
  });

  it("does a finished stage again after one before it was done again", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    const context = openMethodRun(run);
    t.after(() => context.close());
    const [rewrite, reward] = [leaves("rewrite"), leaves("reward")];
    await runStage("rewrite", rewrite, context);
    await runStage("reward", reward, context);
    rmSync(join(run.dir, "candidates.jsonl"));
    assert.equal((await runStage("rewrite", rewrite, context)).skipped, false);
    assert.equal(context.manifest.data.stages.reward?.state, "running");
    assert.equal((await runStage("reward", reward, context)).skipped, false, "its candidates were in the file that was lost");
    assert.deepEqual(ids(run.dir), ["rewrite-2", "reward-2"]);
    assert.equal((await runStage("rewrite", rewrite, context)).skipped, true);
    assert.equal((await runStage("reward", reward, context)).skipped, true, "nothing was done before it this time");
  });

  it("is refused when a data file is another than before", async (t) => {
    const dir = temporaryFolder(t);
    const run = await methodRun(dir, sampleLogs(1, 1), settings);
    writeFileSync(join(dir, "logs.jsonl"), "{}\n{}\n");
    const context = openMethodRun(run);
    t.after(() => context.close());
    await assert.rejects(runStage("rewrite", leaves("rewrite"), context), message(/data file is not the one/));
  });

  it("knows the files that a pattern came to, and does without those that are gone", async (t) => {
    const dir = temporaryFolder(t);
    const base = await methodRun(dir, sampleLogs(1, 1), settings);
    const run = { ...base, dir: join(dir, "other"), config: { ...base.config, data: { ...base.config.data, path: join(dir, "*.jsonl") } } };
    const [kept, gone] = [join(dir, "logs.jsonl"), join(dir, "gone.jsonl")];
    writeFileSync(gone, "{}\n");
    const context = openMethodRun(run);
    t.after(() => context.close());
    const mined: Stage = async ({ folder }) => {
      writeFileSync(folder.conversations, "");
      return { files: [{ file: kept }, { file: gone }] };
    };
    await runStage("mine", mined, context);
    assert.deepEqual(Object.keys(context.manifest.data.inputs), [kept, gone]);
    rmSync(gone);
    assert.equal((await runStage("mine", mined, context)).skipped, true);
    writeFileSync(kept, "{}\n{}\n");
    await assert.rejects(runStage("mine", mined, context), message(/data file is not the one/));
  });

  it("tells of files that a pattern matches since it was mined, and leaves them out", async (t) => {
    const dir = temporaryFolder(t);
    const base = await methodRun(dir, sampleLogs(1, 1), settings);
    const run = { ...base, dir: join(dir, "other"), config: { ...base.config, data: { ...base.config.data, path: [join(dir, "*.jsonl"), join(dir, "nothing-*.jsonl")] } } };
    const notes: string[] = [];
    const context = openRun({ config: run.config, dir: run.dir, progress: { ...silent, note: (text) => notes.push(text) }, signal: new AbortController().signal });
    t.after(() => context.close());
    const mined: Stage = async ({ folder }) => {
      writeFileSync(folder.conversations, "");
      return { files: [{ file: join(dir, "logs.jsonl") }] };
    };
    await runStage("mine", mined, context);
    assert.equal((await runStage("mine", mined, context)).skipped, true);
    assert.deepEqual(notes, []);
    for (const name of ["a", "b"]) writeFileSync(join(dir, `${name}.jsonl`), "{}\n");
    assert.equal((await runStage("mine", mined, context)).skipped, true);
    assert.deepEqual(notes, [`not in this run, because data.path matches them only since it was mined: ${join(dir, "a.jsonl")}, ${join(dir, "b.jsonl")} (--force mine begins again with them)`]);
    for (const name of ["c", "d"]) writeFileSync(join(dir, `${name}.jsonl`), "{}\n");
    await runStage("mine", mined, context);
    assert.match(notes[1] ?? "", /a\.jsonl, .*b\.jsonl, .*c\.jsonl and 1 more \(--force mine/);
  });

  it("names the stage that is missing or was not finished", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), { rewards: { enabled: false } });
    const context = openMethodRun(run);
    t.after(() => context.close());
    await assert.rejects(runStage("rewrite", leaves("rewrite"), context), message(/`rewrite` needs the files of `personas`/));
    writeFileSync(join(run.dir, "personas.jsonl"), "");
    await assert.rejects(runStage("rewrite", () => Promise.reject(new Error("died")), context), /died/);
    await assert.rejects(runStage("pairs", leaves("pairs"), context), message(/needs the files of `rewrite`[\s\S]*begun and not finished/));
    assert.equal((await runStage("rewrite", leaves("rewrite"), context)).skipped, false);
  });

  it("belongs to one process at a time, and to the next when that one is gone", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, 1), settings);
    writeFileSync(join(run.dir, ".lock"), String(process.ppid));
    assert.throws(() => openMethodRun(run), message(/another process works in this run folder/));
    writeFileSync(join(run.dir, ".lock"), "999999999");
    const context = openMethodRun(run);
    assert.throws(() => openMethodRun(run), message(/this process has this run folder open already/));
    await context.close();
    assert.ok(!existsSync(join(run.dir, ".lock")));
  });

  it("with a manifest that is none is left alone", (t) => {
    const path = join(temporaryFolder(t), "manifest.json");
    for (const text of ["{", "{}", "null", '{"format": 2}']) {
      writeFileSync(path, text);
      assert.throws(() => new Manifest(path), message(/not a manifest/));
    }
  });
});

function ids(dir: string): string[] {
  return readFileSync(join(dir, "candidates.jsonl"), "utf8").trim().split("\n").map((line) => (JSON.parse(line) as { id: string }).id);
}
