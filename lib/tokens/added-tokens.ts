/** Added tokens found in text: leftmost, then longest, as Hugging Face tokenizers finds them. */
import type { AddedTokenJson } from "./tokenizer-json.js";

/** A stretch of ordinary text, or one added token (`text` is then what it matched). */
export interface Section {
  text: string;
  id: number | null;
}

export class AddedTokens {
  readonly #byText: Map<string, AddedTokenJson>;
  readonly #pattern: RegExp | null;

  constructor(tokens: readonly AddedTokenJson[]) {
    const kept = tokens.filter((token) => token.content !== "");
    this.#byText = new Map(kept.map((token) => [token.content, token]));
    const longestFirst = [...this.#byText.keys()].sort((a, b) => b.length - a.length);
    this.#pattern = longestFirst.length === 0 ? null : new RegExp(longestFirst.map(escapeRegExp).join("|"), "gu");
  }

  split(text: string): Section[] {
    if (this.#pattern === null) return text === "" ? [] : [{ text, id: null }];
    const sections: Section[] = [];
    let from = 0;
    for (const match of text.matchAll(this.#pattern)) {
      const token = this.#byText.get(match[0]);
      if (token === undefined || match.index < from) continue;
      let start = match.index;
      let end = start + match[0].length;
      if (token.single_word === true && (isWordBefore(text, start) || isWordAfter(text, end))) continue;
      // A token may take the white space around it.
      if (token.lstrip === true) start = from + text.slice(from, start).trimEnd().length;
      if (token.rstrip === true) end = text.length - text.slice(end).trimStart().length;
      if (start > from) sections.push({ text: text.slice(from, start), id: null });
      sections.push({ text: token.content, id: token.id });
      from = end;
    }
    if (from < text.length) sections.push({ text: text.slice(from), id: null });
    return sections;
  }
}

// Two UTF-16 units hold the neighbouring character, whatever it is.
const isWordBefore = (text: string, at: number): boolean => /[\p{L}\p{N}\p{M}\p{Pc}]$/u.test(text.slice(Math.max(0, at - 2), at));
const isWordAfter = (text: string, at: number): boolean => /^[\p{L}\p{N}\p{M}\p{Pc}]/u.test(text.slice(at, at + 2));

export function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
}
