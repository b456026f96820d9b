/** manifest.json: what a run folder was made from and how far it is. Every update replaces the file as a whole. */
import { existsSync, readFileSync, statSync } from "node:fs";
import type { RunConfig } from "../config.js";
import { packageVersion } from "../engine/addon.js";
import { idleShare } from "../engine/busy-clock.js";
import type { EngineTime } from "../engine/busy-clock.js";
import { RlhiError, UsageError } from "../errors.js";
import { sha256File, writeFileAtomic } from "../files.js";
import { settingChanges, stagesFrom, stageSettings } from "./settings.js";
import type { SettingChange, StageSettings } from "./settings.js";
import type { StageFacts, StageName } from "./stage.js";

export interface StageRecord {
  /** "running" also stands after a crash or Ctrl-C: the stage goes on when it is run again. */
  state: "running" | "finished";
  started: string;
  finished: string | null;
  /** Wall seconds, summed over all runs of the stage. */
  duration_s: number;
  /** Of stages that used the embedded engine: its part of the time. */
  engine?: EngineRecord;
  settings: StageSettings;
  facts: StageFacts | null;
}

/** Summed over those runs of a stage in which the embedded engine loaded a model or worked. */
export interface EngineRecord extends EngineTime {
  /** Wall time of these runs. */
  seconds: number;
  /** Of the wall time without loading, the share in which the engine had no work; null where there is no such time. */
  idle_share: number | null;
}

/** What one run of a stage took. */
export interface StageTime extends EngineTime {
  seconds: number;
}

export interface InputRecord {
  bytes: number;
  mtime_ms: number;
  sha256: string;
}

export interface ManifestData {
  format: 1;
  versions: { rlhi_native: string; node: string };
  created: string;
  updated: string;
  seed: number;
  /** Data files by path. */
  inputs: Record<string, InputRecord>;
  /** Hash by prompt. */
  prompts: Record<string, string>;
  /** By role. */
  models: Record<string, { spec: string; fingerprint: string }>;
  stages: Partial<Record<StageName, StageRecord>>;
  /** The files of this stage and later ones are being removed. Where a kill left it here, the next call finishes that first. */
  clearing?: StageName;
}

export class Manifest {
  readonly data: ManifestData;

  /** Opens the manifest at `path`, or begins one in memory where there is none. Throws on a file that is not one. */
  constructor(readonly path: string) {
    this.data = existsSync(path) ? readManifest(path) : emptyManifest();
  }

  /** Throws UsageError where a setting that made the files of one of `stages` is another now, or a data file of `mine` changed. */
  async check(stages: readonly StageName[], config: RunConfig): Promise<void> {
    for (const name of stages) {
      const record = this.data.stages[name];
      if (record === undefined) continue;
      const changes = settingChanges(record.settings, stageSettings(name, config));
      if (changes.length > 0) throw changedSettings(this.path, name, changes);
      if (name === "mine") await this.#checkInputs();
    }
  }

  /** Data files that are gone since are no trouble: what was mined from them is here. */
  async #checkInputs(): Promise<void> {
    for (const [path, before] of Object.entries(this.data.inputs)) {
      if (!existsSync(path)) continue;
      const now = await inputRecord(path, before);
      if (now.sha256 !== before.sha256) {
        throw new UsageError({
          what: "a data file is not the one this run folder was made from",
          where: path,
          expected: `sha256 ${before.sha256.slice(0, 16)}…, ${before.bytes} bytes`,
          found: `sha256 ${now.sha256.slice(0, 16)}…, ${now.bytes} bytes`,
          todo: "give a new run folder (--run DIR), or begin again in this one from the stage `mine` with --force",
        });
      }
    }
  }

  /**
   * Marks a stage as under way; its settings are recorded before its first file is. Later stages are no longer finished: each
   * goes over its files again, which costs little where nothing is missing, so that none stands on what is not there any more.
   */
  async begin(stage: StageName, config: RunConfig): Promise<void> {
    if (stage === "mine") {
      this.data.inputs = {};
      await this.recordInputs(Array.isArray(config.data.path) ? config.data.path : [config.data.path]);
    }
    for (const later of stagesFrom(stage).slice(1)) {
      const record = this.data.stages[later];
      if (record !== undefined) this.data.stages[later] = { ...record, state: "running", finished: null, facts: null };
    }
    const before = this.data.stages[stage];
    this.data.seed = config.seed;
    this.data.stages[stage] = {
      state: "running",
      started: before?.started ?? new Date().toISOString(),
      finished: null,
      duration_s: before?.duration_s ?? 0,
      ...(before?.engine === undefined ? {} : { engine: before.engine }),
      settings: stageSettings(stage, config),
      facts: null,
    };
    this.save();
  }

  /** Adds the time of a run of the stage; with facts the stage is finished. */
  end(stage: StageName, time: StageTime, facts: StageFacts | null): void {
    const record = this.data.stages[stage];
    if (record === undefined) throw new Error(`stage ${stage} ended before it began`);
    record.duration_s = milliseconds(record.duration_s + time.seconds);
    if (time.busy_seconds > 0 || time.load_seconds > 0) record.engine = addedUp(record.engine, time);
    if (facts !== null) {
      record.state = "finished";
      record.finished = new Date().toISOString();
      record.facts = facts;
      if (typeof facts["prompts"] === "object") Object.assign(this.data.prompts, facts["prompts"]);
    }
    this.save();
  }

  /** Notes size, time and hash of those of `paths` that are files; patterns are known once they are mined. */
  async recordInputs(paths: readonly string[]): Promise<void> {
    for (const path of paths) {
      if (existsSync(path) && statSync(path).isFile()) this.data.inputs[path] ??= await inputRecord(path, undefined);
    }
  }

  recordModel(role: string, spec: string, fingerprint: string): void {
    this.data.models[role] = { spec, fingerprint };
    this.save();
  }

  /** Forgets a stage and those after it, before the first of their files is removed: no finished stage ever lacks its files. */
  beginClearing(stage: StageName): void {
    for (const name of stagesFrom(stage)) delete this.data.stages[name];
    const { clearing } = this.data;
    this.data.clearing = clearing !== undefined && stagesFrom(clearing).includes(stage) ? clearing : stage;
    this.save();
  }

  endClearing(): void {
    delete this.data.clearing;
    this.save();
  }

  finished(stage: StageName): StageRecord | undefined {
    const record = this.data.stages[stage];
    return record?.state === "finished" ? record : undefined;
  }

  save(): void {
    this.data.updated = new Date().toISOString();
    writeFileAtomic(this.path, `${JSON.stringify(this.data, null, 2)}\n`);
  }
}

const milliseconds = (seconds: number): number => Math.round(seconds * 1000) / 1000;

/** The engine's part of several stages together; null of none. */
export function engineTogether(records: readonly StageTime[]): EngineRecord | null {
  return records.reduce((sum: EngineRecord | null, record) => addedUp(sum ?? undefined, record), null);
}

function addedUp(before: StageTime = { seconds: 0, busy_seconds: 0, load_seconds: 0 }, time: StageTime): EngineRecord {
  const seconds = milliseconds(before.seconds + time.seconds);
  const engine = { busy_seconds: milliseconds(before.busy_seconds + time.busy_seconds), load_seconds: milliseconds(before.load_seconds + time.load_seconds) };
  const share = idleShare(seconds, engine);
  return { seconds, ...engine, idle_share: share === null ? null : Math.round(share * 1e4) / 1e4 };
}

function emptyManifest(): ManifestData {
  const now = new Date().toISOString();
  return { format: 1, versions: { rlhi_native: packageVersion(), node: process.version }, created: now, updated: now, seed: 0, inputs: {}, prompts: {}, models: {}, stages: {} };
}

function readManifest(path: string): ManifestData {
  const problem = (found: string, cause?: unknown): RlhiError => new RlhiError("ERR_INVALID_FILE", {
    what: "not a manifest of a run folder",
    where: path,
    expected: "JSON with format 1",
    found,
    todo: "give another run folder, or move this file away to begin anew",
    cause,
  });
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw problem((error as Error).message, error);
  }
  const data = value as Partial<ManifestData> | null;
  if (data?.format !== 1 || typeof data.stages !== "object") throw problem(`format ${String(data?.format)}`);
  return data as ManifestData;
}

/** Size and time of change spare reading a large file again. */
async function inputRecord(path: string, known: InputRecord | undefined): Promise<InputRecord> {
  const { size, mtimeMs } = statSync(path);
  if (known !== undefined && known.bytes === size && known.mtime_ms === mtimeMs) return known;
  return { bytes: size, mtime_ms: mtimeMs, sha256: await sha256File(path) };
}

function show(value: unknown): string {
  return value === undefined ? "(not set)" : JSON.stringify(value);
}

function changedSettings(path: string, stage: StageName, changes: readonly SettingChange[]): UsageError {
  return new UsageError({
    what: `the stage \`${stage}\` of this run folder was made with other settings`,
    where: path,
    expected: changes.map(({ setting, before }) => `${setting}: ${show(before)}`).join("; "),
    found: changes.map(({ setting, now }) => `${setting}: ${show(now)}`).join("; "),
    todo: `give a new run folder (--run DIR), or make \`${stage}\` and what follows it again here: rlhi-native run ... --force ${stage}`,
  });
}
