import { existsSync, mkdirSync, readdirSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import type { ArgumentsCamelCase, Argv } from "yargs";
import type { TrainFacts, TrainSettings } from "../../engine/training.js";
import { RlhiError, UsageError } from "../../errors.js";
import type { Tools } from "../command.js";
import { defineCommand } from "../command.js";
import { formatSeconds } from "../output.js";
import { deviceFlags, requireRange, traceFlag } from "../model-flags.js";
import { runFolderMode } from "../modes.js";
import type { SettingFlags } from "../modes.js";

interface StandaloneFlags {
  model?: string | undefined;
  ref?: string | undefined;
  data?: string | undefined;
  out?: string | undefined;
  dtype: "f32" | "bf16";
  device: string;
  threads: number;
  seed: number;
  maxLength: number;
  saveGradients?: string | undefined;
  trace?: string | undefined;
  overwrite: boolean;
}

interface StageFlags {
  config?: string | undefined;
  run?: string | undefined;
  force: boolean;
}

const kebab = (name: string): string => name.replaceAll("_", "-");

/** A flag for every setting of `train` in run.yaml, with the same default and description. */
async function settingFlags<T>(yargs: Argv<T>): Promise<Argv<T>> {
  const { trainSettingsSchema } = await import("../../config.js");
  const defaults = trainSettingsSchema.parse({});
  let flags = yargs;
  for (const [name, value] of Object.entries(defaults)) {
    const schema = trainSettingsSchema.shape[name as keyof TrainSettings];
    const inner = schema.unwrap() as { description?: string; options?: unknown };
    flags = flags.option(kebab(name), {
      type: typeof value as "string" | "number" | "boolean", describe: schema.description ?? inner.description ?? "", default: value, group: "Training:",
      ...(Array.isArray(inner.options) ? { choices: inner.options as string[] } : {}),
    });
  }
  return flags.alias("num-epochs", "num-train-epochs");
}

export const train = defineCommand({
  command: "train [config]",
  describe: "preference training of a model on pairs (DPO, IPO, hinge, SimPO or SFT)",
  flags: async (yargs) => {
    const basic = traceFlag(deviceFlags(yargs))
      .positional("config", { type: "string", describe: "run.yaml or run folder: trains on the pairs of that run" })
      .option("run", { type: "string", requiresArg: true, describe: "run folder: trains on its pairs (default: runs/NAME for NAME.yaml)" })
      .option("force", { type: "boolean", default: false, describe: "with a run folder: train again, and remove what later stages made of it" })
      .option("model", { type: "string", requiresArg: true, describe: "without a run folder: the model to train, a Hugging Face folder or GGUF file" })
      .option("ref", { type: "string", requiresArg: true, describe: "reference model (default: the model as it is before training)" })
      .option("data", { type: "string", requiresArg: true, describe: "pairs: a JSON array, JSON lines or Arrow; token ids or TRL's conversational form" })
      .option("out", { type: "string", requiresArg: true, describe: "folder of the trained model, its metrics and checkpoints" })
      .option("overwrite", { type: "boolean", default: false, describe: "begin again where --out holds another training" })
      .option("seed", { type: "number", default: 0, describe: "seed of the pairs' order" })
      .option("max-length", { type: "number", default: 0, describe: "prompt plus longer answer, in tokens; the oldest turns of a chat go first; 0: the model's context" })
      .option("save-gradients", { type: "string", requiresArg: true, describe: "file for the first step's gradient, before clipping (safetensors)" });
    return (await settingFlags(basic))
      .example("$0 train --model ./SmolLM2-135M-Instruct --data pairs.jsonl --out trained", "a Hugging Face folder, metrics.jsonl beside it")
      .example("$0 train run.yaml", "the pairs of runs/run");
  },
  run: async (flags, tools) => {
    if (inRunFolder(flags)) await trainRun(flags, tools);
    else printFacts(await trainFiles(flags, tools), tools, "trained");
  },
  mode: async (flags) => (inRunFolder(flags) ? runFolderMode(["force"], await settingsByFlag()) : { name: "--model, --data and --out", takes: (flag) => flag !== "force" }),
});

const inRunFolder = ({ config, run }: Pick<StageFlags, "config" | "run">): boolean => config !== undefined || run !== undefined;

/** Where the flags' values stand in run.yaml. */
async function settingsByFlag(): Promise<SettingFlags> {
  const { trainSettingsSchema } = await import("../../config.js");
  const ofTraining = Object.fromEntries(Object.keys(trainSettingsSchema.shape).map((name) => [kebab(name), `train.${name}`]));
  return { ...ofTraining, "num-train-epochs": "train.num_epochs", model: "model", ref: "reference", dtype: "dtype", device: "device", threads: "threads", seed: "seed", "max-length": "pairs.max_tokens" };
}

async function trainRun(flags: StageFlags, tools: Tools): Promise<void> {
  const { withRun } = await import("../run-folder.js");
  await withRun(flags, tools, "train", async (run) => {
    const { runStage } = await import("../../run/run-stage.js");
    const { trainStage } = await import("../../run/stages/train.js");
    const { facts, skipped } = await runStage("train", trainStage, run, flags.force);
    printFacts(facts as unknown as TrainFacts, tools, skipped ? "trained before" : "trained");
  });
}

async function trainFiles(flags: ArgumentsCamelCase<StandaloneFlags>, tools: Tools): Promise<TrainFacts> {
  const { model, data, out } = flags;
  if (model === undefined || data === undefined || out === undefined) {
    const missing = Object.entries({ model, data, out }).flatMap(([name, value]) => (value === undefined ? [`--${name}`] : []));
    throw new UsageError({ what: `${missing.join(", ")} missing`, expected: "--model PATH --data FILE --out DIR, or a run.yaml", todo: "see rlhi-native train --help" });
  }
  requireRange("max-length", flags.maxLength, "a whole number from 0", Number.isInteger(flags.maxLength) && flags.maxLength >= 0);
  requireRange("seed", flags.seed, "a whole number from 0", Number.isInteger(flags.seed) && flags.seed >= 0);
  const { sectionOfFlags } = await import("../section-flags.js");
  const settings = sectionOfFlags("train", await settingsByFlag(), flags);
  const { train: runTraining, trainFilesIn } = await import("../../engine/training.js");
  const { filePairs } = await import("../../tokens/pair-source.js");
  const { openTokenizer } = await import("../../tokens/open.js");
  const dir = resolve(out);
  const files = trainFilesIn(dir);
  prepareFolder(dir, files, [model, flags.ref], flags.overwrite);
  const pairs = await filePairs(data, flags.maxLength, () => openTokenizer(model));
  return runTraining({
    model, reference: flags.ref, dtype: flags.dtype, device: flags.device, threads: flags.threads, seed: flags.seed, settings, pairs, files, progress: tools.progress, signal: tools.signal,
    overwrite: flags.overwrite, saveGradients: flags.saveGradients, trace: flags.trace,
  });
}

/** A folder that holds something else is never written into unasked, a model that is read from never at all. */
function prepareFolder(dir: string, files: { checkpoints: string }, inputs: readonly (string | undefined)[], overwrite: boolean): void {
  const same = inputs.find((path) => path !== undefined && existsSync(path) && existsSync(dir) && realpathSync(path) === realpathSync(dir));
  if (same !== undefined) throw new UsageError({ what: "--out is the folder of a model that is read", where: same, todo: "choose another folder" });
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw new RlhiError("ERR_WRITE", { what: `cannot make the folder: ${(error as Error).message}`, where: dir, todo: "choose a folder you can write to", cause: error });
  }
  // What is there goes when nobody else is found to train into it.
  if (overwrite) return;
  const foreign = ["config.json", "metrics.jsonl"].find((name) => readdirSync(dir).includes(name));
  if (foreign === undefined || existsSync(join(files.checkpoints, "training.json"))) return;
  throw new UsageError({
    what: "the folder holds a model or metrics that no training of this command left",
    where: dir,
    found: foreign,
    todo: "choose another folder, or --overwrite to replace it",
  });
}

function printFacts(facts: TrainFacts, { out }: Tools, title: string): void {
  if (out.json) {
    out.facts({ ...facts });
    return;
  }
  const { seconds, held_out_before, held_out_after, ...rest } = facts;
  out.facts({ ...rest, time: formatSeconds(seconds), ...(held_out_before === null ? {} : { held_out_before, held_out_after }) }, title);
}
