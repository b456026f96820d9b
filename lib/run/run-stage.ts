/** Runs one stage in a run folder: what must be there is checked, its time and facts are kept, its files can be made again. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { timeBetween } from "../engine/busy-clock.js";
import { RlhiError } from "../errors.js";
import { filterJsonl } from "../files.js";
import type { CandidateRecord } from "../pairs/types.js";
import type { RunContext } from "./context.js";
import type { RunFolder } from "./folder.js";
import type { StageTime } from "./manifest.js";
import { requiredStages, stagesBefore, stagesFrom, stagesUpTo } from "./settings.js";
import type { Stage, StageFacts, StageName } from "./stage.js";

export interface StageOutcome {
  facts: StageFacts;
  /** True where the stage had been finished before and nothing was done. */
  skipped: boolean;
  seconds: number;
}

/**
 * Runs `stage`, going on where an earlier run of it stopped. A finished one is not done again unless `force`, which
 * removes its files and those of every later stage first. Throws where settings changed or an earlier stage is missing;
 * then nothing was removed.
 */
export async function runStage(name: StageName, stage: Stage, context: RunContext, force = false): Promise<StageOutcome> {
  const { manifest, folder, config, signal, clock } = context;
  if (force) await clearFrom(name, context);
  await finishClearing(context);
  await manifest.check(stagesUpTo(name), config);
  const finished = manifest.finished(name);
  if (finished?.facts !== null && finished !== undefined && stageFiles(name, folder).every((path) => existsSync(path))) {
    if (name === "mine") await tellNewFiles(context);
    return { facts: finished.facts, skipped: true, seconds: 0 };
  }
  requireStages(name, context);
  context.saveConfig();
  await manifest.begin(name, config);
  const start = performance.now();
  const before = clock.read();
  const spent = (): StageTime => ({ seconds: (performance.now() - start) / 1000, ...timeBetween(before, clock.read()) });
  try {
    const facts = await stage(context);
    signal.throwIfAborted();
    if (name === "mine") await manifest.recordInputs(minedFiles(facts));
    const time = spent();
    manifest.end(name, time, facts);
    return { facts, skipped: false, seconds: time.seconds };
  } catch (error) {
    manifest.end(name, spent(), null);
    throw error;
  }
}

/** The files that data.path came to, as the miner tells them. */
function minedFiles(facts: StageFacts): string[] {
  const files = Array.isArray(facts["files"]) ? (facts["files"] as { file?: unknown }[]) : [];
  return files.flatMap(({ file }) => (typeof file === "string" ? [file] : []));
}

/** Files that a pattern of data.path has come to match since they were mined are no error: they are told, and wait. */
async function tellNewFiles({ manifest, config, progress }: RunContext): Promise<void> {
  const added: string[] = [];
  for (const path of [config.data.path].flat()) if (/[*?[]/.test(path) && !existsSync(path)) added.push(...await matches(path));
  const unknown = added.filter((file) => manifest.data.inputs[file] === undefined);
  if (unknown.length === 0) return;
  const names = unknown.length <= 3 ? unknown.join(", ") : `${unknown.slice(0, 3).join(", ")} and ${unknown.length - 3} more`;
  progress.note(`not in this run, because data.path matches them only since it was mined: ${names} (--force mine begins again with them)`);
}

/** What mining would read now; nothing where it would be refused, which is no trouble after mining. */
async function matches(pattern: string): Promise<string[]> {
  const { expandPaths } = await import("../conversations/sources/records.js");
  try {
    return await expandPaths([pattern]);
  } catch (error) {
    if (error instanceof RlhiError) return [];
    throw error;
  }
}

function requireStages(name: StageName, { manifest, folder, config }: RunContext): void {
  for (const before of requiredStages(name, config)) {
    const state = manifest.data.stages[before]?.state;
    const missing = stageFiles(before, folder).find((path) => !existsSync(path));
    if (state !== "running" && missing === undefined) continue;
    throw new RlhiError("ERR_STAGE_ORDER", {
      what: `the stage \`${name}\` needs the files of \`${before}\``,
      where: folder.dir,
      expected: `\`${before}\` finished`,
      found: state === "running" ? "it was begun and not finished" : `no ${missing ?? before}`,
      todo: `rlhi-native ${before === "feedback" ? "mine" : before} ... --run ${folder.dir} (or \`rlhi-native run\`, which does every stage in order)`,
    });
  }
}

/** The files a finished stage has made. */
function stageFiles(name: StageName, folder: RunFolder): readonly string[] {
  const files: Record<StageName, readonly string[]> = {
    mine: [folder.conversations],
    feedback: [folder.feedback],
    personas: [folder.personas],
    rewrite: [folder.candidates],
    reward: [folder.candidates],
    pairs: [folder.pairs, folder.pairsArrow, folder.filtered],
    train: [folder.model],
    eval: [folder.judgements],
    report: [folder.report],
  };
  return files[name];
}

/** Removes the files of a stage and of later ones. Throws, before the first is gone, where an earlier stage's settings changed. */
export async function clearFrom(name: StageName, context: RunContext): Promise<void> {
  await context.manifest.check(stagesBefore(name), context.config);
  context.manifest.beginClearing(name);
  await finishClearing(context);
}

/** Removes what the stage that is begun again and the later ones made; the cache of model answers stays. Safe to do twice. */
async function finishClearing({ manifest, folder }: RunContext): Promise<void> {
  const { clearing } = manifest.data;
  if (clearing === undefined) return;
  for (const stage of stagesFrom(clearing)) {
    // Rewrites stand in the same file, and are earlier.
    if (stage === "reward" && clearing === "reward") await filterJsonl(folder.candidates, (record) => (record as CandidateRecord).method !== "reward");
    else for (const path of stageFiles(stage, folder)) rmSync(path, { recursive: true, force: true });
    if (stage === "train") for (const path of [folder.metrics, folder.checkpoints]) rmSync(path, { recursive: true, force: true });
    if (stage === "eval") rmSync(join(folder.dir, "answers.jsonl"), { force: true });
  }
  manifest.endClearing();
}
