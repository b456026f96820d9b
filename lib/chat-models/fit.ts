/** The context rule: the oldest turns go first; the persona (system message) and the last request never. */
import type { Message } from "../conversations/types.js";
import { clip, clipBlocks } from "../prompts/prompt.js";

export interface FitOptions {
  /** Tokens the messages may take. */
  budget: number;
  /** Tokens of a whole chat, ready for the answer. */
  count: (messages: Message[]) => number;
  /** Messages at the end that never go; default 1, the request. */
  keepLast?: number;
}

export interface Fitted {
  messages: Message[];
  /** Messages left out. */
  dropped: number;
  /** False where even the least that must stay is too long. */
  fits: boolean;
}

/** Least room for an answer where the context is short. */
export const leastAnswer = 16;

/** Tokens a prompt may take where an answer of at most `max_new_tokens` follows: an answer longer than half of the context leaves the other half to the prompt. */
export function promptBudget(context: number, max_new_tokens: number): number {
  return context - Math.max(leastAnswer, Math.min(max_new_tokens, Math.floor(context / 2)));
}

/** Leaves out as few of the oldest turns as the budget asks for; what is left begins with a user's message as before. */
export function fitMessages(messages: readonly Message[], { budget, count, keepLast = 1 }: FitOptions): Fitted {
  const head = messages[0]?.role === "system" ? 1 : 0;
  // Places at which the kept part may begin: user messages, so that roles still alternate.
  const starts = messages.map((_, index) => index).filter((index) => index === head || (index > head && index <= messages.length - keepLast && messages[index]?.role === "user"));
  const from = (start: number): Message[] => [...messages.slice(0, head), ...messages.slice(start)];
  let low = 0;
  let high = starts.length - 1;
  // The first start that fits; token counts fall as more is left out.
  while (low < high) {
    const middle = (low + high) >> 1;
    if (count(from(starts[middle] as number)) <= budget) high = middle;
    else low = middle + 1;
  }
  const start = starts[low] ?? head;
  const kept = from(start);
  return { messages: kept, dropped: start - head, fits: count(kept) <= budget };
}

/** As fitMessages; what is still too long loses the middle of its longest messages. For prompts that must go through. */
export function squeezeMessages(messages: readonly Message[], options: FitOptions): Message[] {
  const fitted = fitMessages(messages, options);
  let kept = fitted.messages;
  for (let round = 0; round < 40 && options.count(kept) > options.budget; round++) {
    const longest = kept.reduce((best, message, index) => (message.content.length > (kept[best]?.content.length ?? 0) ? index : best), 0);
    kept = kept.map((message, index) => (index === longest ? { ...message, content: clip(message.content, Math.floor(message.content.length * 0.75)) } : message));
  }
  return kept;
}

/** For servers that say "too long" and no more: each time a quarter of the characters goes. */
const shorterBy = 0.75;
const fewestCharacters = 400;

/** A chat: the oldest turns go first, then the middles of long messages. undefined where there is hardly any left. */
export function shorterChat(messages: readonly Message[]): Message[] | undefined {
  const budget = Math.floor(characters(messages) * shorterBy);
  return budget < fewestCharacters ? undefined : squeezeMessages(messages, { budget, count: characters });
}

/**
 * A rendered prompt, whose last message holds the texts in fences: the longest of them lose their middles, and every word of the
 * prompt's own stays. Cutting the message itself would take fences and headings ("Answer B:") with it. undefined where it cannot be.
 */
export function shorterPrompt(messages: readonly Message[]): Message[] | undefined {
  const last = messages.at(-1);
  const content = last === undefined ? undefined : clipBlocks(last.content, Math.floor(last.content.length * shorterBy));
  return last === undefined || content === undefined ? undefined : [...messages.slice(0, -1), { ...last, content }];
}

function characters(messages: readonly Message[]): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}
