/** The plain form for anybody's own logs: one object a conversation, {user_id, conversation_id, timestamp, messages: [{role, content, timestamp?}]}. */
import { languageName } from "../language.js";
import { listOf, messageOf, textOf, timeOf } from "./source.js";
import type { Source } from "./source.js";

export const messages: Source = {
  name: "messages",
  about: "plain: user_id, conversation_id, timestamp, messages [{role, content}]; also model, language, flagged (JSONL, JSON or Parquet)",
  required: ["user_id", "conversation_id", "timestamp", "messages"],
  optional: ["model", "language", "flagged"],
  async *convert(records) {
    for await (const { value, where } of records) {
      yield {
        conversation_id: textOf(value["conversation_id"]),
        user_id: textOf(value["user_id"]),
        time: timeOf(value["timestamp"]),
        model: textOf(value["model"]),
        language: languageName(textOf(value["language"])),
        flagged: value["flagged"] === true,
        context_messages: 0,
        other_authors: [],
        messages: listOf(value["messages"]).map((message) => messageOf(message, where)),
        where,
      };
    }
  },
};
