/** Which turns of the logs make rewrites and which make rewards: references first, so that millions fit in memory. */
import { holdsHeldOutText } from "../conversations/split.js";
import { readConversations } from "../conversations/store.js";
import { followUpTurns, userTurns } from "../conversations/types.js";
import type { Conversation, FeedbackLabel, Message } from "../conversations/types.js";
import type { FeedbackRecord } from "../feedback/types.js";
import { readJsonl, sha256 } from "../files.js";
import type { RunConfig } from "../config.js";
import type { RunFolder } from "../run/folder.js";
import { evenlyOverUsers } from "./sample.js";
import type { PairMethod, Provenance } from "./types.js";

export interface RequestRef extends Provenance {
  id: string;
  method: PairMethod;
}

/** A request with its texts. The follow-up is kept apart from the context: it never enters one. */
export interface PairRequest extends RequestRef {
  /** Messages up to and with the user's request. */
  prompt: Message[];
  /** The logged answer to it, "" where there is none. */
  logged: string;
  /** The user's follow-up to that answer (rewrites), else "". */
  follow_up: string;
}

export type FeedbackLabels = ReadonlyMap<string, ReadonlyMap<number, FeedbackLabel | null>>;

/** Labels of feedback.jsonl by conversation and turn. */
export async function readFeedbackLabels(path: string): Promise<FeedbackLabels> {
  const labels = new Map<string, Map<number, FeedbackLabel | null>>();
  for await (const { conversation_id, turn, label } of readJsonl<FeedbackRecord>(path)) {
    const turns = labels.get(conversation_id) ?? new Map<number, FeedbackLabel | null>();
    labels.set(conversation_id, turns.set(turn, label));
  }
  return labels;
}

/**
 * Stable over runs and machines. Sampling over users, seeds, persona dropout and the cap on a user's pairs all go by it, so
 * it knows a rewrite from a reward, but not how the rewrite is made: `rewrites.from_scratch` changes the rewrites alone.
 */
function requestId(stage: "rewrite" | "reward", conversation_id: string, turn: number): string {
  return `${stage}-${sha256(`${conversation_id}\u0000${turn}`).slice(0, 16)}`;
}

/** Follow-ups whose label is in `use`: each asks for another answer to the request before the answer it follows. */
export function rewriteRefs(conversation: Conversation, labels: FeedbackLabels, use: readonly FeedbackLabel[], method: "rewrite" | "rewrite_from_scratch"): RequestRef[] {
  const { conversation_id, user_id, messages } = conversation;
  const ofTurn = labels.get(conversation_id);
  return followUpTurns(conversation).flatMap((follow_up_turn): RequestRef[] => {
    const label = ofTurn?.get(follow_up_turn);
    const turn = follow_up_turn - 2;
    if (label === undefined || label === null || !use.includes(label) || messages[turn]?.role !== "user") return [];
    return [{ id: requestId("rewrite", conversation_id, turn), method, user_id, conversation_id, turn, follow_up_turn }];
  });
}

/** Labels of follow-ups that ask for something without saying how an answer should have been. The evaluation asks no clarifications: see docs/method.md. */
const plainRequests: ReadonlySet<FeedbackLabel | null | undefined> = new Set(["new_request", "clarification"] as const);

/** The user's first message, and follow-ups without feedback. */
export function rewardRefs(conversation: Conversation, labels: FeedbackLabels): RequestRef[] {
  const { conversation_id, user_id } = conversation;
  const ofTurn = labels.get(conversation_id);
  const followUps = new Set(followUpTurns(conversation));
  return userTurns(conversation)
    .filter((turn) => !followUps.has(turn) || plainRequests.has(ofTurn?.get(turn)))
    .map((turn): RequestRef => ({ id: requestId("reward", conversation_id, turn), method: "reward", user_id, conversation_id, turn, follow_up_turn: null }));
}

/** The method's name of rewrites under this configuration. */
export function rewriteMethod(config: RunConfig): "rewrite" | "rewrite_from_scratch" {
  return config.rewrites.from_scratch ? "rewrite_from_scratch" : "rewrite";
}

export interface SelectedRequests {
  refs: RequestRef[];
  /** Requests left out because their conversation holds text of a held-out user. */
  beside_held_out: number;
}

/** The requests that `rewrite` or `reward` works on: all of them, or `max` evenly over users. */
export async function selectRequests(stage: "rewrite" | "reward", folder: RunFolder, config: RunConfig, labels: FeedbackLabels): Promise<SelectedRequests> {
  const refs: RequestRef[] = [];
  let beside_held_out = 0;
  for await (const conversation of readConversations(folder.conversations)) {
    const found = stage === "rewrite" ? rewriteRefs(conversation, labels, config.feedback.use, rewriteMethod(config)) : rewardRefs(conversation, labels);
    if (holdsHeldOutText(conversation, config.data.held_out)) beside_held_out += found.length;
    else refs.push(...found);
  }
  return { refs: evenlyOverUsers(refs, stage === "rewrite" ? config.rewrites.max : config.rewards.max, config.seed), beside_held_out };
}

/** Reads the texts of `refs`, in windows of at most `window` requests, in the order of conversations.parquet. */
export async function* withTexts(refs: readonly RequestRef[], conversations: string, window: number): AsyncGenerator<PairRequest[]> {
  const wanted = new Map<string, RequestRef[]>();
  for (const ref of refs) wanted.set(ref.conversation_id, [...(wanted.get(ref.conversation_id) ?? []), ref]);
  let requests: PairRequest[] = [];
  for await (const conversation of wanted.size === 0 ? [] : readConversations(conversations)) {
    for (const ref of wanted.get(conversation.conversation_id) ?? []) {
      requests.push(requestTexts(ref, conversation));
      if (requests.length < window) continue;
      yield requests;
      requests = [];
    }
  }
  if (requests.length > 0) yield requests;
}

export function requestTexts(ref: RequestRef, { messages }: Conversation): PairRequest {
  const answer = messages[ref.turn + 1];
  return {
    ...ref,
    prompt: messages.slice(0, ref.turn + 1).map(({ role, content }) => ({ role, content })),
    logged: answer?.role === "assistant" ? answer.content : "",
    follow_up: ref.follow_up_turn === null ? "" : (messages[ref.follow_up_turn]?.content ?? ""),
  };
}
