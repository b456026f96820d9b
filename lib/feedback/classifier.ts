/** The three classifiers behind one call: rules, a model, or both. */
import type { ChatModel } from "../chat-models/types.js";
import type { RunConfig } from "../config.js";
import { feedbackLabels } from "../conversations/types.js";
import type { FeedbackLabel } from "../conversations/types.js";
import { feedbackPrompt } from "../prompts/feedback.js";
import { classifyByModel } from "./model.js";
import { classifyByRules } from "./rules.js";
import type { FollowUp, RuleVerdict } from "./rules.js";
import type { FeedbackRecord } from "./types.js";

export type Verdict = Pick<FeedbackRecord, "label" | "confidence" | "decided_by" | "evidence" | "prompt_hash" | "model">;

export type FeedbackSettings = Pick<RunConfig["feedback"], "classifier" | "rules_threshold" | "abstain_below">;

export interface ClassifyOptions {
  signal?: AbortSignal | undefined;
  /** Once a follow-up, in any order, as soon as it is known. */
  onResult: (index: number, verdict: Verdict) => void;
}

/**
 * Labels every follow-up. "both": rules decide where their confidence reaches rules_threshold; for the rest the model's
 * probabilities are multiplied with the rules' own, so that a weak model cannot overrule clear words and a strong one
 * can. In every kind the label is left open (null) below abstain_below. `model` is opened only when one is needed.
 */
export async function classifyFollowUps(followUps: readonly FollowUp[], settings: FeedbackSettings, model: () => Promise<ChatModel>, options: ClassifyOptions): Promise<void> {
  const { classifier, rules_threshold: threshold, abstain_below: least } = settings;
  const undecided: { index: number; followUp: FollowUp; rules: RuleVerdict | undefined }[] = [];
  for (const [index, followUp] of followUps.entries()) {
    options.signal?.throwIfAborted();
    const rules = classifier === "model" ? undefined : classifyByRules(followUp);
    if (rules !== undefined && (classifier === "rules" || rules.confidence >= threshold)) options.onResult(index, byRules(rules, least));
    else undecided.push({ index, followUp, rules });
  }
  if (undecided.length === 0) return;
  const asked = await model();
  const fingerprint = await asked.fingerprint();
  await classifyByModel(asked, undecided.map(({ followUp }) => followUp), {
    signal: options.signal,
    onResult: (at, { probabilities }) => {
      const { index, rules } = undecided[at] as (typeof undecided)[number];
      options.onResult(index, byModel(probabilities, rules, least, fingerprint));
    },
  });
}

function byRules({ label, confidence, evidence }: RuleVerdict, least: number): Verdict {
  return { label: confidence < least ? null : label, confidence: rounded(confidence), decided_by: "rules", evidence, prompt_hash: "", model: "" };
}

function byModel(probabilities: readonly number[], rules: RuleVerdict | undefined, least: number, fingerprint: string): Verdict {
  const pooled = rules === undefined ? [...probabilities] : pool(probabilities, rules.probabilities);
  const best = pooled.indexOf(Math.max(...pooled));
  const confidence = pooled[best] ?? 0;
  return {
    label: confidence < least ? null : feedbackLabels[best] as FeedbackLabel,
    confidence: rounded(confidence),
    decided_by: "model",
    evidence: { ...rules?.evidence, probabilities: Object.fromEntries(feedbackLabels.map((label, i) => [label, rounded(pooled[i] ?? 0)])) },
    prompt_hash: feedbackPrompt.hash,
    model: fingerprint,
  };
}

/** Product of two opinions, normalised. */
function pool(a: readonly number[], b: readonly number[]): number[] {
  const product = a.map((p, i) => p * (b[i] ?? 0));
  const sum = product.reduce((x, y) => x + y, 0);
  return sum > 0 ? product.map((p) => p / sum) : [...b];
}

function rounded(value: number): number {
  return Math.round(value * 10_000) / 10_000;
}
