/** The three classifiers behind one call: rules, a model, or both. */
import { isUndecided } from "../chat-models/labels.js";
import type { ChatModel } from "../chat-models/types.js";
import type { RunConfig } from "../config.js";
import { feedbackLabels } from "../conversations/types.js";
import type { FeedbackLabel } from "../conversations/types.js";
import { feedbackPrompt } from "../prompts/feedback.js";
import { hashUnit } from "../random.js";
import { calibrate, calibrationSize, classifyByModel } from "./model.js";
import { rounded } from "./round.js";
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

export interface Classifier {
  /** Labels every follow-up. Rules come first; the rest goes to the model as one batch. */
  classify(followUps: readonly FollowUp[], options: ClassifyOptions): Promise<void>;
}

/**
 * "rules"; "model"; or "both": rules decide where their confidence reaches rules_threshold; for the rest the model's
 * probabilities are multiplied with the rules' own, so that a weak model cannot overrule clear words and a strong one
 * can. In every kind the label is left open (null) below abstain_below.
 * @param model opened (once) only when a follow-up needs it
 * @param sample follow-ups of the same data that the model is calibrated on (calibrationSize of them); the same sample
 * gives the same verdicts, whatever is classified in which order
 */
export function createClassifier(settings: FeedbackSettings, model: () => Promise<ChatModel>, sample: readonly FollowUp[]): Classifier {
  const { classifier, rules_threshold: threshold, abstain_below: least } = settings;
  let opening: Promise<Calibrated> | undefined;
  return {
    async classify(followUps, { signal, onResult }) {
      const undecided: { index: number; followUp: FollowUp; rules: RuleVerdict | undefined }[] = [];
      for (const [index, followUp] of followUps.entries()) {
        signal?.throwIfAborted();
        const rules = classifier === "model" ? undefined : classifyByRules(followUp);
        if (rules !== undefined && (classifier === "rules" || rules.confidence >= threshold)) onResult(index, byRules(rules, least));
        else undecided.push({ index, followUp, rules });
      }
      if (undecided.length === 0) return;
      opening ??= openCalibrated(model, sample, signal);
      const { asked, fingerprint, bias } = await opening;
      await classifyByModel(asked, undecided.map(({ followUp }) => followUp), bias, {
        signal,
        onResult: (at, probabilities) => {
          const { index, rules } = undecided[at] as (typeof undecided)[number];
          onResult(index, byModel(probabilities, rules, least, fingerprint));
        },
      });
    },
  };
}

interface Calibrated {
  asked: ChatModel;
  fingerprint: string;
  bias: number[];
}

async function openCalibrated(model: () => Promise<ChatModel>, sample: readonly FollowUp[], signal: AbortSignal | undefined): Promise<Calibrated> {
  const asked = await model();
  return { asked, fingerprint: await asked.fingerprint(), bias: await calibrate(asked, sample, signal) };
}

/** The part of all follow-ups that a model is calibrated on: those with the smallest hashes of their keys, in whatever order they come. */
export class CalibrationSample<T> {
  #kept: { item: T; order: number }[] = [];
  #limit = Infinity;

  add(item: T, key: string): void {
    const order = hashUnit("calibration", key);
    if (order >= this.#limit) return;
    this.#kept.push({ item, order });
    if (this.#kept.length >= 2 * calibrationSize) this.#cut();
  }

  items(): T[] {
    this.#cut();
    return this.#kept.map(({ item }) => item);
  }

  #cut(): void {
    this.#kept = this.#kept.sort((a, b) => a.order - b.order).slice(0, calibrationSize);
    if (this.#kept.length === calibrationSize) this.#limit = this.#kept.at(-1)?.order ?? Infinity;
  }
}

function byRules({ label, confidence, evidence }: RuleVerdict, least: number): Verdict {
  return { label: confidence < least ? null : label, confidence: rounded(confidence), decided_by: "rules", evidence, prompt_hash: "", model: "" };
}

function byModel(probabilities: readonly number[], rules: RuleVerdict | undefined, least: number, fingerprint: string): Verdict {
  const pooled = rules === undefined ? [...probabilities] : pool(probabilities, rules.probabilities);
  const best = pooled.indexOf(Math.max(...pooled));
  const confidence = pooled[best] ?? 0;
  return {
    label: confidence < least || isUndecided(pooled) ? null : feedbackLabels[best] as FeedbackLabel,
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
