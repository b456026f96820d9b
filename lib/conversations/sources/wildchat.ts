/**
 * WildChat-1M (allenai/WildChat-1M): one row a conversation, as Parquet or as JSONL with the same columns. The user is
 * `hashed_ip`, as the data set's card suggests; an address shared by several people makes them one user, and one person
 * with several addresses several users. Redacted text is kept as it is. A row's timestamp is that of its last answer; when it
 * began is known by its first answer, since only answers have a time.
 */
import { languageName } from "../language.js";
import { isRecord, listOf, messageOf, textOf, timeOf } from "./source.js";
import type { Source } from "./source.js";

export const wildchat: Source = {
  name: "wildchat",
  about: "WildChat-1M: conversation_hash, hashed_ip, timestamp, conversation [{role, content, language, toxic, timestamp}], toxic, openai_moderation [{flagged}] (Parquet or JSONL)",
  required: ["conversation_hash", "conversation", "hashed_ip", "timestamp"],
  optional: ["model", "language", "toxic", "openai_moderation"],
  parquet: {
    conversation: "list_transform(conversation, lambda m: {'role': m.role, 'content': m.content, 'language': m.language, 'toxic': m.toxic, 'timestamp': m.timestamp})",
    openai_moderation: "list_transform(openai_moderation, lambda m: {'flagged': m.flagged})",
  },
  async *convert(records) {
    for await (const { value, where } of records) {
      const moderated = listOf(value["openai_moderation"]).some((verdict) => isRecord(verdict) && verdict["flagged"] === true);
      yield {
        conversation_id: textOf(value["conversation_hash"]),
        user_id: textOf(value["hashed_ip"]),
        time: timeOf(value["timestamp"]),
        model: textOf(value["model"]),
        language: languageName(textOf(value["language"])),
        flagged: value["toxic"] === true || moderated,
        context_messages: 0,
        other_authors: [],
        messages: listOf(value["conversation"]).map((message) => messageOf(message, where)),
        where,
      };
    }
  },
};
