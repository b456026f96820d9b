/** The classifier that asks a chat model: a choice among six words by their probability. */
import type { ChatModel, LabelRequest } from "../chat-models/types.js";
import { feedbackLabels } from "../conversations/types.js";
import type { FeedbackLabel } from "../conversations/types.js";
import { feedbackPrompt } from "../prompts/feedback.js";
import { clip } from "../prompts/prompt.js";
import type { FollowUp } from "./rules.js";

/** What the model says for each label: short plain words, since a small model knows what they mean. */
const labelWords: Readonly<Record<FeedbackLabel, string>> = {
  new_request: "next",
  reattempt_with_feedback: "change",
  reattempt_without_feedback: "again",
  positive_feedback: "thanks",
  clarification: "detail",
  other: "other",
};
const words = feedbackLabels.map((label) => labelWords[label]);

/** Characters shown of each text at first; halved until the prompt fits the model's context. */
const shown = { request: 800, answer: 1000, follow_up: 1500 };

/** Room for the answer and the template's own tokens. */
const spareTokens = 32;

export interface ModelVerdict {
  /** In the order of feedbackLabels; sums to 1. */
  probabilities: number[];
}

/**
 * Classifies all follow-ups in one batch; `onResult` comes once each, in any order. The probabilities are taken relative
 * to those of the same prompt without any content (Zhao et al., "Calibrate Before Use", 2021): a small model's liking for
 * a word would otherwise count as a verdict.
 */
export async function classifyByModel(
  model: ChatModel,
  followUps: readonly FollowUp[],
  options: { signal?: AbortSignal | undefined; onResult: (index: number, verdict: ModelVerdict) => void },
): Promise<void> {
  if (followUps.length === 0) return;
  const { signal, onResult } = options;
  const [blank] = await model.chooseLabel([request(model, { request: "", answer: "", text: "" })], { signal });
  const bias = (blank?.probabilities ?? []).map((p) => Math.max(p, leastBias));
  await model.chooseLabel(followUps.map((followUp) => request(model, followUp)), {
    signal,
    onResult: (index, { probabilities }) => onResult(index, { probabilities: normalized(probabilities.map((p, i) => p / (bias[i] ?? 1))) }),
  });
}

/** A word that the blank prompt all but excludes is not made likely by dividing. */
const leastBias = 0.05;

function normalized(values: readonly number[]): number[] {
  const sum = values.reduce((a, b) => a + b, 0);
  return sum > 0 ? values.map((value) => value / sum) : values.map(() => 1 / values.length);
}

function request(model: ChatModel, followUp: FollowUp): LabelRequest {
  for (let scale = 1; ; scale /= 2) {
    const messages = feedbackPrompt.render({
      request: clip(followUp.request, Math.round(shown.request * scale)),
      answer: clip(followUp.answer, Math.round(shown.answer * scale)),
      follow_up: clip(followUp.text, Math.round(shown.follow_up * scale)),
    });
    if (scale < 1 / 16 || model.countTokens(messages) + spareTokens <= model.context_length) return { messages, labels: words };
  }
}
