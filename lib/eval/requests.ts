/** Which requests UserEval asks: first messages of held-out users, and follow-ups that ask for something. */
import { userTurns } from "../conversations/types.js";
import type { Conversation, Message } from "../conversations/types.js";
import type { FeedbackRecord } from "../feedback/types.js";
import { hashUnit } from "../random.js";
import type { EvalRequest } from "./types.js";

const notRequests = new Set(["positive_feedback", "clarification", "other"]);

/**
 * Requests of one conversation: the user's own messages, each a first one or (after an answer) a follow-up. A follow-up
 * counts unless its label says that it asks for nothing; where the classifier abstained it is left out.
 * @param labels by turn
 * @param persona rendered persona of the user as known before this conversation
 */
export function requestsOf(conversation: Conversation, labels: ReadonlyMap<number, FeedbackRecord["label"]>, persona: string): EvalRequest[] {
  const isFollowUp = (turn: number): boolean => conversation.messages[turn - 1]?.role === "assistant";
  const asks = (turn: number): boolean => {
    const label = labels.get(turn);
    return label !== undefined && label !== null && !notRequests.has(label);
  };
  const turns = userTurns(conversation).filter((turn) => !isFollowUp(turn) || asks(turn));
  return turns.map((turn): EvalRequest => ({
    id: `${conversation.conversation_id}:${turn}`,
    user_id: conversation.user_id,
    conversation_id: conversation.conversation_id,
    turn,
    kind: isFollowUp(turn) ? "follow_up" : "first",
    persona,
    messages: conversation.messages.slice(0, turn + 1).map(({ role, content }): Message => ({ role, content })),
  }));
}

/** At most `max` requests (0: all), evenly over users and, of each user, over kinds; the same ones for the same seed. */
export function selectRequests(requests: readonly EvalRequest[], max: number, seed: number): EvalRequest[] {
  if (max === 0 || requests.length <= max) return [...requests];
  const order = (r: EvalRequest): number => hashUnit(seed, r.id);
  const rounds = new Map<string, number>();
  const ranked = [...requests]
    .sort((a, b) => order(a) - order(b))
    .map((request) => {
      const key = `${request.user_id}\u0000${request.kind}`;
      const round = rounds.get(key) ?? 0;
      rounds.set(key, round + 1);
      return { request, round };
    })
    .sort((a, b) => a.round - b.round);
  const chosen = new Set(ranked.slice(0, max).map(({ request }) => request));
  return requests.filter((r) => chosen.has(r));
}
