/**
 * Prompts: fixed text with typed slots. Text from datasets goes in as data, never as instructions or as a template: every
 * such value stands between fences of backticks longer than any run of backticks in any value of the same prompt, so no
 * value can close its own fence, and templates are cut into parts once, at definition, so no value is ever parsed.
 */
import type { Message, Role } from "../conversations/types.js";
import { sha256 } from "../files.js";

/**
 * What a slot takes: `text` is one fenced block; `messages` one fenced block a message under the name of its role;
 * `number` and `trusted` (text of this program, never of a dataset or a model) go in as they are.
 */
export type SlotKind = "text" | "messages" | "number" | "trusted";

interface SlotValues {
  text: string;
  messages: readonly Message[];
  number: number;
  trusted: string;
}

export type PromptValues<Slots extends Record<string, SlotKind>> = { [Name in keyof Slots]: SlotValues[Slots[Name]] };

export interface PromptDefinition<Slots extends Record<string, SlotKind>> {
  /** The method's name for it, e.g. "feedback". */
  id: string;
  /** Raised with every change of the text. */
  version: number;
  /** `{{name}}` marks a slot; each slot must be used at least once. */
  messages: readonly { role: Role; text: string }[];
  slots: Slots;
  /** Every text of this program that a `trusted` slot may take: what the model reads changes with them, so they are part of the hash. */
  trustedTexts?: Readonly<Record<string, string>>;
}

export interface Prompt<Slots extends Record<string, SlotKind> = Record<string, SlotKind>> {
  readonly id: string;
  readonly version: number;
  /** 16 hex digits over id, version, text and trusted texts: goes into every record made with this prompt. */
  readonly hash: string;
  render(values: PromptValues<Slots>): Message[];
}

/** What a slot shows for a value without any text. */
const nothing = "(nothing)";
/** Part of the hash: how values are put in is part of what the model sees. */
const rendering = "fence-1";

/** Throws where a slot is unknown or unused: mistakes of the program, found at start. */
export function definePrompt<const Slots extends Record<string, SlotKind>>(definition: PromptDefinition<Slots>): Prompt<Slots> {
  const { id, version, messages, slots, trustedTexts } = definition;
  const templates = messages.map(({ role, text }) => ({ role, parts: cut(id, text, slots) }));
  const used = new Set(templates.flatMap(({ parts }) => parts.filter((_, i) => i % 2 === 1)));
  for (const name of Object.keys(slots)) {
    if (!used.has(name)) throw new Error(`prompt ${id}: slot ${name} is not used`);
  }
  return {
    id,
    version,
    hash: sha256(JSON.stringify([rendering, id, version, messages, ...(trustedTexts === undefined ? [] : [trustedTexts])])).slice(0, 16),
    render(values) {
      const fence = fenceFor(Object.entries(slots).flatMap(([name, kind]) => dataTexts(kind, values[name])));
      return templates.map(({ role, parts }) => ({
        role,
        content: parts.map((part, i) => (i % 2 === 0 ? part : fill(slots[part] as SlotKind, values[part], fence))).join(""),
      }));
    },
  };
}

/** Even entries are fixed text, odd ones names of slots. */
function cut(id: string, text: string, slots: Record<string, SlotKind>): string[] {
  const parts = text.split(/\{\{(\w+)\}\}/);
  for (let i = 1; i < parts.length; i += 2) {
    if (slots[parts[i] as string] === undefined) throw new Error(`prompt ${id}: no slot ${parts[i]}`);
  }
  return parts;
}

function dataTexts(kind: SlotKind, value: unknown): string[] {
  if (kind === "text") return [value as string];
  if (kind === "messages") return (value as readonly Message[]).map(({ content }) => content);
  return [];
}

/** At least three backticks, and one more than the longest run in any of the texts. */
export function fenceFor(texts: readonly string[]): string {
  let longest = 2;
  for (const text of texts) {
    for (const [run] of text.matchAll(/`+/g)) longest = Math.max(longest, run.length);
  }
  return "`".repeat(longest + 1);
}

function fill(kind: SlotKind, value: unknown, fence: string): string {
  const block = (text: string): string => `${fence}\n${text === "" ? nothing : text}\n${fence}`;
  if (kind === "text") return block(value as string);
  if (kind === "messages") {
    const messages = value as readonly Message[];
    return messages.length === 0 ? nothing : messages.map(({ role, content }) => `${role}:\n${block(content)}`).join("\n");
  }
  return String(value);
}

/** A block of fewer characters is not made shorter. */
const shortestBlock = 40;

/**
 * A rendered prompt in at most `max` characters: the longest of its fenced blocks lose their middles, a quarter at a time, and the
 * rest stays as it is. undefined where there are no blocks, or they have too little to give.
 */
export function clipBlocks(prompt: string, max: number): string | undefined {
  // No value holds a run of backticks as long as the fence: the longest run is the fence, and alone on its line.
  const fence = [...prompt.matchAll(/`{3,}/g)].reduce((longest, [run]) => (run.length > longest.length ? run : longest), "");
  const parts = prompt.split(`\n${fence}\n`);
  if (fence === "" || parts.length < 3 || parts.length % 2 === 0) return undefined;
  let length = prompt.length;
  while (length > max) {
    const longest = parts.reduce((best, part, i) => (i % 2 === 1 && part.length > (parts[best] as string).length ? i : best), 1);
    const block = parts[longest] as string;
    if (block.length < shortestBlock) return undefined;
    const clipped = clip(block, Math.floor(block.length * 0.75));
    length -= block.length - clipped.length;
    parts[longest] = clipped;
  }
  return parts.join(`\n${fence}\n`);
}

/** At most `max` characters (never half of a surrogate pair): the beginning and the end, with a mark where the middle went. */
export function clip(text: string, max: number): string {
  if (text.length <= max) return text;
  const mark = " […] ";
  const keep = Math.max(0, max - mark.length);
  const head = Math.ceil(keep * 0.6);
  const tail = text.length - (keep - head);
  const startsInPair = /[\uDC00-\uDFFF]/.test(text.charAt(tail));
  const endsInPair = /[\uD800-\uDBFF]/.test(text.charAt(head - 1));
  return text.slice(0, endsInPair ? head - 1 : head) + mark + text.slice(startsInPair ? tail + 1 : tail);
}
