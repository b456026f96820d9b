/** Which settings of run.yaml decide what a stage makes: these may not change under its files. Others (concurrency, threads, time-outs) may. */
import type { RunConfig } from "../config.js";
import { stageNames } from "./stage.js";
import type { ModelRole, StageName } from "./stage.js";

/** The model of a role: the setting of its own, else the policy by the embedded engine. `trainedModel` is the run's own checkpoint. */
export function modelSpec(config: RunConfig, role: ModelRole, trainedModel: string): string {
  switch (role) {
    case "policy": return `native:${config.model}`;
    case "base": return `native:${config.reference ?? config.model}`;
    case "trained": return `native:${trainedModel}`;
    default: return config.models[role] ?? `native:${config.model}`;
  }
}

/** Settings by their name in run.yaml. `models.*` stand as they resolve, so that naming the default changes nothing. */
export type StageSettings = Record<string, unknown>;

export function stageSettings(stage: StageName, config: RunConfig): StageSettings {
  return settingsOf[stage](config);
}

const settingsOf: Record<StageName, (config: RunConfig) => StageSettings> = {
  mine(config) {
    const { held_out: _, ...data } = config.data;
    return section("data", data);
  },
  feedback(config) {
    const { use: _, ...feedback } = config.feedback;
    return { ...section("feedback", feedback), ...(feedback.classifier === "rules" ? {} : { ...roleOf(config, "classifier"), dtype: config.dtype }) };
  },
  personas(config) {
    const { max_words: _, ...made } = config.personas;
    return made.enabled
      ? { ...section("personas", made), ...roleOf(config, "persona"), ...requestsUsed(config), seed: config.seed, dtype: config.dtype }
      : { "personas.enabled": false };
  },
  rewrite: (config) => (config.rewrites.enabled
    ? { ...policyOf(config), ...personaUse(config), ...section("rewrites", config.rewrites), "feedback.use": config.feedback.use, "data.held_out": config.data.held_out, ...roleOf(config, "rewriter") }
    : { "rewrites.enabled": false }),
  reward: (config) => (config.rewards.enabled
    ? { ...policyOf(config), ...personaUse(config), ...section("rewards", config.rewards), "data.held_out": config.data.held_out, ...roleOf(config, "judge") }
    : { "rewards.enabled": false }),
  pairs: (config) => ({
    model: config.model, seed: config.seed, "data.held_out": config.data.held_out, ...personaUse(config), ...section("pairs", config.pairs),
    "rewrites.enabled": config.rewrites.enabled, "rewards.enabled": config.rewards.enabled,
    ...(config.pairs.judge_rewrites ? roleOf(config, "judge") : {}),
  }),
  train(config) {
    const { moment_memory: _, ...train } = config.train;
    return { ...policyOf(config), reference: config.reference, ...section("train", train) };
  },
  eval: (config) => (config.eval.enabled
    ? {
      "data.held_out": config.data.held_out, "personas.enabled": config.personas.enabled, "personas.max_words": config.personas.max_words, ...section("eval", config.eval),
      ...roleOf(config, "judge"), reference: modelSpec(config, "base", ""), seed: config.seed,
    }
    : { "eval.enabled": false }),
  report: () => ({}),
};

function roleOf(config: RunConfig, role: "classifier" | "persona" | "rewriter" | "judge"): StageSettings {
  return { [`models.${role}`]: modelSpec(config, role, "") };
}

/** What decides in which conversations a persona is used. */
function requestsUsed({ rewrites, rewards, eval: evaluation, feedback, data }: RunConfig): StageSettings {
  return {
    "rewrites.enabled": rewrites.enabled, "rewrites.max": rewrites.max, "rewards.enabled": rewards.enabled, "rewards.max": rewards.max,
    "eval.enabled": evaluation.enabled, "eval.max_prompts": evaluation.max_prompts, "feedback.use": feedback.use, "data.held_out": data.held_out,
  };
}

function policyOf({ model, dtype, seed }: RunConfig): StageSettings {
  return { model, dtype, seed };
}

function personaUse({ personas }: RunConfig): StageSettings {
  return { "personas.enabled": personas.enabled, "personas.at": personas.at, "personas.max_words": personas.max_words };
}

function section(name: string, values: Record<string, unknown>): StageSettings {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [`${name}.${key}`, value]));
}

export interface SettingChange {
  setting: string;
  before: unknown;
  now: unknown;
}

/** Differences between settings as recorded and as given; an absent value and undefined are the same. */
export function settingChanges(before: StageSettings, now: StageSettings): SettingChange[] {
  const names = [...new Set([...Object.keys(before), ...Object.keys(now)])];
  return names
    .filter((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]))
    .map((setting) => ({ setting, before: before[setting], now: now[setting] }));
}

/** The stages whose files a stage reads, directly. */
export function requiredStages(stage: StageName, config: RunConfig): readonly StageName[] {
  const personas: StageName[] = config.personas.enabled ? ["personas"] : [];
  const forTraining: StageName[] = ["mine", "feedback", ...(config.personas.at === "train_and_inference" ? personas : [])];
  const required: Record<StageName, readonly StageName[]> = {
    mine: [],
    feedback: ["mine"],
    personas: ["mine", "feedback"],
    rewrite: forTraining,
    reward: forTraining,
    pairs: [...(config.rewrites.enabled ? ["rewrite" as const] : []), ...(config.rewards.enabled ? ["reward" as const] : [])],
    train: ["pairs"],
    eval: ["mine", "feedback", ...personas, "train"],
    report: [],
  };
  return required[stage];
}

/** The stage and those after it. */
export function stagesFrom(stage: StageName): StageName[] {
  return stageNames.slice(stageNames.indexOf(stage));
}

export function stagesBefore(stage: StageName): StageName[] {
  return stageNames.slice(0, stageNames.indexOf(stage));
}

/** The stage and those before it. */
export function stagesUpTo(stage: StageName): StageName[] {
  return [...stagesBefore(stage), stage];
}
