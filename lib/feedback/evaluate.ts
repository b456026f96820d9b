/** How well a classifier finds the labels that a file's authors gave: precision, recall, F1, coverage, confusion. */
import { feedbackLabels } from "../conversations/types.js";
import type { FeedbackLabel } from "../conversations/types.js";
import { rounded } from "./round.js";

export interface LabelScore {
  label: FeedbackLabel;
  /** Follow-ups with this label in the file. */
  gold: number;
  /** Follow-ups given this label. */
  predicted: number;
  /** Of those given it, the share that has it; null where none was given it. */
  precision: number | null;
  /** Of those that have it, the share given it (abstentions are misses); null where none has it. */
  recall: number | null;
  f1: number | null;
}

export interface Evaluation {
  follow_ups: number;
  /** Share not abstained from. */
  coverage: number;
  /** Share of all follow-ups given their own label, and of those not abstained from. */
  accuracy: number;
  accuracy_covered: number | null;
  macro_precision: number;
  macro_recall: number;
  /** Mean F1 over the labels that the file has; a label never given counts 0. */
  macro_f1: number;
  labels: LabelScore[];
  /** confusion[gold][predicted], "abstained" for null. */
  confusion: Record<FeedbackLabel, Record<FeedbackLabel | "abstained", number>>;
  /** Mean confidence and accuracy in bands of confidence, and their mean absolute difference weighted by size. */
  calibration: { from: number; to: number; follow_ups: number; confidence: number; accuracy: number }[];
  calibration_error: number;
}

export interface Labelled {
  gold: FeedbackLabel;
  label: FeedbackLabel | null;
  confidence: number;
}

/** `items` must not be empty. */
export function evaluate(items: readonly Labelled[]): Evaluation {
  const confusion = emptyConfusion();
  for (const { gold, label } of items) confusion[gold][label ?? "abstained"] += 1;
  const labels = feedbackLabels.map((label) => scoreOf(label, confusion));
  const present = labels.filter(({ gold }) => gold > 0);
  const mean = (value: (score: LabelScore) => number | null): number => rounded(present.reduce((sum, score) => sum + (value(score) ?? 0), 0) / present.length);
  const right = items.filter(({ gold, label }) => gold === label).length;
  const covered = items.filter(({ label }) => label !== null).length;
  const bands = calibrationOf(items);
  return {
    follow_ups: items.length,
    coverage: rounded(covered / items.length),
    accuracy: rounded(right / items.length),
    accuracy_covered: covered === 0 ? null : rounded(right / covered),
    macro_precision: mean(({ precision }) => precision),
    macro_recall: mean(({ recall }) => recall),
    macro_f1: mean(({ f1 }) => f1),
    labels,
    confusion,
    calibration: bands,
    calibration_error: rounded(bands.reduce((sum, band) => sum + band.follow_ups * Math.abs(band.confidence - band.accuracy), 0) / Math.max(1, covered)),
  };
}

const emptyRow = Object.fromEntries([...feedbackLabels, "abstained"].map((label) => [label, 0])) as Record<FeedbackLabel | "abstained", number>;

function emptyConfusion(): Evaluation["confusion"] {
  return Object.fromEntries(feedbackLabels.map((label) => [label, { ...emptyRow }])) as Evaluation["confusion"];
}

function scoreOf(label: FeedbackLabel, confusion: Evaluation["confusion"]): LabelScore {
  const right = confusion[label][label];
  const gold = Object.values(confusion[label]).reduce((a, b) => a + b, 0);
  const predicted = feedbackLabels.reduce((sum, other) => sum + confusion[other][label], 0);
  const f1 = gold + predicted === 0 ? null : rounded((2 * right) / (gold + predicted));
  return { label, gold, predicted, precision: predicted === 0 ? null : rounded(right / predicted), recall: gold === 0 ? null : rounded(right / gold), f1 };
}

function calibrationOf(items: readonly Labelled[]): Evaluation["calibration"] {
  return [0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9].flatMap((from, i, starts) => {
    const to = starts[i + 1] ?? 1;
    const inside = items.filter(({ label, confidence }) => label !== null && confidence >= from && (confidence < to || to === 1));
    if (inside.length === 0) return [];
    return [{
      from, to, follow_ups: inside.length,
      confidence: rounded(inside.reduce((sum, { confidence }) => sum + confidence, 0) / inside.length),
      accuracy: rounded(inside.filter(({ gold, label }) => gold === label).length / inside.length),
    }];
  });
}
