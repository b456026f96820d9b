/** Pairs and chats as users give them to `logps`, `train` and `generate`. Errors name the file, the row and the field. */
import type { Message } from "../conversations/types.js";
import { RlhiError } from "../errors.js";
import type { PairRow } from "./arrow.js";
import { isTooLong, tokenizePair } from "./pair-tokens.js";
import type { ConversationalPair, PairTokens } from "./pair-tokens.js";
import { readRecords } from "./records.js";
import type { ChatTokenizer } from "./types.js";

export interface DataPair {
  index: number;
  where: string;
  id: string;
  held_out: boolean;
  content: { kind: "ids"; ids: PairTokens } | { kind: "chat"; chat: ConversationalPair };
}

export type DataChat = { index: number; where: string } & ({ kind: "ids"; ids: number[] } | { kind: "chat"; messages: Message[] });

const pairForms = "prompt_ids, chosen_ids, rejected_ids (arrays of token ids), or prompt (messages) with chosen and rejected (a list of one assistant message, or its text)";

export async function* readPairs(path: string): AsyncGenerator<DataPair> {
  for await (const { index, value, where } of readRecords(path)) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(where, undefined, pairForms, value);
    const record = value as Record<string, unknown>;
    const { id, held_out } = record;
    if (held_out !== undefined && held_out !== null && typeof held_out !== "boolean") throw invalid(where, "held_out", "true or false", held_out);
    const content = isIds(record["prompt_ids"] ?? record["prompt"])
      ? { kind: "ids" as const, ids: pairIds(record, where) }
      : { kind: "chat" as const, chat: pairChat(record, where) };
    yield { index, where, id: typeof id === "string" ? id : String(index), held_out: held_out === true, content };
  }
}

/** An array that does not hold messages is meant as ids, so that errors speak of ids. */
function isIds(value: unknown): value is unknown[] {
  return Array.isArray(value) && (value.length === 0 || typeof value[0] !== "object");
}

function pairIds(record: Record<string, unknown>, where: string): PairTokens {
  const list = (name: string): number[] => {
    const field = `${name}_ids` in record ? `${name}_ids` : name;
    return tokenIds(record[field], where, field);
  };
  return { prompt_ids: list("prompt"), chosen_ids: list("chosen"), rejected_ids: list("rejected") };
}

function tokenIds(value: unknown, where: string, field: string | undefined): number[] {
  if (!Array.isArray(value)) throw invalid(where, field, "an array of token ids", value);
  if (value.length === 0) throw invalid(where, field, "at least one token id", value);
  const bad = value.findIndex((id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) > 0x7fffffff);
  if (bad >= 0) throw invalid(where, field === undefined ? `[${bad}]` : `${field}[${bad}]`, "a token id (a whole number from 0)", value[bad]);
  return value as number[];
}

function pairChat(record: Record<string, unknown>, where: string): ConversationalPair {
  if (!("prompt" in record)) throw invalid(where, "prompt", pairForms, record);
  return { prompt: promptMessages(record["prompt"], where, "prompt"), chosen: answerText(record["chosen"], where, "chosen"), rejected: answerText(record["rejected"], where, "rejected") };
}

function answerText(value: unknown, where: string, field: string): string {
  if (typeof value === "string") return value;
  const form = "a list of one assistant message {role, content}, or the answer's text";
  if (!Array.isArray(value) || value.length !== 1) throw invalid(where, field, form, value);
  const message = toMessage(value[0], where, `${field}[0]`);
  if (message.role !== "assistant") throw invalid(where, `${field}[0].role`, '"assistant"', message.role);
  return message.content;
}

/** Messages that an answer can follow: the last one is the user's. */
function promptMessages(value: unknown, where: string, field: string | undefined): Message[] {
  if (!Array.isArray(value) || value.length === 0) throw invalid(where, field, "a list of messages {role, content}", value);
  const name = field ?? "";
  const messages = value.map((item, index) => toMessage(item, where, `${name}[${index}]`));
  if (messages.at(-1)?.role !== "user") throw invalid(where, `${name}[${messages.length - 1}].role`, '"user": the answer follows the last message', messages.at(-1)?.role);
  return messages;
}

function toMessage(value: unknown, where: string, field: string): Message {
  if (typeof value !== "object" || value === null) throw invalid(where, field, "a message {role, content}", value);
  const { role, content } = value as Record<string, unknown>;
  if (role !== "system" && role !== "user" && role !== "assistant") throw invalid(where, `${field}.role`, '"system", "user" or "assistant"', role);
  if (typeof content !== "string") throw invalid(where, `${field}.content`, "text", content);
  return { role, content };
}

function invalid(where: string, field: string | undefined, expected: string, found: unknown): RlhiError {
  const shown = found === undefined ? "nothing" : (JSON.stringify(found) ?? typeof found);
  return new RlhiError("ERR_INVALID_DATA", {
    what: field === undefined ? "not what was expected" : `field ${field} is not what was expected`,
    where,
    expected,
    found: shown.length > 80 ? `${shown.slice(0, 80)}…` : shown,
    todo: "correct that row and try again",
  });
}

export async function* readChats(path: string): AsyncGenerator<DataChat> {
  for await (const { index, value, where } of readRecords(path)) {
    if (!Array.isArray(value)) throw invalid(where, undefined, "a chat: an array of messages {role, content}, or an array of token ids", value);
    yield isIds(value) ? { index, where, kind: "ids", ids: tokenIds(value, where, undefined) } : { index, where, kind: "chat", messages: promptMessages(value, where, undefined) };
  }
}

export interface TokenLimits {
  vocabSize: number;
  /** Prompt and the longer answer. */
  maxTokens: number;
  /** What the limit is: "--max-length" or "the model's context". */
  limitName: string;
}

/** The pair's ids: as they are given, or by tokenizer and chat template. Throws ERR_TOO_LONG where an answer would have to be cut. */
export function pairRow(pair: DataPair, tokenizer: () => ChatTokenizer, limits: TokenLimits): PairRow {
  const { id, held_out, where, content } = pair;
  if (content.kind === "ids") {
    checkIds(content.ids, limits, where);
    return { id, held_out, ...content.ids };
  }
  const tokens = tokenizePair(tokenizer(), content.chat, limits.maxTokens);
  if (isTooLong(tokens)) throw tooLong(where, tokens.tokens, limits, "the answers, the persona and the last request alone take");
  return { id, held_out, prompt_ids: tokens.prompt_ids, chosen_ids: tokens.chosen_ids, rejected_ids: tokens.rejected_ids };
}

function checkIds(ids: PairTokens, limits: TokenLimits, where: string): void {
  for (const [field, list] of Object.entries(ids) as [string, number[]][]) checkVocabulary(list, limits.vocabSize, where, field);
  const tokens = ids.prompt_ids.length + Math.max(ids.chosen_ids.length, ids.rejected_ids.length);
  if (tokens > limits.maxTokens) throw tooLong(where, tokens, limits, "prompt and longer answer take");
}

export function checkVocabulary(ids: readonly number[], vocabSize: number, where: string, field?: string): void {
  const outside = ids.findIndex((id) => id >= vocabSize);
  if (outside >= 0) throw invalid(where, field === undefined ? `[${outside}]` : `${field}[${outside}]`, `a token id below the model's ${vocabSize}`, ids[outside]);
}

function tooLong(where: string, tokens: number, limits: TokenLimits, what: string): RlhiError {
  return new RlhiError("ERR_TOO_LONG", {
    what: `the pair is too long: ${what} ${tokens} tokens`,
    where,
    expected: `at most ${limits.maxTokens} (${limits.limitName})`,
    found: `${tokens} tokens`,
    todo: "leave the pair out or shorten its answers: an answer is never cut",
  });
}

/** `tokens`: prompt plus the longest answer that may come. */
export function checkFits(tokens: number, context: number, where: string): void {
  if (tokens <= context) return;
  throw new RlhiError("ERR_TOO_LONG", {
    what: "the chat and its answer do not fit into the model's context",
    where,
    expected: `at most ${context} tokens`,
    found: `${tokens} with --max-new-tokens`,
    todo: "shorten the chat or lower --max-new-tokens",
  });
}
