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
  const role = (name: "classifier" | "persona" | "rewriter" | "judge"): StageSettings => ({ [`models.${name}`]: modelSpec(config, name, "") });
  const policy: StageSettings = { model: config.model, dtype: config.dtype, seed: config.seed };
  const { enabled, at, ...personas } = config.personas;
  const personaUse: StageSettings = { "personas.enabled": enabled, "personas.at": at, "personas.max_words": personas.max_words };
  const users: StageSettings = { "data.held_out": config.data.held_out };
  switch (stage) {
    case "mine": {
      const { held_out: _, ...data } = config.data;
      return section("data", data);
    }
    case "feedback": {
      const { use: _, ...feedback } = config.feedback;
      return { ...section("feedback", feedback), ...(feedback.classifier === "rules" ? {} : { ...role("classifier"), dtype: config.dtype }) };
    }
    case "personas": {
      const { max_words: _, ...made } = personas;
      return enabled ? { "personas.enabled": true, ...section("personas", made), ...role("persona"), seed: config.seed, dtype: config.dtype } : { "personas.enabled": false };
    }
    case "rewrite":
      return config.rewrites.enabled
        ? { ...policy, ...personaUse, ...section("rewrites", config.rewrites), "feedback.use": config.feedback.use, ...role("rewriter") }
        : { "rewrites.enabled": false };
    case "reward":
      return config.rewards.enabled ? { ...policy, ...personaUse, ...section("rewards", config.rewards), ...role("judge") } : { "rewards.enabled": false };
    case "pairs":
      return { model: config.model, seed: config.seed, ...users, ...personaUse, ...section("pairs", config.pairs), ...(config.pairs.judge_rewrites ? role("judge") : {}) };
    case "train": return { ...policy, reference: config.reference, ...section("train", config.train) };
    case "eval":
      return config.eval.enabled ? { ...users, ...section("eval", config.eval), ...role("judge"), "base": modelSpec(config, "base", ""), seed: config.seed } : { "eval.enabled": false };
    case "report": return {};
  }
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
export function requiredStages(stage: StageName, config: RunConfig): StageName[] {
  const personas: StageName[] = config.personas.enabled ? ["personas"] : [];
  const trainingPersonas = config.personas.at === "train_and_inference" ? personas : [];
  switch (stage) {
    case "mine": case "report": return [];
    case "feedback": return ["mine"];
    case "personas": return ["mine", "feedback"];
    case "rewrite": case "reward": return ["mine", "feedback", ...trainingPersonas];
    case "pairs": return [...(config.rewrites.enabled ? ["rewrite" as const] : []), ...(config.rewards.enabled ? ["reward" as const] : [])];
    case "train": return ["pairs"];
    case "eval": return ["mine", "feedback", ...personas, "train"];
  }
}

/** The stage and those after it. */
export function stagesFrom(stage: StageName): StageName[] {
  return stageNames.slice(stageNames.indexOf(stage));
}

/** The stage and those before it. */
export function stagesUpTo(stage: StageName): StageName[] {
  return stageNames.slice(0, stageNames.indexOf(stage) + 1);
}
