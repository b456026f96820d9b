/** A run folder opened for work: its lock, its manifest, and chat models by role. */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { basename, extname, join, resolve } from "node:path";
import { CachedChatModel } from "../chat-models/cache.js";
import { openChatModel } from "../chat-models/open.js";
import type { ChatModel } from "../chat-models/types.js";
import { configYaml } from "../config-file.js";
import type { RunConfig } from "../config.js";
import { BusyClock } from "../engine/busy-clock.js";
import { RlhiError } from "../errors.js";
import { writeFileAtomic } from "../files.js";
import type { Progress } from "../progress.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import { openTokenizer } from "../tokens/open.js";
import { hasTokenizer } from "../tokens/source.js";
import { runFolder } from "./folder.js";
import type { RunFolder } from "./folder.js";
import { lockRunFolder } from "./lock.js";
import { Manifest } from "./manifest.js";
import { modelSpec } from "./settings.js";
import type { ModelRole, StageContext } from "./stage.js";

export interface RunOptions {
  config: RunConfig;
  /** The run folder; made where there is none. */
  dir: string;
  progress: Progress;
  signal: AbortSignal;
}

/** What stages get, with what only their runner needs. */
export interface RunContext extends StageContext {
  readonly manifest: Manifest;
  /** Writes the configuration as used to run.yaml. */
  saveConfig(): void;
  /** Closes models and gives the folder free. */
  close(): Promise<void>;
}

/** runs/NAME for NAME.yaml, under the working folder. */
export function defaultRunDir(configPath: string): string {
  return resolve("runs", basename(configPath, extname(configPath)));
}

/** Opens (or makes) a run folder. Nothing of it is changed yet. Throws where another process works in it. */
export function openRun(options: RunOptions): RunContext {
  const { config, progress, signal } = options;
  try {
    mkdirSync(options.dir, { recursive: true });
  } catch (error) {
    throw new RlhiError("ERR_WRITE", { what: `cannot make the run folder: ${(error as Error).message}`, where: options.dir, todo: "give a folder you can write to (--run DIR)", cause: error });
  }
  const unlock = lockRunFolder(options.dir);
  try {
    const folder = runFolder(resolve(options.dir));
    removeHalfWritten(folder.dir);
    const manifest = new Manifest(folder.manifest);
    const clock = new BusyClock();
    let opened: CheckpointTokenizer | undefined;
    const tokenizer = (): CheckpointTokenizer => (opened ??= openTokenizer(config.model));
    const models = new RoleModels(config, folder, manifest, progress, clock, tokenizer);
    return {
      folder, config, progress, signal, manifest, clock, tokenizer,
      model: (role) => models.open(role),
      closeModels: () => models.close(),
      saveConfig: () => writeFileAtomic(folder.config, configYaml(config)),
      async close() {
        try {
          await models.close();
        } finally {
          unlock();
        }
      },
    };
  } catch (error) {
    unlock();
    throw error;
  }
}

/** What writeFileAtomic of a killed process left. The folder is locked: nobody is writing. */
function removeHalfWritten(dir: string): void {
  for (const name of readdirSync(dir)) if (/\.tmp-\d+$/.test(name)) rmSync(join(dir, name), { force: true });
}

/** What has none is told when the model is opened, in words of its own. */
function isModelWithTokenizer(path: string): boolean {
  return existsSync(path) && hasTokenizer(path);
}

/** Models by what they are: roles with the same spec share one. */
class RoleModels {
  readonly #opened = new Map<string, Promise<ChatModel>>();

  constructor(readonly config: RunConfig, readonly folder: RunFolder, readonly manifest: Manifest, readonly progress: Progress, readonly clock: BusyClock, readonly tokenizer: () => CheckpointTokenizer) {}

  async open(role: ModelRole): Promise<ChatModel> {
    const spec = modelSpec(this.config, role, this.folder.model);
    if (role === "trained" && !existsSync(join(this.folder.model, "config.json"))) {
      throw new RlhiError("ERR_STAGE_ORDER", { what: "there is no trained model yet", where: this.folder.model, todo: "run the stage `train` first" });
    }
    let opening = this.#opened.get(spec);
    if (opening === undefined) {
      opening = this.#load(spec);
      this.#opened.set(spec, opening);
      opening.catch(() => this.#opened.delete(spec));
    }
    const model = await opening;
    const fingerprint = await model.fingerprint();
    const known = this.manifest.data.models[role];
    if (known?.spec !== spec || known.fingerprint !== fingerprint) this.manifest.recordModel(role, spec, fingerprint);
    return model;
  }

  async #load(spec: string): Promise<ChatModel> {
    const { endpoint, dtype, device, threads } = this.config;
    const tokenizer = spec === modelSpec(this.config, "policy", this.folder.model) && isModelWithTokenizer(this.config.model) ? this.tokenizer : undefined;
    const model = await openChatModel(spec, { endpoint, dtype, device, threads, tokenizer, note: (text) => this.progress.note(text), clock: this.clock });
    return new CachedChatModel(model, this.folder.cache);
  }

  async close(): Promise<void> {
    const opened = [...this.#opened.values()];
    this.#opened.clear();
    for (const opening of opened) {
      const model = await opening.catch(() => undefined);
      await model?.close();
    }
  }
}
