/** Everything the page shows, read from the run folder; no HTML here. */
import type { Message } from "../conversations/types.js";
import type { HeldOutMetrics } from "../engine/checkpoints.js";
import type { Mean, WinRate } from "../eval/statistics.js";
import type { PairMethod } from "../pairs/types.js";
import type { EngineRecord } from "../run/manifest.js";

export interface Count {
  name: string;
  count: number;
}

/** Follow-ups of one label, by which part of the classifier decided. */
export interface LabelCount extends Count {
  rules: number;
  model: number;
}

/** Candidate sets of one method and the pairs they gave. */
export interface MethodCount {
  method: PairMethod;
  name: string;
  sets: number;
  pairs: number;
  /** Of the pairs: those of held-out users, measured and never trained on. */
  held_out: number;
}

export interface MetricPoint {
  step: number;
  loss: number;
  margin: number;
  accuracy: number;
  tokens_per_second: number | null;
}

export interface PairExample {
  method: PairMethod;
  user_id: string;
  persona: string;
  /** False where persona dropout left it out of the training context. */
  persona_used: boolean;
  held_out: boolean;
  /** Context without the persona. */
  prompt: Message[];
  follow_up: string;
  chosen: string;
  rejected: string;
  score_chosen: number | null;
  score_rejected: number | null;
  /** Answers in the candidate set the pair was chosen from. */
  candidates: number;
}

export interface AnswerExample {
  user_id: string;
  persona: string;
  prompt: Message[];
  trained: string;
  base: string;
  verdicts: { criterion: string; winner: "trained" | "base" | "tie" }[];
  kind: "first" | "follow_up";
}

/** Held-out users' pairs, measured before and after training. */
export interface HeldOutPairs {
  before: HeldOutMetrics | null;
  after: HeldOutMetrics;
}

export interface Setting {
  name: string;
  value: string;
}

export interface StageTimes {
  name: string;
  seconds: number;
  /** null where the stage did not use the embedded engine. */
  engine: EngineRecord | null;
}

export interface ReportData {
  name: string;
  model: string;
  finished: string;
  version: string;
  /** null where nothing is mined yet. */
  mined: { read: number; conversations: number; follow_ups: number; users: number; held_out_users: number } | null;
  dropped: Count[];
  labels: LabelCount[];
  /** Follow-ups whose label makes rewrites (feedback.use). */
  used_follow_ups: number;
  methods: MethodCount[];
  filtered: Count[];
  metrics: MetricPoint[];
  loss_type: string;
  /** What the loss is by definition while the policy equals its reference; null where the loss has no such value. */
  loss_at_reference: number | null;
  held_out: HeldOutPairs | null;
  win_rates: { criterion: string; kind: string; rate: WinRate; preference: Mean | null }[];
  order_disagreement: number | null;
  eval_requests: number;
  eval_users: number;
  pair_examples: PairExample[];
  answer_examples: AnswerExample[];
  times: StageTimes[];
  /** The engine over all stages that used it; null where none did. */
  engine: EngineRecord | null;
  /** Seed, data, models and prompt versions: what it takes to make the run again. */
  provenance: Setting[];
  /** Settings that are not the defaults. */
  settings: Setting[];
}
