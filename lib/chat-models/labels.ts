/**
 * Choosing among labels. Single plain words (and letters) are answers as they stand; other names, made of many tokens and
 * so badly comparable by their probability, are listed as lettered options and the choice is among the letters.
 */
import type { Message } from "../conversations/types.js";
import type { LabelChoice, Score } from "./types.js";

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

export interface LetteredPrompt {
  messages: Message[];
  /** What the model answers, one a label, in their order. */
  answers: string[];
}

/** A word that a prompt can ask for by itself. */
const plainWord = /^\p{L}{1,12}$/u;

export function letteredPrompt(messages: readonly Message[], labels: readonly string[]): LetteredPrompt {
  if (labels.every((label) => plainWord.test(label))) return { messages: [...messages], answers: [...labels] };
  if (labels.length > alphabet.length) throw new RangeError(`at most ${alphabet.length} labels, not ${labels.length}`);
  const answers = labels.map((_, index) => alphabet.charAt(index));
  const options = labels.map((label, index) => `${answers[index]}. ${label}`).join("\n");
  return { messages: withAppendix(messages, `\n\nOptions:\n${options}\nReply with one letter only.`), answers };
}

/** The one answer that a first token begins (or is): "cha" and " Change" begin "change". -1 where none or more than one does. */
export function answerBegunBy(token: string, answers: readonly string[]): number {
  const begun = token.trim().toLowerCase();
  if (begun === "") return -1;
  const places = answers.flatMap((answer, index) => (answer.toLowerCase().startsWith(begun) ? [index] : []));
  return places.length === 1 ? (places[0] as number) : -1;
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

/** No verdict: all options alike. */
export function undecided(options: number): number[] {
  return Array.from({ length: options }, () => 1 / options);
}

/** All options alike: nothing was chosen, and the label that stands first is not meant. */
export function isUndecided(probabilities: readonly number[]): boolean {
  return probabilities.every((p) => Math.abs(p - 1 / probabilities.length) < 1e-9);
}

/** Whole numbers min..max. */
export function scale(min: number, max: number): number[] {
  return Array.from({ length: max - min + 1 }, (_, index) => min + index);
}

/** The expectation over the numbers; none without a verdict, where it would be the middle of the scale. */
export function scoreOf(values: readonly number[], probabilities: number[]): Score {
  return { expected: isUndecided(probabilities) ? null : expectation(values, probabilities), probabilities };
}

export function expectation(values: readonly number[], probabilities: readonly number[]): number {
  return values.reduce((sum, value, index) => sum + value * (probabilities[index] ?? 0), 0);
}
