/** What of a user's past a persona may be made from, and how it is shown to the model. */
import type { Conversation, FeedbackLabel } from "../conversations/types.js";
import { followUpTurns, timesOf, userTurns } from "../conversations/types.js";
import { clip } from "../prompts/prompt.js";
import { oneLine } from "./render.js";
import type { Persona } from "./types.js";

/** Label of a follow-up, by conversation and turn; null: the classifier abstained. */
export type FeedbackLookup = (conversation_id: string, turn: number) => FeedbackLabel | null | undefined;

/**
 * One user's conversations by the time they ended, to be asked for those before each: every time is read once and a question is a binary
 * search, so that a user with many thousand conversations costs no more than many users with few.
 */
export class History {
  /** Oldest first. */
  readonly #conversations: readonly Conversation[];
  readonly #ends: readonly number[];

  constructor(ofUser: readonly Conversation[]) {
    const timed = ofUser.map((conversation) => ({ conversation, end: timesOf(conversation).ended }));
    timed.sort((a, b) => a.end - b.end || (a.conversation.conversation_id < b.conversation.conversation_id ? -1 : 1));
    this.#conversations = timed.map(({ conversation }) => conversation);
    this.#ends = timed.map(({ end }) => end);
  }

  /**
   * The latest `max` conversations that were over strictly before `conversation` began, oldest first. Equal times are not
   * earlier, and of two sessions side by side neither knows the other.
   */
  before(conversation: Conversation, max: number): Conversation[] {
    const end = firstAtLeast(this.#ends, timesOf(conversation).began);
    return this.#conversations.slice(Math.max(0, end - max), end);
  }
}

/** Index of the first of the ascending `values` that is at least `limit`; their number where none is. */
function firstAtLeast(values: readonly number[], limit: number): number {
  let [from, to] = [0, values.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if ((values[middle] as number) < limit) from = middle + 1;
    else to = middle;
  }
  return from;
}

export interface HistoryDigest {
  /** What the prompt shows: conversations as C1, C2, ... */
  text: string;
  /** conversation_id by the name it is shown under. */
  ids: Map<string, string>;
}

const feedbackNames: Record<FeedbackLabel, string> = {
  new_request: "then asked",
  reattempt_with_feedback: "asked to change the answer",
  reattempt_without_feedback: "asked again",
  positive_feedback: "was content",
  clarification: "added",
  other: "said",
};

/** Quoted feedback in a persona made without the model. */
const maxQuotes = 5;
const maxQuoteChars = 160;

/** The user's latest words on how answers should have been, each with the conversation it stands in. */
export function feedbackQuotes(earlier: readonly Conversation[], feedback: FeedbackLookup): Persona["preferences"] {
  const quotes = earlier.flatMap((conversation) =>
    followUpTurns(conversation)
      .filter((turn) => feedback(conversation.conversation_id, turn) === "reattempt_with_feedback")
      .map((turn) => ({
        dimension: "said of an earlier answer",
        value: `"${clip(oneLine(conversation.messages[turn]?.content ?? ""), maxQuoteChars)}"`,
        evidence: conversation.conversation_id,
      })));
  return quotes.slice(-maxQuotes);
}

/** Characters of one message shown where there is room. */
const fullMessage = 600;
const shortestMessage = 80;

/**
 * The user's messages of `earlier` (oldest first), within `budget` as `count` measures it: long messages are cut first, then
 * the oldest conversations go. The assistant's answers are not shown.
 */
export function historyDigest(
  earlier: readonly Conversation[],
  feedback: FeedbackLookup,
  { budget, count }: { budget: number; count: (text: string) => number },
): HistoryDigest {
  let shown = earlier;
  for (let length = fullMessage; ; ) {
    const digest = render(shown, feedback, length);
    if (count(digest.text) <= budget || (shown.length <= 1 && length <= shortestMessage)) return digest;
    if (length > shortestMessage) length = Math.max(shortestMessage, Math.floor(length / 2));
    else shown = shown.slice(1);
  }
}

function render(conversations: readonly Conversation[], feedback: FeedbackLookup, length: number): HistoryDigest {
  const ids = new Map<string, string>();
  const blocks = conversations.map((conversation, index) => {
    const name = `C${index + 1}`;
    ids.set(name, conversation.conversation_id);
    const followUps = new Set(followUpTurns(conversation));
    const lines = userTurns(conversation).map((turn) => {
      const text = clip((conversation.messages[turn]?.content ?? "").replace(/\s+/gu, " ").trim(), length);
      const label = followUps.has(turn) ? feedback(conversation.conversation_id, turn) : undefined;
      return `- ${label === undefined || label === null ? (followUps.has(turn) ? "then said" : "asked") : feedbackNames[label]}: ${text}`;
    });
    return [name, ...lines].join("\n");
  });
  return { text: blocks.join("\n\n"), ids };
}
