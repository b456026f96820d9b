/** A preference pair as token ids, within the context. */
import { fitMessages } from "../chat-models/fit.js";
import type { Message } from "../conversations/types.js";
import { fixedDate } from "./template.js";
import type { ChatTokenizer } from "./types.js";

export interface PairTokens {
  prompt_ids: ArrayLike<number>;
  chosen_ids: ArrayLike<number>;
  rejected_ids: ArrayLike<number>;
}

export interface ConversationalPair {
  prompt: readonly Message[];
  chosen: string;
  rejected: string;
}

/** The pair does not fit although all but the persona and the last request is gone: an answer is never cut. */
export interface TooLong {
  /** Tokens of what must stay, with the longer answer. */
  tokens: number;
  max_tokens: number;
}

export type TokenizedPair = PairTokens & { dropped_messages: number };

/**
 * Ids of a conversational pair, prompt and the longer answer within `max_tokens`: the oldest turns go first, the system
 * message and the last request never. Answers end with the model's end-of-turn token. A date in the template is the fixed one,
 * whichever the tokenizer was opened with: the same pair is the same ids on any day.
 */
export function tokenizePair(tokenizer: ChatTokenizer, pair: ConversationalPair, max_tokens: number): TokenizedPair | TooLong {
  const chosen_ids = tokenizer.encodeAnswer(pair.chosen);
  const rejected_ids = tokenizer.encodeAnswer(pair.rejected);
  const longest = Math.max(chosen_ids.length, rejected_ids.length);
  const encode = (messages: Message[]): number[] => tokenizer.encodeChat(messages, { now: fixedDate });
  const fitted = fitMessages(pair.prompt, { budget: max_tokens - longest, count: (messages) => encode(messages).length });
  const prompt_ids = encode(fitted.messages);
  if (!fitted.fits) return { tokens: prompt_ids.length + longest, max_tokens };
  return { prompt_ids, chosen_ids, rejected_ids, dropped_messages: fitted.dropped };
}

export function isTooLong(result: TokenizedPair | TooLong): result is TooLong {
  return "tokens" in result;
}
