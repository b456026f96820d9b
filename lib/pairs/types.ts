import type { Message } from "../conversations/types.js";

/** Where a pair or candidate set comes from in the logs. */
export interface Provenance {
  user_id: string;
  conversation_id: string;
  /** Index in the conversation's messages of the user's message that is answered. */
  turn: number;
  /** Index of the follow-up whose feedback was used (rewrites), or null. */
  follow_up_turn: number | null;
}

export type PairMethod = "rewrite" | "reward" | "rewrite_from_scratch";

/**
 * One line of candidates.jsonl: the answers made for one request. For rewrites: the rejected answer and its rewrite; for
 * rewards: n sampled answers with their scores. `id` is unique and stable: resuming skips ids already in the file, and a run
 * with another `rewrites.from_scratch` has the same ones.
 */
export interface CandidateRecord extends Provenance {
  id: string;
  method: PairMethod;
  /** Context without persona: the messages up to and with the user's request. */
  prompt: Message[];
  /** Rendered persona (system message text), "" for none. */
  persona: string;
  /** The user's follow-up text (rewrites): for rewriter, filters and reports; never part of a training context. */
  follow_up: string;
  answers: {
    text: string;
    /** "policy" (on-policy sample), "logged" (the source's answer), "rewrite". */
    origin: "policy" | "logged" | "rewrite";
    finish_reason: "stop" | "length";
    /** Expected score of the judge that sees the persona; null where not scored. */
    reward: number | null;
    /** The same without the persona (user-agnostic reward); null where not scored. */
    reward_no_persona: number | null;
  }[];
  /** Prompt versions and model fingerprints by role: {"policy": ..., "rewriter": ..., "judge": ...}. */
  models: Record<string, string>;
  prompt_hashes: Record<string, string>;
}

/** One line of pairs.jsonl: TRL's conversational form, plus provenance. */
export interface PairRecord extends Provenance {
  id: string;
  method: PairMethod;
  /** Persona in a leading system message unless dropped; the context after it. */
  prompt: Message[];
  chosen: [Message];
  rejected: [Message];
  score_chosen: number | null;
  score_rejected: number | null;
  /** False where persona dropout (or no persona) left it out. */
  persona_used: boolean;
  /** Of a held-out user: measured, never trained on. */
  held_out: boolean;
}

/** Why a candidate set gave no pair. Order is the order in which the filters run; each can be switched off, each is counted. */
export const pairFilters = ["empty_answer", "unfinished_answer", "tie", "small_margin", "near_duplicate", "length_ratio", "language_mismatch", "leaked_feedback", "unsafe", "personal_data", "too_long", "per_user_cap"] as const;
export type PairFilter = (typeof pairFilters)[number];

/** One line of filtered.jsonl: a candidate set that gave no pair, and why. */
export interface FilteredRecord {
  id: string;
  user_id: string;
  method: PairMethod;
  filter: PairFilter;
  detail: string;
}
