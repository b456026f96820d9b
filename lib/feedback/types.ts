import type { FeedbackLabel } from "../conversations/types.js";

/** One line of feedback.jsonl: the label of one follow-up. */
export interface FeedbackRecord {
  conversation_id: string;
  user_id: string;
  /** Index of the follow-up in the conversation's messages. */
  turn: number;
  /** null: the classifier abstained. */
  label: FeedbackLabel | null;
  /** The classifier's own probability of its label, 0..1. */
  confidence: number;
  /** Which part decided. */
  decided_by: "rules" | "model";
  /** Rules: the cues that fired, with the matched text; model: label probabilities. */
  evidence: { cues?: { cue: string; text: string }[]; similarity?: number; probabilities?: Record<string, number> };
  /** Version hash of the prompt and fingerprint of the model, "" for rules. */
  prompt_hash: string;
  model: string;
}

export const classifierKinds = ["rules", "model", "both"] as const;
export type ClassifierKind = (typeof classifierKinds)[number];
