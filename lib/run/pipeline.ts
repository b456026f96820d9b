/** The whole method, stage by stage, in one run folder; what is finished is not done again. */
import { existsSync } from "node:fs";
import { RlhiError, UsageError } from "../errors.js";
import type { RunConfig } from "../config.js";
import { hasTokenizer, noTokenizer } from "../tokens/source.js";
import type { RunContext } from "./context.js";
import { secondsLeft } from "./estimate.js";
import { clearFrom, runStage } from "./run-stage.js";
import type { StageOutcome } from "./run-stage.js";
import { stageNames } from "./stage.js";
import type { Stage, StageName } from "./stage.js";

/** Loaded when their turn comes: a run that only makes a report needs no database and no engine. */
const stages: Record<StageName, () => Promise<Stage>> = {
  mine: async () => (await import("./stages/mine.js")).mineStage,
  feedback: async () => (await import("./stages/feedback.js")).feedbackStage,
  personas: async () => (await import("./stages/personas.js")).personasStage,
  rewrite: async () => (await import("./stages/rewrite.js")).rewriteStage,
  reward: async () => (await import("./stages/reward.js")).rewardStage,
  pairs: async () => (await import("./stages/pairs.js")).pairsStage,
  train: async () => (await import("./stages/train.js")).trainStage,
  eval: async () => (await import("../eval/user-eval.js")).evalStage,
  report: async () => (await import("../report/stage.js")).reportStage,
};

export interface StageNote {
  name: StageName;
  /** From 1. */
  place: number;
  of: number;
  /** Absent as the stage begins. */
  outcome?: StageOutcome;
  /** Rough estimate for the stages after this one; null where nothing is known yet. */
  seconds_left: number | null;
}

export interface PipelineOptions {
  /** Begin again from this stage: its files and those of later stages are removed first. */
  force?: StageName | undefined;
  /** Called as each stage begins and ends. */
  onStage?: (note: StageNote) => void;
}

/** Runs the stage of that name; see runStage. */
export async function runStageNamed(name: StageName, context: RunContext, force = false): Promise<StageOutcome> {
  return runStage(name, await stages[name](), context, force);
}

/**
 * Runs every stage the configuration asks for, in order. Interrupted or killed, it goes on where it stopped when called again.
 * Throws before it does anything where settings changed under the files of any stage, one that is switched off now among them.
 */
export async function runPipeline(context: RunContext, options: PipelineOptions = {}): Promise<Partial<Record<StageName, StageOutcome>>> {
  const { config, manifest } = context;
  const wanted = stageNames.filter((name) => isWanted(name, config));
  const { force } = options;
  // One that was switched off since can be begun again: then it is gone, with what was made of it.
  if (force !== undefined && !wanted.includes(force) && manifest.data.stages[force] === undefined) {
    throw new UsageError({ what: "that stage is switched off in this configuration", where: `--force ${force}`, expected: wanted.join(", "), todo: "name another stage, or switch it on" });
  }
  if (force !== undefined || manifest.finished("train") === undefined) requireTokenizer(config.model);
  const outcomes: Partial<Record<StageName, StageOutcome>> = {};
  if (force !== undefined) await clearFrom(force, context);
  await manifest.check(stageNames, config);
  for (const [index, name] of wanted.entries()) {
    context.signal.throwIfAborted();
    const note = { name, place: index + 1, of: wanted.length };
    options.onStage?.({ ...note, seconds_left: null });
    const outcome = await runStageNamed(name, context);
    outcomes[name] = outcome;
    options.onStage?.({ ...note, outcome, seconds_left: secondsLeft(manifest.data, config, wanted.slice(index + 1)) });
  }
  return outcomes;
}

/** Its text is needed first when answers are made, which is hours after the stages that other models do. A shape's name is no path. */
function requireTokenizer(model: string): void {
  if (!existsSync(model) || hasTokenizer(model)) return;
  const { code, facts } = noTokenizer(model);
  throw new RlhiError(code, { ...facts, todo: "download tokenizer.json and tokenizer_config.json too: every answer of the model is made with them" });
}

function isWanted(name: StageName, config: RunConfig): boolean {
  switch (name) {
    case "personas": return config.personas.enabled;
    case "rewrite": return config.rewrites.enabled;
    case "reward": return config.rewards.enabled;
    case "eval": return config.eval.enabled;
    default: return true;
  }
}
