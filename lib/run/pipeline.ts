/** The whole method, stage by stage, in one run folder; what is finished is not done again. */
import type { RunContext } from "./context.js";
import { runStage } from "./run-stage.js";
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

export interface PipelineOptions {
  /** Begin again from this stage: its files and those of later stages are removed first. */
  force?: StageName | undefined;
  /** Called before and after each stage. */
  onStage?: (name: StageName, place: number, of: number, outcome?: StageOutcome) => void;
}

/** Runs every stage the configuration asks for, in order. Interrupted or killed, it goes on where it stopped when called again. */
export async function runPipeline(context: RunContext, options: PipelineOptions = {}): Promise<Partial<Record<StageName, StageOutcome>>> {
  const wanted = stageNames.filter((name) => isWanted(name, context));
  const outcomes: Partial<Record<StageName, StageOutcome>> = {};
  for (const [index, name] of wanted.entries()) {
    context.signal.throwIfAborted();
    options.onStage?.(name, index + 1, wanted.length);
    // Training needs the memory; the other stages open what they use.
    if (name === "train") await context.closeModels();
    const outcome = await runStage(name, await stages[name](), context, name === options.force || name === "report");
    outcomes[name] = outcome;
    options.onStage?.(name, index + 1, wanted.length, outcome);
  }
  return outcomes;
}

function isWanted(name: StageName, { config }: RunContext): boolean {
  switch (name) {
    case "personas": return config.personas.enabled;
    case "rewrite": return config.rewrites.enabled;
    case "reward": return config.rewards.enabled;
    case "eval": return config.eval.enabled;
    default: return true;
  }
}
