import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { mine } from "../lib/conversations/index.js";
import { timeOf } from "../lib/conversations/sources/source.js";
import { followUpTurns, userTurns } from "../lib/conversations/types.js";
import type { Conversation } from "../lib/conversations/types.js";
import { miningSettings, plain, readAll, temporaryFolder, writeJsonl, writeParquet } from "./helpers/conversations.js";
import { shared } from "./helpers/shared.js";

const wildchatSql = `SELECT * FROM (VALUES
  ('h1', 'gpt-4', TIMESTAMPTZ '2023-05-01 10:00:00+00', 'English', false, 'ip1', ['hello there', 'Hi!', 'shorter'], false, false),
  ('h2', 'gpt-4', TIMESTAMPTZ '2023-05-02 10:00:00+00', 'English', true, 'ip1', ['bad words', 'No.'], false, false),
  ('h3', 'gpt-4', TIMESTAMPTZ '2023-05-03 10:00:00+00', 'French', false, 'ip2', ['bonjour à tous', 'Salut'], true, false),
  ('h4', 'gpt-4', TIMESTAMPTZ '2023-05-04 10:00:00+00', 'French', false, 'ip2', ['encore moi', 'Oui'], false, true)
) t(conversation_hash, model, timestamp, language, toxic, hashed_ip, texts, message_toxic, moderated)`;
const wildchatQuery = `SELECT conversation_hash, model, timestamp, language, toxic, hashed_ip,
  list_transform(texts, lambda text, i: {'role': CASE WHEN i % 2 = 1 THEN 'user' ELSE 'assistant' END, 'content': text, 'language': language, 'toxic': message_toxic, 'redacted': false}) AS conversation,
  [{'flagged': moderated, 'category_scores': {'hate': 0.1}}] AS openai_moderation FROM (${wildchatSql})`;

test("WildChat's Parquet schema is recognised; flags of rows, messages and moderation count", async (t) => {
  const dir = temporaryFolder(t);
  const file = await writeParquet(join(dir, "w.parquet"), wildchatQuery);
  const facts = await mine(miningSettings(file), join(dir, "out.parquet"));
  assert.equal(facts.files[0]?.source, "wildchat");
  assert.equal(facts.dropped.flagged, 3);
  const [only] = await readAll(join(dir, "out.parquet"));
  assert.deepEqual(only, {
    conversation_id: "h1", user_id: "ip1", timestamp: "2023-05-01T10:00:00.000Z", began: null, ended: null, source: "wildchat", model: "gpt-4", language: "English", flagged: false, context_messages: 0, other_authors: [],
    messages: [
      { role: "user", content: "hello there", language: "English", flagged: false, gold_label: null },
      { role: "assistant", content: "Hi!", language: "English", flagged: false, gold_label: null },
      { role: "user", content: "shorter", language: "English", flagged: false, gold_label: null },
    ],
  });
  const all = await mine(miningSettings(file, { include_flagged: true }), join(dir, "all.parquet"));
  assert.equal(all.conversations, 4);
  assert.deepEqual((await readAll(join(dir, "all.parquet"))).map(({ conversation_id, flagged }) => [conversation_id, flagged]), [["h1", false], ["h2", true], ["h3", true], ["h4", true]]);
});

test("the same columns as JSONL, with feedback labels and redacted text kept", async (t) => {
  const dir = temporaryFolder(t);
  const record = {
    conversation_hash: "a", model: "m", timestamp: "2023-11-19T21:36:18+02:00", hashed_ip: "ip", language: "English", toxic: false, redacted: true, openai_moderation: [],
    conversation: [
      { role: "user", content: "mail <PRESIDIO_ANONYMIZED_EMAIL>", language: "English", toxic: false },
      { role: "assistant", content: "ok", language: "English", toxic: false },
      { role: "user", content: "less formal", language: "English", toxic: false, feedback_label: "reattempt_with_feedback" },
    ],
  };
  await mine(miningSettings(writeJsonl(join(dir, "w.jsonl"), [record])), join(dir, "out.parquet"));
  const [only] = await readAll(join(dir, "out.parquet"));
  assert.equal(only?.timestamp, "2023-11-19T19:36:18.000Z");
  assert.equal(only?.messages[0]?.content, "mail <PRESIDIO_ANONYMIZED_EMAIL>");
  assert.equal(only?.messages[2]?.gold_label, "reattempt_with_feedback");
});

const at = (time: string): string => `2023-05-01T${time}:00Z`;

/** A plain record whose messages have times of their own, or none. */
function talked(id: string, time: string, ...times: (string | null)[]): Record<string, unknown> {
  const messages = times.map((one, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: `${id} says ${i}`, ...(one === null ? {} : { timestamp: at(one) }) }));
  return { user_id: "u", conversation_id: id, timestamp: at(time), messages };
}

test("when a conversation began and ended is kept where its messages have times", async (t) => {
  const dir = temporaryFolder(t);
  const out = join(dir, "out.parquet");
  const spans = async (file: string): Promise<unknown[]> => {
    await mine(miningSettings(file), out);
    const all = await readAll(out);
    return all.map(({ conversation_id, timestamp, began, ended }) => [conversation_id, timestamp, began, ended].map((value) => value?.replace(/^2023-05-01T|:00.000Z$/g, "") ?? null));
  };
  // WildChat: the row has the time of the last answer, the answers have theirs.
  const stamped = wildchatQuery.replace("'redacted': false", "'timestamp': CASE WHEN i % 2 = 0 THEN timestamp - INTERVAL 2 HOUR END").replace("'shorter'", "'shorter', 'Hi.'");
  const parquet = await writeParquet(join(dir, "w.parquet"), `SELECT * FROM (${stamped}) WHERE conversation_hash = 'h1'`);
  assert.deepEqual(await spans(parquet), [["h1", "10:00", "08:00", "10:00"]]);
  // Plain: a timestamp before, between or after the messages' own ones.
  const file = writeJsonl(join(dir, "p.jsonl"), [
    talked("a", "07:00", "08:00", "09:00"), talked("b", "08:30", null, "08:00", "09:00"), talked("c", "10:00", "08:00", null, "09:00"), talked("d", "11:00", null, null),
  ]);
  assert.deepEqual(await spans(file), [["a", "07:00", "07:00", "09:00"], ["b", "08:30", "08:00", "09:00"], ["c", "10:00", "08:00", "10:00"], ["d", "11:00", null, null]]);
  // OASST: the row has the time of the author's first message; what came before it is not theirs.
  const timed = tree.slice(0, 7).map((message, i) => ({ ...message, created_date: at(`0${i}:00`) }));
  assert.deepEqual((await spans(writeJsonl(join(dir, "o.jsonl"), timed))), [["p1", "00:00", "00:00", "02:00"], ["p2", "03:00", "03:00", "06:00"]]);
});

test("an unknown feedback label names the record and the labels", async (t) => {
  const dir = temporaryFolder(t);
  const bad = plain("u", "c", 1, ["hello", "hi"]);
  (bad["messages"] as Record<string, unknown>[])[0]!["feedback_label"] = "angry";
  const file = writeJsonl(join(dir, "x.jsonl"), [plain("u", "b", 1, ["hello", "hi"]), bad]);
  await assert.rejects(mine(miningSettings(file), join(dir, "out.parquet")), /x\.jsonl: record 2: an unknown feedback_label[\s\S]*positive_feedback[\s\S]*"angry"/);
});

const turns = (...texts: string[]) => texts.map((value, i) => ({ from: i % 2 === 0 ? "human" : "gpt", value }));

test("ShareGPT: roles by their names, users where known, file order where there is no time", async (t) => {
  const dir = temporaryFolder(t);
  const file = join(dir, "s.json");
  writeFileSync(file, JSON.stringify([
    { id: "b", user_id: "u1", conversations: [{ from: "system", value: "Be kind." }, ...turns("second in time?", "no")] },
    { id: "a", user_id: "u1", conversations: turns("later entry", "yes") },
    { id: "c", conversations: turns("nobody's", "fine") },
    { id: "d", user: "u2", timestamp: 1_700_000_000, conversations: turns("timed", "ok") },
    { id: "e", user: "u2", timestamp: 1_700_000_001, conversations: [...turns("sum them up", "I will."), { from: "function_call", value: "sum()" }, { from: "tool", value: "42" }, { from: "gpt", value: "It is 42." }] },
    { id: "f", user: "u2", conversations: [{ from: "tool", value: "42" }, ...turns("what is it?", "42")] },
  ], null, 2));
  const facts = await mine(miningSettings(file), join(dir, "out.parquet"));
  assert.deepEqual(facts.malformed, { unknown_role: 1 });
  assert.deepEqual(facts.repaired, { cut_at_unknown_role: 1 });
  const all = await readAll(join(dir, "out.parquet"));
  assert.deepEqual(all.map(({ user_id, conversation_id, source }) => [user_id, conversation_id, source]), [["entry:c", "c", "sharegpt"], ["u1", "b", "sharegpt"], ["u1", "a", "sharegpt"], ["u2", "d", "sharegpt"], ["u2", "e", "sharegpt"]]);
  assert.deepEqual(all[4]?.messages.map(({ content }) => content), ["sum them up", "I will."], "a conversation goes up to the tool");
  assert.deepEqual(all[1]?.messages.map(({ role }) => role), ["system", "user", "assistant"]);
  assert.equal(all[3]?.timestamp, "2023-11-14T22:13:20.000Z");
});

const variants: Record<string, (turn: { from: string; value: string }) => Record<string, unknown>> = {
  "{from, value}": (turn) => turn,
  "{from, text}": ({ from, value }) => ({ from, text: value }),
  "{role, content}": ({ from, value }) => ({ role: from === "human" ? "user" : "assistant", content: value }),
};
for (const [name, form] of Object.entries(variants)) {
  for (const list of ["conversations", "items"]) {
    test(`ShareGPT: ${list} of ${name}, the first entries without turns`, async (t) => {
      const dir = temporaryFolder(t);
      const entries = [...Array.from({ length: 30 }, (_, i) => ({ id: `empty-${i}`, [list]: [] })), { id: "a", [list]: turns("a question", "an answer", "shorter").map(form) }];
      const json = join(dir, "s.json");
      writeFileSync(json, JSON.stringify(entries));
      for (const file of [json, writeJsonl(join(dir, "s.jsonl"), entries)]) {
        const facts = await mine(miningSettings(file), join(dir, "out.parquet"));
        assert.deepEqual([facts.files[0]?.source, facts.read, facts.malformed], ["sharegpt", 31, { no_request: 30 }]);
        const [only] = await readAll(join(dir, "out.parquet"));
        assert.deepEqual(only?.messages.map(({ role, content }) => `${role}: ${content}`), ["user: a question", "assistant: an answer", "user: shorter"]);
      }
    });
  }
}

test("ShareGPT as Parquet, its list under either name; turns of no known form are refused", async (t) => {
  const dir = temporaryFolder(t);
  for (const list of ["conversations", "items"]) {
    const parquet = await writeParquet(join(dir, `${list}.parquet`),
      `SELECT 'a' AS id, 7 AS likes, [{'from': 'human', 'value': 'a question'}, {'from': 'gpt', 'value': 'an answer'}] AS ${list}`);
    assert.equal((await mine(miningSettings(parquet), join(dir, "out.parquet"))).files[0]?.source, "sharegpt");
    assert.deepEqual((await readAll(join(dir, "out.parquet")))[0]?.messages.map(({ role }) => role), ["user", "assistant"]);
  }
  const other = writeJsonl(join(dir, "other.jsonl"), [{ id: "a", conversations: [] }, { id: "b", conversations: [{ speaker: "human", words: "hello" }] }]);
  await assert.rejects(mine(miningSettings(other), join(dir, "out.parquet")), /for "sharegpt" these are missing: \(none, but the entries have another form\)/);
});

test("several files and patterns, of different sources, are one data set", async (t) => {
  const dir = temporaryFolder(t);
  writeJsonl(join(dir, "a1.jsonl"), [plain("u", "1", "2024-01-01", ["hello one", "hi"])]);
  writeJsonl(join(dir, "a2.jsonl"), [plain("u", "2", "2024-01-02", ["hello two", "hi"])]);
  await writeParquet(join(dir, "b.parquet"), wildchatQuery);
  const facts = await mine(miningSettings([join(dir, "a*.jsonl"), join(dir, "b.parquet")]), join(dir, "out.parquet"));
  assert.deepEqual(facts.files.map(({ source }) => source), ["messages", "messages", "wildchat"]);
  assert.equal(facts.read, 6);
  assert.equal(facts.conversations, 3);
});

test("a file whose name looks like a pattern is read as it is named", async (t) => {
  const dir = temporaryFolder(t);
  const parquet = await writeParquet(join(dir, "w[1].parquet"), wildchatQuery);
  assert.equal((await mine(miningSettings(parquet), join(dir, "out.parquet"))).read, 4);
  const quoted = writeJsonl(join(dir, "it's.jsonl"), [plain("u", "1", "2024-01-01", ["hello one", "hi"])]);
  assert.equal((await mine(miningSettings(quoted), join(dir, "out.parquet"))).read, 1);
});

const node = (message_id: string, user_id: string, role: "prompter" | "assistant", parent_id: string | null, more: Record<string, unknown> = {}): Record<string, unknown> => ({
  message_id, parent_id, user_id, created_date: "2023-02-07T17:29:24.727400+00:00", text: `text of ${message_id}`, role, lang: "en", review_result: true, deleted: false, rank: null, detoxify: { toxicity: 0.001 }, ...more,
});
/** One tree: ann asks; two answers; ben follows up on the better one and cat on the other; ann goes on after ben's own branch. */
const tree = [
  node("p1", "ann", "prompter", null),
  node("a1", "x", "assistant", "p1", { rank: 1 }),
  node("a2", "x", "assistant", "p1", { rank: 0 }),
  node("p2", "ben", "prompter", "a2"),
  node("a3", "x", "assistant", "p2"),
  node("p3", "ben", "prompter", "a3"),
  node("a4", "x", "assistant", "p3"),
  node("p4", "cat", "prompter", "a1"),
  node("gone", "dan", "prompter", "a1", { deleted: true }),
  node("a5", "x", "assistant", "p4", { review_result: false }),
  node("lost", "eve", "prompter", "nowhere"),
];
const shown = ({ conversation_id, user_id, context_messages, messages }: Conversation) => [conversation_id, user_id, context_messages, messages.map(({ content }) => content.replace("text of ", "")).join(" ")];
const expected = [
  ["p1", "ann", 0, "p1 a2"],
  ["p2", "ben", 2, "p1 a2 p2 a3 p3 a4"],
  ["p4", "cat", 2, "p1 a1 p4 a5"],
];

test("OASST messages: every prompter message once, for its own author, with the path before it as context", async (t) => {
  const dir = temporaryFolder(t);
  // Order in the file must not matter.
  const file = writeJsonl(join(dir, "o.jsonl"), tree.toReversed());
  const facts = await mine(miningSettings(file, { include_flagged: true }), join(dir, "out.parquet"));
  const all = await readAll(join(dir, "out.parquet"));
  assert.deepEqual(all.map(shown), expected);
  assert.deepEqual(facts.source_notes, { messages_without_parent: 1, messages_deleted_or_below: 1 });
  assert.deepEqual(all.map((c) => userTurns(c)), [[0], [2, 4], [2]]);
  assert.deepEqual(all.map((c) => followUpTurns(c)), [[], [2, 4], [2]]);
  assert.equal(facts.follow_ups, 3, "each follow-up counts once");
  assert.deepEqual(all.map(({ flagged }) => flagged), [false, false, true], "an answer rejected in review flags its conversation");
  assert.equal(all[0]?.language, "English");
});

test("OASST trees give the same, and copies of a tree count once: the fuller one", async (t) => {
  const dir = temporaryFolder(t);
  const nested = (id: string): Record<string, unknown> => {
    const own = tree.find((message) => message["message_id"] === id) as Record<string, unknown>;
    return { ...own, replies: tree.filter((message) => message["parent_id"] === id).map((message) => nested(message["message_id"] as string)) };
  };
  const young = { message_tree_id: "p1", tree_state: "growing", prompt: { ...node("p1", "ann", "prompter", null), replies: [] } };
  const file = writeJsonl(join(dir, "t.jsonl"), [young, { message_tree_id: "p1", tree_state: "ready_for_export", prompt: nested("p1") }]);
  const facts = await mine(miningSettings(file, { include_flagged: true }), join(dir, "out.parquet"));
  assert.deepEqual((await readAll(join(dir, "out.parquet"))).map(shown), expected);
  assert.deepEqual(facts.source_notes, { duplicate_trees: 1, messages_deleted_or_below: 1 });
});

test("OASST messages that answer one of their own kind, and what hangs below them, are left out", async (t) => {
  const dir = temporaryFolder(t);
  const messages = [
    node("p1", "ann", "prompter", null), node("p2", "ben", "prompter", "p1"), node("a1", "x", "assistant", "p2"),
    node("a2", "x", "assistant", "p1"), node("a3", "x", "assistant", "a2"), node("p3", "ann", "prompter", "a2"),
  ];
  const facts = await mine(miningSettings(writeJsonl(join(dir, "o.jsonl"), messages)), join(dir, "out.parquet"));
  assert.deepEqual((await readAll(join(dir, "out.parquet"))).map(shown), [["p1", "ann", 0, "p1 a2 p3"]]);
  assert.deepEqual(facts.source_notes, { messages_out_of_turn_or_below: 3 });
});

test("an OASST tree may be deeper than the stack", async (t) => {
  const dir = temporaryFolder(t);
  const depth = 30_000;
  const chain = Array.from({ length: depth }, (_, i) => node(`m${i}`, i % 2 === 0 ? "ann" : "x", i % 2 === 0 ? "prompter" : "assistant", i === 0 ? null : `m${i - 1}`));
  // By hand: JSON.stringify recurses.
  const nested = `${chain.map((message) => `${JSON.stringify(message).slice(0, -1)},"replies":[`).join("")}${"]}".repeat(depth)}`;
  writeFileSync(join(dir, "t.jsonl"), `{"message_tree_id":"m0","prompt":${nested}}\n`);
  const facts = await mine(miningSettings(join(dir, "t.jsonl"), { max_messages: 8 }), join(dir, "trees.parquet"));
  assert.deepEqual([facts.read, facts.shortened, facts.source_notes], [1, 1, {}]);
  assert.deepEqual((await readAll(join(dir, "trees.parquet"))).map(shown), [["m0", "ann", 0, "m0 m1 m2 m3 m4 m5 m6 m7"]]);
  const gone = chain.map((message, i) => (i === 2 ? { ...message, deleted: true } : message));
  const flat = await mine(miningSettings(writeJsonl(join(dir, "o.jsonl"), gone)), join(dir, "flat.parquet"));
  assert.deepEqual(flat.source_notes, { messages_deleted_or_below: depth - 2 });
});

test("another schema: what was found, what is missing, and every source are named", async (t) => {
  const dir = temporaryFolder(t);
  const parquet = await writeParquet(join(dir, "other.parquet"), "SELECT 1 AS id, 'x' AS body, 'y' AS hashed_ip, [1] AS conversation");
  await assert.rejects(mine(miningSettings(parquet), join(dir, "out.parquet")), (error: Error & { code: string; exitCode: number }) => {
    assert.equal(error.code, "ERR_UNKNOWN_SCHEMA");
    assert.equal(error.exitCode, 1);
    assert.match(error.message, /other\.parquet/);
    assert.match(error.message, /columns id, body, hashed_ip, conversation; for "wildchat" these are missing: conversation_hash, timestamp/);
    for (const name of ["wildchat", "oasst", "sharegpt", "messages"]) assert.match(error.message, new RegExp(`^ {4}${name} `, "m"));
    return true;
  });
  const jsonl = writeJsonl(join(dir, "plain.jsonl"), [plain("u", "1", "2024-01-01", ["hello", "hi"])]);
  await assert.rejects(mine(miningSettings(jsonl, { source: "sharegpt" }), join(dir, "out.parquet")), /source "sharegpt"[\s\S]*missing: conversations/);
});

test("damaged, empty, missing and foreign files each have their own error", async (t) => {
  const dir = temporaryFolder(t);
  const out = join(dir, "out.parquet");
  const fails = (name: string, content: string | Uint8Array, pattern: RegExp): Promise<void> => {
    writeFileSync(join(dir, name), content);
    return assert.rejects(mine(miningSettings(join(dir, name)), out), pattern);
  };
  const line = JSON.stringify(plain("u", "1", "2024-01-01", ["hello", "hi"]));
  await fails("torn.jsonl", `${line}\n${line.slice(0, 30)}`, /torn\.jsonl:2: a line is not JSON/);
  await fails("cut.json", `[${line}, ${line.slice(0, 30)}`, /cut\.json: the file cannot be read/);
  await fails("cut.parquet", "PAR1 and then nothing", /cut\.parquet: the file cannot be read[\s\S]*copy or download/);
  await fails("empty.jsonl", "", /empty\.jsonl: the file is empty/);
  await fails("blank.jsonl", " \n\n", /blank\.jsonl: the file is empty/);
  await fails("none.json", "[]", /none\.json: the file holds no conversation/);
  await fails("table.csv", "user,text\n1,hi\n", /table\.csv: not a conversation file/);
  await fails("packed.jsonl", gzipSync(line), /packed\.jsonl: not a conversation file[\s\S]*found: {4}a gzip file\n {2}to do: {4}decompress it first/);
  await fails("wide.jsonl", Buffer.from(line, "utf16le"), /wide\.jsonl: not a conversation file[\s\S]*found: {4}text in UTF-16\n {2}to do: {4}save it as UTF-8/);
  await fails("nul.jsonl", `${line}\n\0\0\0\0\n`, /nul\.jsonl:2: a line is not JSON/);
  await fails("numbers.jsonl", "{\"a\":1}\n", /numbers\.jsonl: not the schema of any known source/);
  await assert.rejects(mine(miningSettings(join(dir, "nothing-*.parquet")), out), /no such conversation file[\s\S]*no file that this pattern matches/);
  await assert.rejects(mine(miningSettings("https://example.invalid/a.parquet"), out), /no such conversation file/);
  await assert.rejects(mine(miningSettings(dir), out), /a folder, where a file is expected/);
});

test("times: with zone, without (UTC), DuckDB's form, seconds, milliseconds; anything else is none", () => {
  const noon = Date.UTC(2024, 0, 2, 12);
  for (const value of ["2024-01-02T12:00:00Z", "2024-01-02T12:00:00", "2024-01-02 12:00:00+00", "2024-01-02T14:00:00.000000+02:00", "2024-01-02 06:30:00-0530", noon, noon / 1000, String(noon / 1000)]) assert.equal(timeOf(value), noon, String(value));
  assert.equal(timeOf("2024-01-02"), Date.UTC(2024, 0, 2));
  for (const value of [null, undefined, "", "yesterday", "2024-13-45", {}, Number.NaN, 1e300]) assert.equal(timeOf(value), null, JSON.stringify(value));
});

test("the real samples are read whole", { skip: shared("data").skip }, async (t) => {
  const out = join(temporaryFolder(t), "out.parquet");
  const counts: Record<string, number[]> = {
    "wildchat/wildchat-1m-sample.parquet": [186, 182, 118, 545],
    "oasst/oasst1-en-validation.jsonl": [762, 710, 530, 530],
    "oasst/oasst2-subset-trees.jsonl": [791, 738, 505, 241],
  };
  for (const [name, numbers] of Object.entries(counts)) {
    const facts = await mine(miningSettings(shared("data", name).path), out);
    assert.deepEqual([facts.read, facts.conversations, facts.users, facts.follow_ups], numbers, name);
  }
});
