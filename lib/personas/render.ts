/** A persona as models see it: a short system message. */
import type { Message } from "../conversations/types.js";
import type { Persona } from "./types.js";

const opening = "What is known of this user from earlier conversations:";

/**
 * System message text of at most `maxWords` words; "" where there is no persona. Preferences that do not fit are left out
 * from the last; a summary that is itself too long is cut after a word.
 */
export function renderPersona(persona: Persona | null, maxWords: number): string {
  if (persona === null) return "";
  const preferences = persona.preferences.map(({ dimension, value }) => `- ${oneLine(dimension)}: ${oneLine(value)}`);
  const summary = oneLine(persona.summary);
  if (summary === "" && preferences.length === 0) return "";
  let budget = Math.max(1, maxWords - words(opening).length);
  const shown = words(summary).slice(0, budget);
  budget -= shown.length;
  const lines: string[] = [];
  for (const line of preferences) {
    budget -= words(line).length;
    if (budget < 0) break;
    lines.push(line);
  }
  return [opening, ...(shown.length === 0 ? [] : [shown.join(" ")]), ...lines].join("\n");
}

/** Persona before a conversation: a system message of its own, or ahead of the text of the one that is there. "" changes nothing. */
export function withPersona(messages: readonly Message[], persona: string): Message[] {
  const plain = messages.map(({ role, content }): Message => ({ role, content }));
  if (persona === "") return plain;
  const [first, ...rest] = plain;
  return first?.role === "system" ? [{ role: "system", content: `${persona}\n\n${first.content}` }, ...rest] : [{ role: "system", content: persona }, ...plain];
}

export function words(text: string): string[] {
  return text.split(/\s+/u).filter((word) => word !== "");
}

/** Model output kept to one line, without control characters and marks that turn the direction of what follows. */
export function oneLine(text: string): string {
  return text.replace(/[\u202A-\u202E\u2066-\u2069]/gu, "").replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, " ").trim();
}
