/**
 * The one interface to language models: classify, persona, rewrite and judge all go through it. Batch-shaped, because both
 * the embedded engine (continuous batching) and endpoints (concurrency) are fastest when they see all the work at once.
 */
import type { Message } from "../conversations/types.js";

export interface Sampling {
  max_new_tokens: number;
  /** 0 is greedy. */
  temperature: number;
  top_p: number;
  top_k?: number;
  min_p?: number;
  seed: number;
  /** Generation ends before any of these. */
  stop?: string[];
}

export interface ChatRequest {
  messages: Message[];
  /** Samples wanted; seeds are derived from sampling.seed, one a sample. */
  n: number;
  sampling: Sampling;
  /** JSON schema the answer must follow: enforced by endpoints that can; otherwise the caller parses and checks. */
  json_schema?: { name: string; schema: Record<string, unknown> };
  /** Text the assistant's answer is made to begin with (native), e.g. "{"; part of the returned text. */
  prefix?: string;
}

export interface Completion {
  text: string;
  /** "length": cut off, at its limit or otherwise. "refused": the endpoint will not answer this request; the text is "" and no answer. */
  finish_reason: "stop" | "length" | "refused";
  tokens: number;
}

export interface LabelRequest {
  messages: Message[];
  labels: readonly string[];
}
export interface LabelChoice {
  label: string;
  /** In the order of the request's labels; sums to 1. All alike where there is no verdict (isUndecided): `label` then means nothing. */
  probabilities: number[];
}

/** A whole-number scale, e.g. 1..9: the score is the expectation over its numbers, not one sampled digit. */
export interface ScoreRequest {
  messages: Message[];
  min: number;
  max: number;
}
export interface Score {
  /** null where there is no verdict: the model named no number, refused, or could not be shown the whole prompt. */
  expected: number | null;
  probabilities: number[];
}

export interface BatchOptions<Result> {
  signal?: AbortSignal | undefined;
  /** Called once an item, as it ends, in any order: stages write it to their file at once. */
  onResult?: ((index: number, result: Result) => void) | undefined;
}

export interface ChatModel {
  /** "native:PATH" or "openai:URL#model". */
  readonly spec: string;
  /** Identifies the weights (native) or the endpoint and model name. */
  fingerprint(): Promise<string>;
  /** Longest prompt plus answer, in tokens; Infinity where unknown. */
  readonly context_length: number;
  countTokens(messages: Message[]): number;
  chat(requests: ChatRequest[], options?: BatchOptions<Completion[]>): Promise<Completion[][]>;
  chooseLabel(requests: LabelRequest[], options?: BatchOptions<LabelChoice>): Promise<LabelChoice[]>;
  score(requests: ScoreRequest[], options?: BatchOptions<Score>): Promise<Score[]>;
  close(): Promise<void>;
}
