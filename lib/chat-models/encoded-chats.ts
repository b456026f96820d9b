/**
 * Token ids of the chats last asked for: a prompt is counted, fitted to the context and then given to the engine, and its text is
 * encoded once for all three.
 */
import type { Message } from "../conversations/types.js";
import type { ChatTokenizer } from "../tokens/types.js";

/** Ids kept, over all chats; those longest unused go first. */
const keptTokens = 1 << 20;

export class EncodedChats {
  readonly #kept = new Map<string, readonly number[]>();
  #tokens = 0;

  constructor(readonly tokenizer: Pick<ChatTokenizer, "encodeChat">, readonly limit = keptTokens) {}

  /** Ids of the chat, ready for the answer. */
  ids(messages: readonly Message[]): readonly number[] {
    const key = JSON.stringify(messages.map(({ role, content }) => [role, content]));
    const known = this.#kept.get(key);
    if (known !== undefined) {
      // A Map keeps the order of insertion.
      this.#kept.delete(key);
      this.#kept.set(key, known);
      return known;
    }
    const ids = this.tokenizer.encodeChat(messages);
    this.#kept.set(key, ids);
    this.#tokens += ids.length;
    for (const [oldest, { length }] of this.#kept) {
      if (this.#tokens <= this.limit || oldest === key) break;
      this.#kept.delete(oldest);
      this.#tokens -= length;
    }
    return ids;
  }
}
