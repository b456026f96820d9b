/** Choosing among labels: long names become letters, because a letter is one token and names of different lengths compare badly. */
import type { Message } from "../conversations/types.js";
import type { LabelChoice } from "./types.js";

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

export interface LetteredPrompt {
  messages: Message[];
  /** What the model answers, one a label, in their order. */
  answers: string[];
}

/** Labels of one character are answers as they stand; others are listed as lettered options after the last message. */
export function letteredPrompt(messages: readonly Message[], labels: readonly string[]): LetteredPrompt {
  if (labels.every((label) => label.length === 1)) return { messages: [...messages], answers: [...labels] };
  if (labels.length > alphabet.length) throw new RangeError(`at most ${alphabet.length} labels, not ${labels.length}`);
  const answers = labels.map((_, index) => alphabet.charAt(index));
  const options = labels.map((label, index) => `${answers[index]}. ${label}`).join("\n");
  return { messages: withAppendix(messages, `\n\nOptions:\n${options}\nReply with one letter only.`), answers };
}

/** `text` after the last message. */
export function withAppendix(messages: readonly Message[], text: string): Message[] {
  return messages.map((message, index) => (index === messages.length - 1 ? { ...message, content: message.content + text } : message));
}

/** Softmax; safe for -Infinity entries as long as one is finite. */
export function softmax(logits: readonly number[]): number[] {
  const top = Math.max(...logits);
  const weights = logits.map((logit) => (top === -Infinity ? 1 : Math.exp(logit - top)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** The most probable label; the first of equals. */
export function choiceOf(labels: readonly string[], probabilities: number[]): LabelChoice {
  const best = probabilities.reduce((top, p, index) => (p > (probabilities[top] ?? 0) ? index : top), 0);
  return { label: labels[best] ?? "", probabilities };
}

/** Whole numbers min..max. */
export function scale(min: number, max: number): number[] {
  return Array.from({ length: max - min + 1 }, (_, index) => min + index);
}

export function expectation(values: readonly number[], probabilities: readonly number[]): number {
  return values.reduce((sum, value, index) => sum + value * (probabilities[index] ?? 0), 0);
}
