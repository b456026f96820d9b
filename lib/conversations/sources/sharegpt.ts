/**
 * ShareGPT: entries {id, conversations: [{from: human | gpt | system, value}]}, as one JSON array or JSONL. The user is
 * `user_id` or `user`; exports without either say nothing about who wrote what, so each entry is a user of its own.
 * Without a time of their own, entries are ordered as in the file.
 */
import { languageName } from "../language.js";
import { goldLabelOf, isRecord, listOf, textOf, timeOf } from "./source.js";
import type { RawMessage, Source } from "./source.js";

const timeColumns = ["timestamp", "create_time", "created_at", "date"] as const;
const roles: Record<string, string> = { human: "user", user: "user", gpt: "assistant", assistant: "assistant", chatgpt: "assistant", bing: "assistant", bard: "assistant", model: "assistant", system: "system" };

export const sharegpt: Source = {
  name: "sharegpt",
  about: "ShareGPT: conversations [{from: human | gpt | system, value}]; also id, user_id or user, timestamp, model, language (JSON, JSONL or Parquet)",
  required: ["conversations"],
  optional: ["id", "user_id", "user", ...timeColumns, "model", "language"],
  recognises: (value) => {
    const [first] = listOf(value["conversations"]);
    return isRecord(first) && "from" in first && "value" in first;
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
        messages: listOf(value["conversations"]).map((message) => turnOf(message, where)),
        where,
      };
      index += 1;
    }
  },
};

function turnOf(value: unknown, where: string): RawMessage {
  const turn = isRecord(value) ? value : {};
  const from = textOf(turn["from"]).toLowerCase();
  return { role: roles[from] ?? from, content: turn["value"], language: "", flagged: false, gold_label: goldLabelOf(turn["feedback_label"], where), time: null };
}
