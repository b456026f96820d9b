/** Conversations as every later part of the method sees them, whatever file they came from. */

export type Role = "system" | "user" | "assistant";

/** A chat message as models take it. */
export interface Message {
  role: Role;
  content: string;
}

/** What a follow-up (a user message after the first) does. See docs/method.md. */
export const feedbackLabels = ["new_request", "reattempt_with_feedback", "reattempt_without_feedback", "positive_feedback", "clarification", "other"] as const;
export type FeedbackLabel = (typeof feedbackLabels)[number];

export interface LoggedMessage extends Message {
  /** English name of the language ("English"), "" where the source does not say. */
  language: string;
  /** The source's own verdict: toxic, unsafe or moderated. */
  flagged: boolean;
  /** An author's or annotator's label of a follow-up, where the file carries one: for measuring classifiers, never for training. */
  gold_label: FeedbackLabel | null;
}

export interface Conversation {
  conversation_id: string;
  user_id: string;
  /** ISO 8601, UTC. Orders a user's conversations. In WildChat the time of the last answer, in OASST of the first message. */
  timestamp: string;
  /** The earliest and the latest time that the file gives for this user's part; null or absent where messages have no times. */
  began?: string | null;
  ended?: string | null;
  /** "wildchat", "oasst", "sharegpt", "messages". */
  source: string;
  /** The logging model's name, "" where unknown. */
  model: string;
  language: string;
  flagged: boolean;
  /** Begins with user (or system, then user); roles alternate after that. */
  messages: LoggedMessage[];
  /**
   * How many leading messages are only the context of this user's own: written by other people, or belonging to another
   * conversation of the same tree (OASST). They are read with the rest, but are no request, follow-up or trait of this
   * user, so that no turn counts twice. 0 where absent, and in every log of one person's chat.
   */
  context_messages?: number;
  /** Ids of the other people who wrote any of `messages` (OASST). None where absent, and in every log of one person's chat. */
  other_authors?: string[];
}

/**
 * When a conversation begins and when it is over, in milliseconds; `timestamp` stands for both where nothing else is known.
 * One is earlier than another if it is over before the other begins.
 */
export function timesOf({ timestamp, began, ended }: Conversation): { began: number; ended: number } {
  return { began: Date.parse(began ?? timestamp), ended: Date.parse(ended ?? timestamp) };
}

/** Indices into messages of the messages this conversation's user wrote. */
export function userTurns(conversation: Conversation): number[] {
  const own = conversation.context_messages ?? 0;
  return conversation.messages.flatMap(({ role }, index) => (role === "user" && index >= own ? [index] : []));
}

/** The users' turns after the first: indices into messages of every follow-up that has an assistant answer before it. */
export function followUpTurns(conversation: Conversation): number[] {
  return userTurns(conversation).filter((index) => conversation.messages[index - 1]?.role === "assistant");
}
