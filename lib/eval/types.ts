import type { Message } from "../conversations/types.js";
import type { Criterion } from "../prompts/user-eval.js";
import type { Verdict } from "./statistics.js";

/** A real request of a held-out user. */
export interface EvalRequest {
  /** `conversation_id:turn` */
  id: string;
  user_id: string;
  conversation_id: string;
  turn: number;
  kind: "first" | "follow_up";
  /** Rendered persona, "" for none. */
  persona: string;
  /** The conversation up to and with the request, without persona. */
  messages: Message[];
}

export type Side = "base" | "trained";

/** One line of answers.jsonl: what one model answered to one request. */
export interface AnswerRecord {
  id: string;
  side: Side;
  model: string;
  text: string;
}

/** One line of judgements.jsonl: one verdict in one order, with the prompt it was given on. */
export interface JudgementRecord {
  id: string;
  user_id: string;
  kind: EvalRequest["kind"];
  criterion: Criterion;
  /** Which model's answer was shown as A. */
  shown_first: Side;
  /** "tie" where the judge leans to neither: it named no option, or refused. */
  winner: Side | "tie";
  /** The judge's probability that the trained model's answer is better. */
  probability_trained: number;
  prompt: Message[];
  prompt_hash: string;
  judge: string;
  /** Fingerprints of the two models compared. */
  base: string;
  trained: string;
}

/** One comparison after both orders: first = trained, second = base. */
export interface Comparison {
  id: string;
  user_id: string;
  kind: EvalRequest["kind"];
  criterion: Criterion;
  verdict: Verdict;
  /** The judge leaned to neither answer in at least one order: the tie is no effect of the order. */
  undecided: boolean;
  /** The judge's probability that the trained model's answer is better, the mean of both orders. */
  probability: number;
}
