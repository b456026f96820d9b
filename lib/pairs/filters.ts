/** Why a pair is not trained on. Every filter by itself; they run in the order of `pairFilters`, and the first that objects is counted. */
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { languageMismatch } from "./answer-language.js";
import type { ChosenPair } from "./choose.js";
import { leakedFeedback } from "./leaked-feedback.js";
import { findPersonalData } from "./personal-data.js";
import { similarity } from "./similarity.js";
import { pairFilters } from "./types.js";
import type { CandidateRecord, PairFilter } from "./types.js";
import { findUnsafe } from "./unsafe.js";

export interface FilterInput extends ChosenPair {
  candidate: CandidateRecord;
  /** With the persona, where the pair uses it; cut to the context. */
  prompt: Message[];
  settings: RunConfig["pairs"];
  /** Tokens of the least that must stay of the prompt, with the longer answer, where that is over the context. */
  too_long?: { tokens: number; max_tokens: number } | undefined;
}

/** What is wrong, in words for filtered.jsonl; undefined where nothing is. per_user_cap looks at all pairs and is not here. */
type Check = (input: FilterInput) => string | undefined;

const checks: Record<Exclude<PairFilter, "per_user_cap">, Check> = {
  empty_answer: ({ chosen, rejected }) => (chosen.text.trim() === "" ? "chosen" : rejected.text.trim() === "" ? "rejected" : undefined),
  unfinished_answer: ({ chosen, rejected }) => (chosen.finish_reason === "length" ? "chosen" : rejected.finish_reason === "length" ? "rejected" : undefined),
  tie: ({ chosen, rejected, score_chosen, score_rejected }) => {
    if (chosen.text.trim() === rejected.text.trim()) return "the same text";
    return score_chosen !== null && score_chosen === score_rejected ? `both ${score_chosen.toFixed(3)}` : undefined;
  },
  small_margin: ({ score_chosen, score_rejected, settings }) => {
    if (score_chosen === null || score_rejected === null) return undefined;
    const margin = score_chosen - score_rejected;
    // A judge that gave no verdict leaves no number, and no number is no margin.
    if (Number.isNaN(margin)) return "no verdict";
    return margin < settings.min_margin ? `${margin.toFixed(3)} < ${settings.min_margin}` : undefined;
  },
  near_duplicate: ({ chosen, rejected, settings }) => {
    const alike = similarity(chosen.text, rejected.text);
    return alike > settings.max_similarity ? `${alike.toFixed(3)} > ${settings.max_similarity}` : undefined;
  },
  length_ratio: ({ chosen, rejected, settings }) => {
    const lengths = [chosen.text.length, rejected.text.length];
    const ratio = Math.max(...lengths) / Math.max(1, Math.min(...lengths));
    return ratio > settings.max_length_ratio ? `${ratio.toFixed(2)} > ${settings.max_length_ratio}` : undefined;
  },
  language_mismatch: ({ candidate, chosen }) => {
    const mismatch = languageMismatch(candidate.prompt, candidate.follow_up, chosen.text);
    return mismatch === undefined ? undefined : `asked in ${mismatch.request}, answered in ${mismatch.answer}`;
  },
  leaked_feedback: ({ candidate, chosen }) => (candidate.method === "reward" ? undefined : leakedFeedback(chosen.text, userText(candidate.prompt))),
  unsafe: ({ candidate, prompt, chosen, rejected }) => {
    const found = first([candidate.follow_up, ...texts(prompt), chosen.text, rejected.text], findUnsafe);
    return found === undefined ? undefined : `${found.kind}: ${found.text}`;
  },
  personal_data: ({ prompt, chosen, rejected }) => {
    // The kind alone: filtered.jsonl is not to hold what it keeps out.
    return first([...texts(prompt), chosen.text, rejected.text], findPersonalData)?.kind;
  },
  too_long: ({ too_long }) => (too_long === undefined ? undefined : `${too_long.tokens} tokens, at most ${too_long.max_tokens}`),
};

/** The first of the enabled filters that objects. */
export function firstObjection(input: FilterInput): { filter: PairFilter; detail: string } | undefined {
  const enabled = enabledFilters(input.settings);
  for (const filter of pairFilters) {
    if (filter === "per_user_cap" || !enabled.has(filter)) continue;
    const detail = checks[filter](input);
    if (detail !== undefined) return { filter, detail };
  }
  return undefined;
}

export function enabledFilters(settings: RunConfig["pairs"]): ReadonlySet<PairFilter> {
  return new Set(settings.filters ?? pairFilters);
}

function texts(messages: readonly Message[]): string[] {
  return messages.map(({ content }) => content);
}

function userText(messages: readonly Message[]): string {
  return messages.filter(({ role }) => role === "user").map(({ content }) => content).join("\n");
}

function first<T>(values: readonly string[], find: (text: string) => T | undefined): T | undefined {
  for (const value of values) {
    const found = find(value);
    if (found !== undefined) return found;
  }
  return undefined;
}
