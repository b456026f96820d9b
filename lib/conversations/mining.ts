/** Mining: from log files to conversations.parquet, with a count of what every filter dropped. */
import type { RunConfig } from "../config.js";
import { RlhiError } from "../errors.js";
import { silent } from "../progress.js";
import type { Progress } from "../progress.js";
import type { Database } from "./duckdb.js";
import { languageName } from "./language.js";
import { normalize } from "./normalize.js";
import type { Malformation, Repair } from "./normalize.js";
import { countAllRecords, openSources, readSources } from "./sources/index.js";
import type { SourceFile } from "./sources/index.js";
import { Notes } from "./sources/source.js";
import { isHeldOut } from "./split.js";
import { ConversationStore } from "./store.js";
import { userTurns } from "./types.js";
import type { Conversation } from "./types.js";

export type DataSettings = RunConfig["data"];

/** Why a conversation was dropped, in the order in which the filters run: each counts what the ones before it left. */
export const miningFilters = [
  "malformed", "flagged", "language", "short_request", "long_message", "duplicate", "few_conversations", "max_conversations_per_user", "max_users",
] as const;
export type MiningFilter = (typeof miningFilters)[number];

export interface MiningFacts {
  files: { file: string; source: string }[];
  /** Conversations in the files. */
  read: number;
  dropped: Record<MiningFilter, number>;
  /** What is left. */
  conversations: number;
  users: number;
  held_out_users: number;
  follow_ups: number;
  /** Conversations by language. */
  languages: Record<string, number>;
  /** Kinds of malformed conversations, of repaired ones (before later filters), of cut ones, and what a source itself left out. */
  malformed: Partial<Record<Malformation, number>>;
  repaired: Partial<Record<Repair, number>>;
  shortened: number;
  source_notes: Record<string, number>;
}

export interface MineOptions {
  progress?: Progress | undefined;
  signal?: AbortSignal | undefined;
  /** More facts to keep in the file, e.g. a fingerprint of inputs and settings. */
  extra?: Record<string, unknown> | undefined;
}

/**
 * Mines the files of `settings.path` into `out` (Parquet, ordered by user, then time). The same files and settings give
 * the same bytes. Throws where nothing is left, with the funnel; `out` is then as it was before.
 */
export async function mine(settings: DataSettings, out: string, options: MineOptions = {}): Promise<MiningFacts> {
  const files = await openSources([settings.path].flat(), settings.source);
  const store = await ConversationStore.create(out);
  try {
    const facts = await collect(files, settings, store, options);
    store.endAdding();
    await selectUsers(store.database, settings, facts);
    options.signal?.throwIfAborted();
    await countKept(store.database, settings, facts);
    if (facts.conversations === 0) throw nothingLeft(files, settings, facts);
    await store.write("keep", { ...facts, ...options.extra });
    return facts;
  } finally {
    store.close();
  }
}

/** Reads everything, repairs it and applies the filters that look at one conversation alone. */
async function collect(files: readonly SourceFile[], settings: DataSettings, store: ConversationStore, options: MineOptions): Promise<MiningFacts> {
  const progress = options.progress ?? silent;
  const notes = new Notes();
  const facts = emptyFacts(files, notes);
  progress.start("reading conversations", await countAllRecords(files));
  for await (const { source, raw } of readSources(files, notes, () => progress.advance())) {
    options.signal?.throwIfAborted();
    facts.read += 1;
    const normalized = normalize(raw, source);
    if ("malformed" in normalized) {
      facts.dropped.malformed += 1;
      facts.malformed[normalized.malformed] = (facts.malformed[normalized.malformed] ?? 0) + 1;
      continue;
    }
    for (const repair of normalized.repairs) facts.repaired[repair] = (facts.repaired[repair] ?? 0) + 1;
    const conversation = shorten(normalized.conversation, settings.max_messages);
    if (conversation !== normalized.conversation) facts.shortened += 1;
    const filter = filterOf(conversation, settings);
    if (filter === undefined) store.add(conversation);
    else facts.dropped[filter] += 1;
  }
  progress.stop();
  return facts;
}

function emptyFacts(files: readonly SourceFile[], notes: Notes): MiningFacts {
  return {
    files: files.map(({ path, source }) => ({ file: path, source: source.name })),
    read: 0,
    dropped: Object.fromEntries(miningFilters.map((name) => [name, 0])) as Record<MiningFilter, number>,
    conversations: 0, users: 0, held_out_users: 0, follow_ups: 0,
    languages: {}, malformed: {}, repaired: {}, shortened: 0, source_notes: notes.counts,
  };
}

/** At most `max` messages, but never without the user's own first one. */
function shorten(conversation: Conversation, max: number): Conversation {
  const least = (userTurns(conversation)[0] ?? 0) + 1;
  const length = Math.max(max, least);
  return conversation.messages.length <= length ? conversation : { ...conversation, messages: conversation.messages.slice(0, length) };
}

function filterOf(conversation: Conversation, settings: DataSettings): MiningFilter | undefined {
  const { messages, flagged, language } = conversation;
  const first = messages[userTurns(conversation)[0] ?? 0];
  if (flagged && !settings.include_flagged) return "flagged";
  const wanted = settings.languages.map((name) => languageName(name).toLowerCase());
  if (wanted.length > 0 && !wanted.includes(language.toLowerCase())) return "language";
  if ((first?.content.trim().length ?? 0) < settings.min_message_chars) return "short_request";
  return messages.some(({ content }) => content.length > settings.max_message_chars) ? "long_message" : undefined;
}

/** The filters that compare conversations; leaves table `keep` (seq, user_id). Only narrow columns are sorted here. */
async function selectUsers(database: Database, settings: DataSettings, facts: MiningFacts): Promise<void> {
  const step = async (filter: MiningFilter, query: string): Promise<void> => {
    const before = await countOf(database, "keep");
    await database.run(`CREATE OR REPLACE TABLE keep AS ${query}`);
    facts.dropped[filter] = before - await countOf(database, "keep");
  };
  await database.run("CREATE TABLE keep AS SELECT seq, user_id, time_ms, conversation_id, content_hash FROM staged");
  // Of equal conversations the earliest stays, whoever had it.
  await step("duplicate", "SELECT * FROM keep QUALIFY row_number() OVER (PARTITION BY content_hash ORDER BY time_ms, seq) = 1");
  await step("few_conversations", `SELECT * FROM keep QUALIFY count(*) OVER (PARTITION BY user_id) >= ${settings.min_conversations}`);
  if (settings.max_conversations_per_user > 0) {
    await step("max_conversations_per_user", `SELECT * FROM keep QUALIFY row_number()
      OVER (PARTITION BY user_id ORDER BY time_ms DESC, conversation_id DESC, seq DESC) <= ${settings.max_conversations_per_user}`);
  }
  if (settings.max_users > 0) {
    // Another hash than the held-out users': otherwise the first users would all be held out.
    await step("max_users", `SELECT * FROM keep WHERE user_id IN (SELECT user_id FROM (SELECT DISTINCT user_id FROM keep) ORDER BY sha256('max-users ' || user_id) LIMIT ${settings.max_users})`);
  }
}

async function countOf(database: Database, table: string): Promise<number> {
  const [row] = await database.rows<{ n: bigint }>(`SELECT count(*) AS n FROM ${table}`);
  return Number(row?.n ?? 0);
}

async function countKept(database: Database, settings: DataSettings, facts: MiningFacts): Promise<void> {
  const languages = await database.rows<{ language: string; n: bigint; follow_ups: bigint }>(
    "SELECT language, count(*) AS n, sum(follow_ups)::BIGINT AS follow_ups FROM staged WHERE seq IN (SELECT seq FROM keep) GROUP BY language ORDER BY n DESC, language");
  for (const { language, n, follow_ups } of languages) {
    facts.languages[language || "unknown"] = Number(n);
    facts.conversations += Number(n);
    facts.follow_ups += Number(follow_ups);
  }
  for (const { user_id } of await database.rows<{ user_id: string }>("SELECT DISTINCT user_id FROM keep")) {
    facts.users += 1;
    if (isHeldOut(user_id, settings.held_out)) facts.held_out_users += 1;
  }
}

/** What each setting would have to be changed for, so that the failure says how to go on. */
const remedies: Record<MiningFilter, string> = {
  malformed: "check the files: a conversation needs an id, a user, a readable time, and a request before any role other than system, user and assistant",
  flagged: "set data.include_flagged: true if you want flagged conversations",
  language: "change data.languages",
  short_request: "lower data.min_message_chars",
  long_message: "raise data.max_message_chars",
  duplicate: "give more data",
  few_conversations: "lower data.min_conversations (1 keeps every user), or give more data",
  max_conversations_per_user: "raise data.max_conversations_per_user",
  max_users: "raise data.max_users",
};

/** The funnel as lines, one a filter that dropped something. */
export function funnelLines(facts: MiningFacts): string[] {
  let left = facts.read;
  const lines = [`${left} read`];
  for (const filter of miningFilters) {
    const dropped = facts.dropped[filter];
    if (dropped === 0) continue;
    left -= dropped;
    const kinds = filter === "malformed" ? ` (${Object.entries(facts.malformed).map(([kind, n]) => `${kind} ${n}`).join(", ")})` : "";
    lines.push(`${left} after ${filter}: ${dropped} dropped${kinds}`);
  }
  return lines;
}

function nothingLeft(files: readonly SourceFile[], settings: DataSettings, facts: MiningFacts): RlhiError {
  const most = [...miningFilters].sort((a, b) => facts.dropped[b] - facts.dropped[a])[0] as MiningFilter;
  const found = [...funnelLines(facts), ...Object.entries(facts.source_notes).map(([note, n]) => `${n} ${note} in the source`)];
  return new RlhiError("ERR_NO_CONVERSATIONS", {
    what: facts.read === 0 ? "the files hold no conversation" : "no conversation is left after the filters",
    where: files.map(({ path }) => path).join(", "),
    expected: `at least one user with ${settings.min_conversations} conversation${settings.min_conversations === 1 ? "" : "s"}`,
    found: found.join("; "),
    todo: facts.read === 0 ? "give files with conversations" : remedies[most],
  });
}
