/** The classifier that asks a chat model: a choice among six words by their probability. */
import { isUndecided } from "../chat-models/labels.js";
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

/** Characters shown of each text at first (beginning and end); halved until the prompt fits the model's context. */
const shown = { request: 160, answer: 240, follow_up: 600 };

/** Room for the answer and the template's own tokens. */
const spareTokens = 32;

/** Follow-ups that a calibration wants: more cost time and change little. */
export const calibrationSize = 64;

/** How strongly a calibration without follow-ups is taken to be "all labels alike", in follow-ups. */
const calibrationPrior = 8;

/**
 * The model's mean probability of each label over some follow-ups of the data at hand (Zhou et al., "Batch Calibration",
 * 2024): what it says whatever it reads. Dividing by it is what makes a small model's verdicts worth anything.
 */
export async function calibrate(model: ChatModel, followUps: readonly FollowUp[], signal?: AbortSignal): Promise<number[]> {
  const given = followUps.length === 0 ? [] : await model.chooseLabel(followUps.map((followUp) => request(model, followUp)), { signal });
  const choices = given.filter(({ probabilities }) => !isUndecided(probabilities));
  return words.map((_, i) => {
    const sum = choices.reduce((total, { probabilities }) => total + (probabilities[i] ?? 0), 0);
    return (sum + calibrationPrior / words.length) / (choices.length + calibrationPrior);
  });
}

/**
 * Classifies all follow-ups in one batch, relative to the `bias` that calibrate() gave; `onResult` comes once each, in
 * any order, with probabilities in the order of feedbackLabels.
 */
export async function classifyByModel(
  model: ChatModel,
  followUps: readonly FollowUp[],
  bias: readonly number[],
  options: { signal?: AbortSignal | undefined; onResult: (index: number, probabilities: number[]) => void },
): Promise<void> {
  if (followUps.length === 0) return;
  const { signal, onResult } = options;
  await model.chooseLabel(followUps.map((followUp) => request(model, followUp)), {
    signal,
    // Without a verdict there is nothing to set against the bias: dividing would make the rarest label the chosen one.
    onResult: (index, { probabilities }) => onResult(index, isUndecided(probabilities) ? probabilities : normalized(probabilities.map((p, i) => p / (bias[i] ?? 1)))),
  });
}

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
