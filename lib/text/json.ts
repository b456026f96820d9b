/**
 * JSON as language models write it: in code fences, with words around it, single quotes, bare keys, missing or extra
 * commas, and cut off in the middle. What is cut off is closed; nothing is invented.
 */

/** The first object or array of the text, or undefined where there is none. Strict JSON is read strictly. */
export function parseJsonLoosely(text: string): unknown {
  const start = text.search(/[{[]/);
  if (start < 0) return undefined;
  const end = Math.max(text.lastIndexOf("}"), text.lastIndexOf("]"));
  if (end > start) {
    try {
      return JSON.parse(text.slice(start, end + 1));
    } catch {
      // Read loosely below.
    }
  }
  return new LooseReader(text, start).value(0);
}

/** Deeper than any answer asked for; keeps hostile text from exhausting the stack. */
const deepest = 64;
const escapes: Record<string, string> = { n: "\n", t: "\t", r: "\r", b: "\b", f: "\f" };

class LooseReader {
  constructor(readonly text: string, private at: number) {}

  value(depth: number): unknown {
    this.#skip(/[\s,]/);
    const char = this.text[this.at];
    if (depth < deepest && char === "{") return this.#object(depth);
    if (depth < deepest && char === "[") return this.#array(depth);
    if (char === '"' || char === "'" || char === "“") return this.#string(char === "“" ? "”" : char);
    return this.#bare();
  }

  #object(depth: number): Record<string, unknown> {
    const entries = new Map<string, unknown>();
    this.at += 1;
    for (;;) {
      this.#skip(/[\s,]/);
      const char = this.text[this.at];
      if (char === undefined || char === "}" || char === "]") break;
      const key = char === '"' || char === "'" ? this.#string(char) : this.#take(/[^\s:,{}[\]"]/);
      this.#skip(/\s/);
      if (this.text[this.at] !== ":") {
        // No value: a stray word, or the text ends here.
        if (key === "") this.at += 1;
        continue;
      }
      this.at += 1;
      this.#skip(/\s/);
      if (this.at >= this.text.length) break;
      entries.set(key, this.value(depth + 1));
    }
    if (this.text[this.at] === "}") this.at += 1;
    return Object.fromEntries(entries);
  }

  #array(depth: number): unknown[] {
    const items: unknown[] = [];
    this.at += 1;
    for (;;) {
      this.#skip(/[\s,]/);
      const char = this.text[this.at];
      if (char === undefined || char === "]" || char === "}") break;
      const before = this.at;
      items.push(this.value(depth + 1));
      if (this.at === before) this.at += 1;
    }
    if (this.text[this.at] === "]") this.at += 1;
    return items;
  }

  /** Up to the closing quote; a text that ends before it is taken as far as it goes. */
  #string(quote: string): string {
    let out = "";
    for (this.at += 1; this.at < this.text.length; this.at += 1) {
      const char = this.text[this.at] as string;
      if (char === "\\") out += this.#escape();
      else if (char === quote && this.#closes(quote)) {
        this.at += 1;
        return out;
      } else out += char;
    }
    return out;
  }

  /** An apostrophe inside a single-quoted text does not end it. */
  #closes(quote: string): boolean {
    return quote !== "'" || /^\s*([,:}\]]|$)/.test(this.text.slice(this.at + 1, this.at + 20));
  }

  #escape(): string {
    this.at += 1;
    const char = this.text[this.at] ?? "";
    if (char !== "u") return escapes[char] ?? char;
    const digits = this.text.slice(this.at + 1, this.at + 5);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) return "u";
    this.at += 4;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #bare(): unknown {
    const word = this.#take(/[^,{}[\]\n]/).trim();
    if (word === "true") return true;
    if (word === "false") return false;
    if (word === "null" || word === "") return null;
    const number = Number(word);
    return Number.isNaN(number) ? word : number;
  }

  #take(allowed: RegExp): string {
    const start = this.at;
    this.#skip(allowed);
    return this.text.slice(start, this.at);
  }

  #skip(skipped: RegExp): void {
    while (this.at < this.text.length && skipped.test(this.text[this.at] as string)) this.at += 1;
  }
}
