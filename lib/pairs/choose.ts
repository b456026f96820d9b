/** Which two answers of a candidate set make the pair. */
import type { RunConfig } from "../config.js";
import type { CandidateRecord } from "./types.js";

type Answer = CandidateRecord["answers"][number];

export interface ChosenPair {
  chosen: Answer;
  rejected: Answer;
  /** Expected scores by which the two were chosen or checked; null where nobody scored them. */
  score_chosen: number | null;
  score_rejected: number | null;
}

/** Scores of a rewrite and of the answer it replaces, by a judge that sees persona and follow-up. */
export interface RewriteScores {
  rewrite: number;
  rejected: number;
}

/** undefined where the set holds fewer than two answers. */
export function choosePair(candidate: CandidateRecord, config: RunConfig, scores?: RewriteScores): ChosenPair | undefined {
  return candidate.method === "reward" ? bestAndWorst(candidate, config) : rewriteAndRejected(candidate, scores);
}

function rewriteAndRejected({ answers }: CandidateRecord, scores: RewriteScores | undefined): ChosenPair | undefined {
  const chosen = answers.find(({ origin }) => origin === "rewrite");
  const rejected = answers.find(({ origin }) => origin !== "rewrite");
  if (chosen === undefined || rejected === undefined) return undefined;
  return { chosen, rejected, score_chosen: scores?.rewrite ?? null, score_rejected: scores?.rejected ?? null };
}

/** The highest and the lowest reward; the first of equals. Empty and unfinished answers only where there is nothing else. */
function bestAndWorst({ answers }: CandidateRecord, config: RunConfig): ChosenPair | undefined {
  const reward = (answer: Answer): number => (config.rewards.user_agnostic ? answer.reward_no_persona : answer.reward) ?? Number.NaN;
  const scored = answers.filter((answer) => !Number.isNaN(reward(answer)));
  const whole = scored.filter(({ text, finish_reason }) => text.trim() !== "" && finish_reason === "stop");
  const usable = whole.length >= 2 ? whole : scored;
  const [first, ...rest] = usable;
  if (first === undefined || rest.length === 0) return undefined;
  const chosen = rest.reduce((best, answer) => (reward(answer) > reward(best) ? answer : best), first);
  const others = usable.filter((answer) => answer !== chosen);
  const rejected = others.reduce((worst, answer) => (reward(answer) < reward(worst) ? answer : worst));
  return { chosen, rejected, score_chosen: reward(chosen), score_rejected: reward(rejected) };
}
