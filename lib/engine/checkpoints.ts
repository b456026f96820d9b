/**
 * Checkpoints of a training: checkpoints/step-N, each a Hugging Face folder with optimizer.safetensors and
 * trainer_state.json. Written under another name and renamed when whole, so that a folder called step-N is complete
 * whenever the process dies. checkpoints/training.json says which settings they belong to.
 */
import { constants, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { RlhiError } from "../errors.js";
import { writeError, writeFileAtomic } from "../files.js";
import { lockCheckpoints } from "../run/lock.js";

/** Kept when a newer one is whole. */
const kept = 2;

export interface HeldOutMetrics {
  pairs: number;
  loss: number;
  "rewards/margins": number;
  "rewards/accuracies": number;
}

/** checkpoints/training.json. */
export interface TrainingRecord {
  format: 1;
  state: "running" | "finished";
  /** Hash over everything that decides the weights' bytes; settings in words beside it. */
  hash: string;
  settings: Record<string, unknown>;
  held_out_before: HeldOutMetrics | null;
  held_out_after: HeldOutMetrics | null;
}

export interface TrainerState {
  global_step: number;
  epoch: number;
  /** Seconds of training so far. */
  elapsed: number;
  num_tokens: number;
  hash: string;
}

export interface Checkpoint {
  path: string;
  step: number;
  state: TrainerState;
}

const notWeights = new Set(["optimizer.safetensors", "trainer_state.json"]);

export class CheckpointFolder {
  constructor(readonly dir: string) {}

  /** Makes the folder and keeps other processes out of it. Throws ERR_TRAINING_IN_USE. Returns what gives it free. */
  lock(): () => void {
    try {
      mkdirSync(this.dir, { recursive: true });
    } catch (error) {
      throw writeError(this.dir, error);
    }
    return lockCheckpoints(this.dir);
  }

  /** Takes every checkpoint and the record away; the lock stays. */
  clear(): void {
    for (const name of readdirSync(this.dir)) if (!name.startsWith(".lock")) rmSync(join(this.dir, name), { recursive: true, force: true });
  }

  readRecord(): TrainingRecord | undefined {
    const path = join(this.dir, "training.json");
    if (!existsSync(path)) return undefined;
    try {
      return JSON.parse(readFileSync(path, "utf8")) as TrainingRecord;
    } catch (error) {
      throw new RlhiError("ERR_INVALID_FILE", { what: "not valid JSON", where: path, found: (error as Error).message, todo: "begin again with --overwrite", cause: error });
    }
  }

  writeRecord(record: TrainingRecord): void {
    mkdirSync(this.dir, { recursive: true });
    writeFileAtomic(join(this.dir, "training.json"), `${JSON.stringify(record, null, 2)}\n`);
  }

  /** Complete checkpoints, oldest first. */
  list(): Checkpoint[] {
    if (!existsSync(this.dir)) return [];
    return readdirSync(this.dir).flatMap((name) => {
      const step = /^step-(\d+)$/.exec(name)?.[1];
      if (step === undefined) return [];
      const path = join(this.dir, name);
      if (!existsSync(join(path, "trainer_state.json"))) return [];
      const state = JSON.parse(readFileSync(join(path, "trainer_state.json"), "utf8")) as TrainerState;
      return [{ path, step: Number(step), state }];
    }).toSorted((a, b) => a.step - b.step);
  }

  latest(): Checkpoint | undefined {
    return this.list().at(-1);
  }

  /** `write` fills the folder it is given; then it becomes step-N and older ones beyond two go. */
  async save(state: TrainerState, write: (dir: string) => Promise<void>): Promise<Checkpoint> {
    const path = join(this.dir, `step-${state.global_step}`);
    const temporary = `${path}.tmp`;
    try {
      rmSync(temporary, { recursive: true, force: true });
      mkdirSync(temporary, { recursive: true });
      await write(temporary);
      writeFileAtomic(join(temporary, "trainer_state.json"), `${JSON.stringify(state, null, 2)}\n`);
      remove(path);
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { recursive: true, force: true });
      throw error instanceof RlhiError ? error : writeError(path, error);
    }
    this.#removeOld();
    return { path, step: state.global_step, state };
  }

  #removeOld(): void {
    for (const old of this.list().slice(0, -kept)) remove(old.path);
  }

  /** Takes away what a killed process left: half-written checkpoints, and old ones it had not come to remove. */
  tidy(): void {
    if (!existsSync(this.dir)) return;
    for (const name of readdirSync(this.dir)) if (name.endsWith(".tmp")) rmSync(join(this.dir, name), { recursive: true, force: true });
    this.#removeOld();
  }
}

/** A checkpoint loses its name before its files: a kill in between leaves what tidy() takes away. */
function remove(path: string): void {
  if (!existsSync(path)) return;
  renameSync(path, `${path}.old.tmp`);
  rmSync(`${path}.old.tmp`, { recursive: true, force: true });
}

const isWeights = (name: string): boolean => /^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(name);

/**
 * Copies a checkpoint's model into `dir`, each file under another name first, config.json last: then the folder is whole.
 * Weights of an earlier model cut into other files go: one file would be loaded in place of several.
 */
export async function publishModel(checkpoint: Checkpoint, dir: string): Promise<void> {
  const names = readdirSync(checkpoint.path).filter((name) => !notWeights.has(name)).toSorted((a, b) => Number(a === "config.json") - Number(b === "config.json"));
  let target = dir;
  try {
    mkdirSync(dir, { recursive: true });
    for (const name of readdirSync(dir)) if (isWeights(name) && !names.includes(name)) rmSync(join(dir, name));
    for (const name of names) {
      target = join(dir, name);
      await copyFile(join(checkpoint.path, name), `${target}.tmp`, constants.COPYFILE_FICLONE);
      renameSync(`${target}.tmp`, target);
    }
  } catch (error) {
    rmSync(`${target}.tmp`, { force: true });
    throw writeError(target, error);
  }
}
