/**
 * ShareGPT: entries {id, conversations: [{from: human | gpt | system, value}]}, as one JSON array or JSONL. In circulation the list
 * is also called `items`, and turns are {from, text} or {role, content} too. The user is `user_id` or `user`; exports without either say nothing about who wrote what, so each entry is a user of its own.
 * Without a time of their own, entries are ordered as in the file.
 */
import { languageName } from "../language.js";
import { goldLabelOf, isRecord, listOf, textOf, timeOf } from "./source.js";
import type { RawMessage, Source } from "./source.js";

const timeColumns = ["timestamp", "create_time", "created_at", "date"] as const;
const roleColumns = ["from", "role"] as const;
const textColumns = ["value", "content", "text"] as const;
const roles: Record<string, string> = { human: "user", user: "user", gpt: "assistant", assistant: "assistant", chatgpt: "assistant", bing: "assistant", bard: "assistant", model: "assistant", system: "system" };

export const sharegpt: Source = {
  name: "sharegpt",
  about: "ShareGPT: conversations (or items) [{from: human | gpt | system, value}] or {from, text} or {role, content}; also id, user_id or user, timestamp, model, language (JSON, JSONL or Parquet)",
  required: ["conversations"],
  alias: { conversations: "items" },
  optional: ["id", "user_id", "user", ...timeColumns, "model", "language"],
  recognises: (values) => {
    // Entries without turns occur among the first ones too; they speak neither for nor against.
    const turn = values.map((value) => turnsOf(value)[0]).find((first) => first !== undefined);
    return turn === undefined || (isRecord(turn) && roleColumns.some((name) => name in turn) && textColumns.some((name) => name in turn));
  },
  async *convert(records) {
    let index = 0;
    for await (const { value, where } of records) {
      const id = textOf(value["id"]) || `entry-${index}`;
      const time = timeColumns.map((column) => timeOf(value[column])).find((ms) => ms !== null);
      yield {
        conversation_id: id,
        user_id: textOf(value["user_id"]) || textOf(value["user"]) || `entry:${id}`,
        time: time ?? index,
        model: textOf(value["model"]),
        language: languageName(textOf(value["language"])),
        flagged: false,
        context_messages: 0,
        other_authors: [],
        messages: turnsOf(value).map((message) => turnOf(message, where)),
        where,
      };
      index += 1;
    }
  },
};

function turnsOf(entry: Record<string, unknown>): unknown[] {
  return listOf(entry["conversations"] ?? entry["items"]);
}

function turnOf(value: unknown, where: string): RawMessage {
  const turn = isRecord(value) ? value : {};
  const of = (names: readonly string[]): unknown => turn[names.find((name) => name in turn) ?? ""];
  const from = textOf(of(roleColumns)).toLowerCase();
  return { role: roles[from] ?? from, content: of(textColumns), language: "", flagged: false, gold_label: goldLabelOf(turn["feedback_label"], where), time: null };
}
