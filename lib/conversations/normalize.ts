/** From a raw conversation to one that every later stage can rely on: known roles that alternate, no empty message, clean text. */
import { guessLanguage } from "./language.js";
import type { SourceName } from "./sources/source.js";
import type { RawConversation } from "./sources/source.js";
import type { Conversation, LoggedMessage, Role } from "./types.js";

/** Why a conversation cannot be used. */
export type Malformation = "no_conversation_id" | "no_user_id" | "no_timestamp" | "unknown_role" | "no_request";

/** What was put right, one count a conversation. */
export const repairs = ["leading_answer_dropped", "later_system_message_dropped", "same_role_merged", "cut_at_empty_message", "cut_at_unknown_role", "characters_replaced"] as const;
export type Repair = (typeof repairs)[number];

export type Normalized = { conversation: Conversation; repairs: Repair[] } | { malformed: Malformation };

/**
 * Repairs: messages of one role in a row become one (a blank line between them); an answer before the first request and
 * system messages after the beginning are dropped; from the first message without text on, everything is cut off, since
 * what follows answers something nobody said. So it is at the first message of another role (a tool's result, a call of a
 * function): what follows rests on it, and it has no place in a chat. Lone surrogates and NUL, which no file format keeps, become U+FFFD.
 */
export function normalize(raw: RawConversation, source: SourceName): Normalized {
  if (raw.conversation_id === "") return { malformed: "no_conversation_id" };
  if (raw.user_id === "") return { malformed: "no_user_id" };
  if (raw.time === null) return { malformed: "no_timestamp" };
  const done = new Set<Repair>();
  if ([raw.conversation_id, raw.user_id, raw.model, raw.language, ...raw.other_authors].some(isUnclean)) done.add("characters_replaced");
  const kept = cutAtEmpty(merge(clean(raw, done), done), done);
  const context = kept.filter(({ last }) => last < raw.context_messages).length;
  const messages = kept.map(({ message }) => message);
  if (!messages.slice(context).some(({ role }) => role === "user")) return { malformed: done.has("cut_at_unknown_role") ? "unknown_role" : "no_request" };
  return {
    conversation: {
      conversation_id: cleanText(raw.conversation_id),
      user_id: cleanText(raw.user_id),
      timestamp: new Date(raw.time).toISOString(),
      ...spanOf(raw, raw.time),
      source,
      model: cleanText(raw.model),
      language: cleanText(raw.language) || guessLanguage(messages.slice(context).filter(({ role }) => role === "user").map(({ content }) => content).join("\n")),
      flagged: raw.flagged || raw.messages.some(({ flagged }) => flagged),
      messages,
      context_messages: context,
      other_authors: raw.other_authors.map(cleanText),
    },
    repairs: [...done],
  };
}

/** From the earliest to the latest time of the user's own part and the conversation; null where no message has a time. */
function spanOf(raw: RawConversation, time: number): { began: string | null; ended: string | null } {
  let [began, ended] = [Infinity, -Infinity];
  for (const message of raw.messages.slice(raw.context_messages)) {
    began = Math.min(began, message.time ?? Infinity);
    ended = Math.max(ended, message.time ?? -Infinity);
  }
  if (began === Infinity) return { began: null, ended: null };
  return { began: new Date(Math.min(began, time)).toISOString(), ended: new Date(Math.max(ended, time)).toISOString() };
}

/** `last`: index of the last raw message that went into this one. */
interface Placed {
  message: LoggedMessage;
  last: number;
}

function clean(raw: RawConversation, done: Set<Repair>): Placed[] {
  const placed: Placed[] = [];
  for (const [last, { role, content, language, flagged, gold_label }] of raw.messages.entries()) {
    if (role !== "user" && role !== "assistant" && role !== "system") {
      done.add("cut_at_unknown_role");
      break;
    }
    const begun = placed.some(({ message }) => message.role === "user");
    if (role === "assistant" && !begun) {
      done.add("leading_answer_dropped");
      continue;
    }
    if (role === "system" && begun) {
      done.add("later_system_message_dropped");
      continue;
    }
    if ([content, language].some((text) => typeof text === "string" && isUnclean(text))) done.add("characters_replaced");
    const message: LoggedMessage = { role: role satisfies Role, content: typeof content === "string" ? cleanText(content) : "", language: cleanText(language), flagged, gold_label };
    // An empty system message says nothing and orders nothing.
    if (role !== "system" || message.content.trim() !== "") placed.push({ message, last });
  }
  return placed;
}

function merge(placed: readonly Placed[], done: Set<Repair>): Placed[] {
  const merged: Placed[] = [];
  for (const { message, last } of placed) {
    const before = merged.at(-1);
    if (before === undefined || before.message.role !== message.role) {
      merged.push({ message: { ...message }, last });
      continue;
    }
    done.add("same_role_merged");
    before.last = last;
    before.message.content = [before.message.content, message.content].filter((text) => text.trim() !== "").join("\n\n");
    before.message.flagged ||= message.flagged;
    before.message.gold_label ??= message.gold_label;
  }
  return merged;
}

function cutAtEmpty(placed: readonly Placed[], done: Set<Repair>): readonly Placed[] {
  const empty = placed.findIndex(({ message }) => message.content.trim() === "");
  if (empty < 0) return placed;
  done.add("cut_at_empty_message");
  return placed.slice(0, empty);
}

/** What no file format keeps: lone surrogates (pairs are one character of another kind) and NUL. */
const unclean = /\p{Surrogate}|\0/u;
const everyUnclean = new RegExp(unclean, "gu");

function isUnclean(text: string): boolean {
  return unclean.test(text);
}

function cleanText(text: string): string {
  return text.replace(everyUnclean, "\uFFFD");
}
