/** Everything the page shows, read from the run folder; no HTML here. */
import type { Message } from "../conversations/types.js";
import type { WinRate } from "../eval/statistics.js";

export interface Count {
  name: string;
  count: number;
  /** A word of explanation, shown small. */
  detail?: string;
}

export interface MetricPoint {
  step: number;
  loss: number;
  margin: number;
  accuracy: number;
  tokensPerSecond: number | null;
}

export interface PairExample {
  method: string;
  persona: string;
  /** Context without the persona. */
  prompt: Message[];
  followUp: string;
  chosen: string;
  rejected: string;
  scoreChosen: number | null;
  scoreRejected: number | null;
  user: string;
}

export interface AnswerExample {
  persona: string;
  prompt: Message[];
  trained: string;
  base: string;
  /** Verdict by criterion. */
  verdicts: { criterion: string; winner: "trained" | "base" | "tie" }[];
  kind: string;
  user: string;
}

export interface HeldOutPairs {
  pairs: number;
  loss_before: number | null;
  loss_after: number | null;
  margin_before: number | null;
  margin_after: number | null;
  accuracy_after: number | null;
}

export interface StageTime {
  name: string;
  seconds: number;
}

export interface ReportData {
  name: string;
  model: string;
  finished: string;
  version: string;
  /** Each step of the funnel keeps a part of the one before. */
  funnel: Count[];
  dropped: Count[];
  labels: (Count & { rules: number; model: number })[];
  users: { all: number; heldOut: number };
  pairs: Count[];
  filtered: Count[];
  metrics: MetricPoint[];
  heldOut: HeldOutPairs | null;
  winRates: { criterion: string; kind: string; rate: WinRate }[];
  orderDisagreement: number | null;
  evalRequests: number;
  pairExamples: PairExample[];
  answerExamples: AnswerExample[];
  times: StageTime[];
  /** Name and value of everything needed to make the run again: seed, models, prompt versions, settings. */
  provenance: { name: string; value: string }[];
}
