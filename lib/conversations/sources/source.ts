/** What an adapter of one kind of log files is: it says which columns it knows and turns records into raw conversations. */
import { RlhiError } from "../../errors.js";
import { languageName } from "../language.js";
import { feedbackLabels } from "../types.js";
import type { FeedbackLabel } from "../types.js";

export const sourceNames = ["wildchat", "oasst", "sharegpt", "messages"] as const;
export type SourceName = (typeof sourceNames)[number];

/** A row of Parquet or an object of JSON, not yet trusted to hold what it should; `where` is for errors. */
export interface SourceRecord {
  value: Record<string, unknown>;
  /** "chats.jsonl:12" or "part.parquet row 12". */
  where: string;
}

/** As the source has it: any role, any content, any order. */
export interface RawMessage {
  role: unknown;
  content: unknown;
  language: string;
  flagged: boolean;
  gold_label: FeedbackLabel | null;
  /** Milliseconds since 1970; null where the message has no time of its own. */
  time: number | null;
}

export interface RawConversation {
  conversation_id: string;
  user_id: string;
  /** Milliseconds since 1970, or null where it is missing or unreadable. */
  time: number | null;
  model: string;
  language: string;
  flagged: boolean;
  context_messages: number;
  /** Ids of everybody but the user who wrote any of the messages. */
  other_authors: string[];
  messages: RawMessage[];
  where: string;
}

/** Counts of what a source left out or met, by name: they stand in the stage's facts. */
export class Notes {
  readonly counts: Record<string, number> = {};
  add(name: string, n = 1): void {
    this.counts[name] = (this.counts[name] ?? 0) + n;
  }
}

export interface Source {
  name: SourceName;
  /** One line for errors and docs: the form of the files. */
  about: string;
  /** Top-level columns a file must have. */
  required: readonly string[];
  /** Another name that a required column may go by. */
  alias?: Readonly<Record<string, string>>;
  /** Top-level columns used where they are there. */
  optional: readonly string[];
  /** Parquet: smaller SQL for a column, used where it fits the file's own types. */
  parquet?: Readonly<Record<string, string>>;
  /** A closer look at the first records, where the required columns alone would not tell this source from others. */
  recognises?(values: readonly Record<string, unknown>[]): boolean;
  convert(records: AsyncIterable<SourceRecord>, notes: Notes): AsyncIterable<RawConversation>;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Text of an id or a name: numbers count, null and the rest are "". */
export function textOf(value: unknown): string {
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "bigint" ? String(value) : "";
}

/**
 * Milliseconds since 1970 of: ISO 8601, with or without zone (then UTC); DuckDB's "2023-11-22 05:52:55+00"; a number of
 * seconds or, from 1e11 on, of milliseconds; null for anything else.
 */
export function timeOf(value: unknown): number | null {
  if (typeof value === "number") return inRange(value < 1e11 ? value * 1000 : value);
  if (typeof value !== "string") return null;
  const text = value.trim();
  if (/^\d{9,16}(\.\d+)?$/.test(text)) return timeOf(Number(text));
  const parts = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?))?\s*(Z|[+-]\d{2}(?::?\d{2})?|UTC)?$/i.exec(text);
  if (parts === null) return null;
  const [, day, clock = "00:00:00", zone = "Z"] = parts;
  const digits = zone.replace(":", "");
  const offset = /^[+-]/.test(digits) ? `${digits.slice(0, 3)}:${digits.slice(3) || "00"}` : "Z";
  return inRange(Date.parse(`${day}T${clock.replace(/(\.\d{3})\d+$/, "$1")}${offset}`));
}

function inRange(ms: number): number | null {
  return Number.isFinite(ms) && Math.abs(ms) < 8.64e15 ? Math.trunc(ms) : null;
}

/** The author's label of a follow-up; throws for a word that is none. */
export function goldLabelOf(value: unknown, where: string): FeedbackLabel | null {
  if (value === undefined || value === null || value === "") return null;
  if ((feedbackLabels as readonly unknown[]).includes(value)) return value as FeedbackLabel;
  throw new RlhiError("ERR_INVALID_FILE", {
    what: "an unknown feedback_label",
    where,
    expected: feedbackLabels.join(", "),
    found: JSON.stringify(value),
    todo: "correct the label, or remove it",
  });
}

/** A message of {role, content, timestamp} form with what else is known of it. */
export function messageOf(value: unknown, where: string): RawMessage {
  const fields = isRecord(value) ? value : {};
  return {
    role: fields["role"],
    content: fields["content"],
    language: languageName(textOf(fields["language"])),
    flagged: fields["toxic"] === true || fields["flagged"] === true,
    gold_label: goldLabelOf(fields["feedback_label"], where),
    time: timeOf(fields["timestamp"]),
  };
}

/** The list of messages, or none where the value is no list: such a conversation is counted as malformed later. */
export function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
