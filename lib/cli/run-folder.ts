/** What commands that work in a run folder share: which folder, which configuration, and how to go on after Ctrl-C. */
import { existsSync, statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import type { Argv } from "yargs";
import { RlhiError, UsageError } from "../errors.js";
import type { RunContext, RunOptions } from "../run/context.js";
import type { Stage, StageFacts, StageName } from "../run/stage.js";
import { Interrupted, defineCommand } from "./command.js";
import type { Command, CommonFlags, Tools } from "./command.js";

export interface RunFlags {
  config?: string | undefined;
  run?: string | undefined;
}

/** The positional argument and the flag that name a run. */
export function runFlags<T>(yargs: Argv<T>): Argv<T & RunFlags> {
  return yargs
    .positional("config", { type: "string", describe: "run.yaml, or the run folder of an earlier run" })
    .option("run", { type: "string", requiresArg: true, describe: "run folder (default: runs/NAME for NAME.yaml)" });
}

export interface RunPlace {
  configPath: string;
  dir: string;
}

/** run.yaml and the folder from `config` (a file or a run folder) and `--run`. Throws UsageError where they name none. */
export function runPlace({ config, run }: RunFlags, defaultDir: (configPath: string) => string, command: string): RunPlace {
  const folder = config !== undefined && isFolder(config) ? config : config === undefined ? run : undefined;
  if (folder === undefined && config === undefined) {
    throw new UsageError({ what: "no configuration given", expected: `rlhi-native ${command} run.yaml, or the folder of an earlier run`, todo: `see rlhi-native ${command} --help for a run.yaml to start with` });
  }
  if (folder === undefined) return { configPath: config as string, dir: resolve(run ?? defaultDir(config as string)) };
  const configPath = join(folder, "run.yaml");
  if (!existsSync(configPath)) throw new UsageError({ what: "not a run folder", where: folder, expected: "a folder with a run.yaml, made by an earlier run", todo: "give the path of a run.yaml" });
  if (run !== undefined && resolve(run) !== resolve(folder)) {
    throw new UsageError({ what: "two run folders given", where: `${folder} and --run ${run}`, todo: "give one of them" });
  }
  return { configPath, dir: resolve(folder) };
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}

/** A path as people type it: relative to where they are, where that is shorter. */
export function shortPath(path: string): string {
  const near = relative(process.cwd(), path);
  return near !== "" && near.length < path.length ? near : path;
}

/** Opens the run that the flags name for `work` and closes it. After Ctrl-C says how to go on. */
export async function withRun(flags: RunFlags, tools: Tools, command: string, work: (run: RunContext) => Promise<void>): Promise<void> {
  const { loadRunConfig } = await import("../config-file.js");
  const { defaultRunDir } = await import("../run/context.js");
  const { configPath, dir } = runPlace(flags, defaultRunDir, command);
  const goOn = ({ folder }: RunContext): string => `Go on with: rlhi-native ${command} ${shortPath(existsSync(folder.config) ? dir : configPath)}`;
  await withOpenRun({ config: loadRunConfig(configPath), dir }, tools, goOn, work);
}

/** Opens a run for `work` and closes it. After Ctrl-C, `goOn` tells how to go on. */
export async function withOpenRun(place: Pick<RunOptions, "config" | "dir">, tools: Tools, goOn: (run: RunContext) => string, work: (run: RunContext) => Promise<void>): Promise<void> {
  const { openRun } = await import("../run/context.js");
  const run = openRun({ ...place, progress: tools.progress, signal: tools.signal });
  try {
    await work(run);
  } catch (error) {
    // A full disk or a damaged file is told as such, even where Ctrl-C came too.
    if (!tools.signal.aborted || (error instanceof RlhiError && error.code !== "ERR_ABORTED")) throw error;
    throw new Interrupted(`stopped; what is done is kept. ${goOn(run)}`);
  } finally {
    await run.close();
  }
}

export interface StageCommand {
  stage: StageName;
  describe: string;
  /** Paragraphs under the flags in --help. */
  details: string;
  /** Default: the two that every stage has. */
  examples?: readonly (readonly [string, string])[];
  load: () => Promise<Stage>;
  /** Loads what people see besides the facts; default: the facts. */
  print?: (run: RunContext, facts: StageFacts, skipped: boolean, tools: Tools) => void;
  /** Made again each time. */
  always?: boolean;
}

/** A command that runs one stage of a run folder. */
export function stageCommand(spec: StageCommand): Command {
  const { stage, describe, details, always = false } = spec;
  const examples = spec.examples ?? [[`$0 ${stage} run.yaml`, "in runs/run; stopped or killed, the same command goes on"], [`$0 ${stage} runs/two --json`, "in the folder of an earlier run, facts as JSON"]];
  return defineCommand<CommonFlags & RunFlags & { force: boolean }>({
    command: `${stage} [config]`,
    describe,
    flags: (yargs) => {
      const flags = runFlags(yargs).option("force", { type: "boolean", default: false, describe: "do it again, and remove what later stages made of it", hidden: always });
      return examples.reduce((all, [line, what]) => all.example(line, what), flags).epilogue(details);
    },
    run: (flags, tools) => withRun(flags, tools, stage, async (run) => {
      const { runStage } = await import("../run/run-stage.js");
      const { facts, skipped } = await runStage(stage, await spec.load(), run, flags.force || always);
      if (spec.print !== undefined && !tools.out.json) spec.print(run, facts, skipped, tools);
      else tools.out.facts({ stage, run: run.folder.dir, skipped, ...shown(facts, tools.out.json) }, `${stage} of ${shortPath(run.folder.dir)}${skipped ? " (done before)" : ""}`);
    }),
  });
}

/** People need no hashes of prompts on the screen; manifest.json has them. */
function shown({ prompts, ...facts }: StageFacts, json: boolean): StageFacts {
  return json && prompts !== undefined ? { ...facts, prompts } : facts;
}
