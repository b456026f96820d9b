import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { conversationFacts, isHeldOut, mine, readConversations, writeConversations } from "../lib/conversations/index.js";
import type { MiningFacts } from "../lib/conversations/index.js";
import { guessLanguage } from "../lib/conversations/language.js";
import { miningSettings, plain, readAll, temporaryFolder, writeJsonl } from "./helpers/conversations.js";

const ids = (all: readonly { conversation_id: string }[]): string[] => all.map(({ conversation_id }) => conversation_id);
const droppedBy = (facts: MiningFacts): Record<string, number> => Object.fromEntries(Object.entries(facts.dropped).filter(([, n]) => n > 0));

test("each filter counts what it dropped, in order, and the rest is kept", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [
    plain("", "no-user", 1e9, ["hello", "hi"]),
    plain("u", "", 1e9, ["hello", "hi"]),
    plain("u", "no-time", null, ["hello", "hi"]),
    plain("u", "no-request", 1e9, []),
    plain("u", "flagged", 1e9, ["bad thing", "no"], { flagged: true, language: "German" }),
    plain("u", "german", 1e9, ["guten tag", "hallo"], { language: "German" }),
    plain("u", "short", 1e9, ["x", "what?"], { language: "English" }),
    plain("u", "long", 1e9, ["hello", "y".repeat(101)], { language: "English" }),
    plain("u", "first", 1e9 + 5, ["same words", "same answer"], { language: "English" }),
    plain("w", "copy", 1e9 + 9, ["same words", "same answer"], { language: "English" }),
    plain("u", "own-copy", 1e9 + 7, ["same words", "same answer"], { language: "English" }),
    plain("u", "other", 1e9 + 6, ["same words", "another answer"], { language: "English" }),
    plain("v", "lonely", 1e9, ["just me here", "yes"], { language: "English" }),
  ]);
  const settings = miningSettings(file, { languages: ["english"], min_conversations: 2, min_message_chars: 2, max_message_chars: 100 });
  const facts = await mine(settings, join(dir, "out.parquet"));
  assert.equal(facts.read, 13);
  assert.deepEqual(droppedBy(facts), { malformed: 4, flagged: 1, language: 1, short_request: 1, long_message: 1, duplicate: 2, few_conversations: 1 });
  assert.deepEqual(facts.malformed, { no_user_id: 1, no_conversation_id: 1, no_timestamp: 1, no_request: 1 });
  assert.equal(facts.conversations, 2);
  assert.deepEqual(facts.languages, { English: 2 });
  assert.deepEqual(ids(await readAll(join(dir, "out.parquet"))), ["first", "other"]);
  assert.equal((await conversationFacts(join(dir, "out.parquet")))?.["read"], 13, "the facts lie in the file");
  assert.deepEqual(readdirSync(dir).sort(), ["d.jsonl", "out.parquet"], "no work folder is left");
});

test("a user's most recent conversations are kept, and users by a hash of their ids", async (t) => {
  const dir = temporaryFolder(t);
  const users = ["a", "b", "c", "d", "e"];
  const records = users.flatMap((user) => [3, 1, 2].map((day) => plain(user, `${user}${day}`, `2024-01-0${day}`, [`${user} asks on day ${day}`, "ok"])));
  const file = writeJsonl(join(dir, "d.jsonl"), records);
  const recent = await mine(miningSettings(file, { max_conversations_per_user: 2 }), join(dir, "r.parquet"));
  assert.deepEqual(droppedBy(recent), { max_conversations_per_user: 5 });
  assert.deepEqual(ids(await readAll(join(dir, "r.parquet"))), users.flatMap((user) => [`${user}2`, `${user}3`]), "ordered by user, then time");
  const two = await mine(miningSettings(file, { max_users: 2 }), join(dir, "two.parquet"));
  assert.equal(two.users, 2);
  assert.deepEqual(droppedBy(two), { max_users: 9 });
  const three = await mine(miningSettings(file, { max_users: 3 }), join(dir, "three.parquet"));
  assert.equal(three.users, 3);
  const kept = new Set((await readAll(join(dir, "three.parquet"))).map(({ user_id }) => user_id));
  for (const { user_id } of await readAll(join(dir, "two.parquet"))) assert.ok(kept.has(user_id), "more users keep the first ones");
});

test("the same input gives the same bytes, in any order of its lines", async (t) => {
  const dir = temporaryFolder(t);
  const records = Array.from({ length: 300 }, (_, i) => plain(`user-${i % 17}`, `c${i}`, 1.6e9 + ((i * 7919) % 300), [`question number ${i}`, "answer", "shorter please", "ok"]));
  const a = writeJsonl(join(dir, "a.jsonl"), records);
  const b = writeJsonl(join(dir, "b.jsonl"), records.toReversed());
  const facts = [];
  for (const [input, out] of [[a, "1"], [a, "2"], [b, "3"]] as const) facts.push(await mine({ ...miningSettings(input) }, join(dir, `${out}.parquet`)));
  assert.deepEqual(readFileSync(join(dir, "1.parquet")), readFileSync(join(dir, "2.parquet")));
  assert.deepEqual(await readAll(join(dir, "1.parquet")), await readAll(join(dir, "3.parquet")));
  assert.equal(facts[0]?.follow_ups, 300);
  const times = new Map<string, string>();
  for (const { user_id, timestamp } of await readAll(join(dir, "1.parquet"))) {
    assert.ok((times.get(user_id) ?? "") <= timestamp, "a user's conversations are in order of time, so that earlier ones come first");
    times.set(user_id, timestamp);
  }
});

const message = (role: string, content: unknown) => ({ role, content });
const talk = (id: string, ...messages: unknown[]) => ({ user_id: "u", conversation_id: id, timestamp: `2024-01-0${id}`, messages });

test("roles are put in order: merged, leading answers and late system messages dropped, cut at an empty message", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [
    talk("1", message("assistant", "Welcome!"), message("user", "part one"), message("user", "part two"), message("assistant", "an"), message("assistant", "swer")),
    talk("2", message("system", "Be brief."), message("user", "question"), message("assistant", ""), message("user", "hello?"), message("assistant", "yes")),
    talk("3", message("user", "question here"), message("assistant", "answer"), message("system", "note"), message("user", "  "), message("assistant", "lost")),
    talk("4", message("user", null), message("assistant", "answer")),
    talk("5", message("user", "run it"), message("tool", "42"), message("assistant", "It is 42."), message("user", "thanks")),
    talk("6", message("user", "first try"), message("assistant", ""), message("assistant", "real answer"), message("user", "go on")),
    talk("7", message("tool", "42"), message("user", "what is it?")),
  ]);
  const facts = await mine(miningSettings(file), join(dir, "out.parquet"));
  assert.deepEqual((await readAll(join(dir, "out.parquet"))).map(({ conversation_id, messages }) => [conversation_id, ...messages.map(({ role, content }) => `${role}: ${content}`)]), [
    ["1", "user: part one\n\npart two", "assistant: an\n\nswer"],
    ["2", "system: Be brief.", "user: question"],
    ["3", "user: question here", "assistant: answer"],
    ["5", "user: run it"],
    ["6", "user: first try", "assistant: real answer", "user: go on"],
  ]);
  assert.deepEqual(facts.malformed, { no_request: 1, unknown_role: 1 });
  assert.deepEqual(facts.repaired, { leading_answer_dropped: 1, same_role_merged: 2, cut_at_empty_message: 2, cut_at_unknown_role: 1, later_system_message_dropped: 1 });
});

test("long conversations are cut, and counted as shortened, not dropped", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [plain("u", "c", 1e9, Array.from({ length: 9 }, (_, i) => `message ${i}`))]);
  const facts = await mine(miningSettings(file, { max_messages: 4 }), join(dir, "out.parquet"));
  assert.equal(facts.shortened, 1);
  assert.equal((await readAll(join(dir, "out.parquet")))[0]?.messages.length, 4);
});

test("ids that occur again become distinct; a language nobody named is guessed", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [
    plain("u", "x", 1e9, ["¿Cómo puedo hacer una tortilla para mi familia?", "Así."]),
    plain("u", "x", 1e9 + 1, ["What is the best way to cook rice?", "Slowly."]),
    plain("w", "x", 1e9, ["Wie kann ich das am besten kochen?", "Langsam."]),
  ]);
  await mine(miningSettings(file), join(dir, "out.parquet"));
  assert.deepEqual((await readAll(join(dir, "out.parquet"))).map((c) => [c.user_id, c.conversation_id, c.language]), [["u", "x", "Spanish"], ["u", "x#2", "English"], ["w", "x#3", "German"]]);
});

test("text is kept to the letter: quotes, markup, templates, other scripts; only what no file can hold is replaced", async (t) => {
  const dir = temporaryFolder(t);
  const text = "'; DROP TABLE keep; -- {{user}} ${x} </message> <script> \\n \u{1F600} 日本 \r\n\ttab $.messages \u2028";
  const facts = await mine(miningSettings(writeJsonl(join(dir, "d.jsonl"), [plain("o'brien", "a\"b", 1e9, [text, "lone \uD800 and \0 nul"])])), join(dir, "out.parquet"));
  assert.deepEqual(facts.repaired, { characters_replaced: 1 });
  const [only] = await readAll(join(dir, "out.parquet"));
  assert.equal(only?.messages[0]?.content, text);
  assert.equal(only?.messages[1]?.content, "lone \uFFFD and \uFFFD nul");
  assert.deepEqual([only?.user_id, only?.conversation_id], ["o'brien", "a\"b"]);
});

test("replaced characters are counted once a conversation, in ids as in texts, and nowhere else", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [
    plain("u\0", "a", 1e9, ["one \0", "two \uDC00"]), plain("v", "b\uD83D", 1e9, ["plain question", "answer"]), plain("w", "c", 1e9, ["\u{1F600} whole \uFFFD", "answer"]),
  ]);
  const facts = await mine(miningSettings(file), join(dir, "out.parquet"));
  assert.deepEqual(facts.repaired, { characters_replaced: 2 });
  assert.deepEqual((await readAll(join(dir, "out.parquet"))).map(({ user_id, conversation_id }) => [user_id, conversation_id]), [["u\uFFFD", "a"], ["v", "b\uFFFD"], ["w", "c"]]);
});

test("where every conversation is malformed, what one needs is said", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [plain("u", "a", null, ["a question", "answer"])]);
  await assert.rejects(mine(miningSettings(file), join(dir, "out.parquet")), {
    message: /0 after malformed: 1 dropped \(no_timestamp 1\)\n {2}to do: {4}check the files: a conversation needs an id, a user, a readable time, and a request /,
  });
});

test("nothing left is a failure that shows the funnel, and leaves the old file alone", async (t) => {
  const dir = temporaryFolder(t);
  const out = join(dir, "out.parquet");
  writeFileSync(out, "as it was");
  const file = writeJsonl(join(dir, "d.jsonl"), [plain("a", "1", 1e9, ["hello there", "hi"]), plain("b", "2", 1e9, ["hello you", "hi"]), plain("b", "3", 1e9, ["bad thing", "hi"], { flagged: true })]);
  await assert.rejects(mine(miningSettings(file, { min_conversations: 2 }), out), (error: Error & { code: string }) => {
    assert.equal(error.code, "ERR_NO_CONVERSATIONS");
    assert.match(error.message, /3 read; 2 after flagged: 1 dropped; 0 after few_conversations: 2 dropped/);
    assert.match(error.message, /lower data\.min_conversations/);
    return true;
  });
  assert.equal(readFileSync(out, "utf8"), "as it was");
  assert.ok(!existsSync(`${out}.work`));
});

test("a stopped run writes nothing", async (t) => {
  const dir = temporaryFolder(t);
  const file = writeJsonl(join(dir, "d.jsonl"), [plain("a", "1", 1e9, ["hello there", "hi"])]);
  await assert.rejects(mine(miningSettings(file), join(dir, "out.parquet"), { signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.deepEqual(readdirSync(dir), ["d.jsonl"]);
});

const read = async (path: string): Promise<void> => {
  for await (const conversation of readConversations(path)) assert.fail(conversation.conversation_id);
};

test("a mined file that is missing or damaged says how to make it again", async (t) => {
  const dir = temporaryFolder(t);
  writeFileSync(join(dir, "cut.parquet"), "PAR1");
  await assert.rejects(read(join(dir, "cut.parquet")), /cannot read the mined conversations[\s\S]*rlhi-native mine/);
  await assert.rejects(read(join(dir, "none.parquet")), /none\.parquet: cannot read the mined conversations/);
});

test("writeConversations and readConversations are inverse", async (t) => {
  const path = join(temporaryFolder(t), "c.parquet");
  const conversation = {
    conversation_id: "c", user_id: "u", timestamp: "2024-01-02T03:04:05.678Z", began: "2024-01-02T03:00:00.001Z", ended: "2024-01-02T03:04:06.000Z", source: "messages", model: "m", language: "English", flagged: true, context_messages: 2, other_authors: ["v", "o'brien, \"w\""],
    messages: [{ role: "user" as const, content: "hi", language: "", flagged: true, gold_label: "other" as const }],
  };
  await writeConversations(path, [conversation]);
  assert.deepEqual(await readAll(path), [conversation]);
});

test("held-out users are the same in every run, about the share asked for, and more with a larger share", () => {
  const users = Array.from({ length: 5000 }, (_, i) => `user-${i}`);
  const tenth = users.filter((user) => isHeldOut(user, 0.1));
  assert.ok(tenth.length > 430 && tenth.length < 570, String(tenth.length));
  assert.ok(tenth.every((user) => isHeldOut(user, 0.2)));
  assert.equal(users.filter((user) => isHeldOut(user, 0)).length, 0);
  assert.equal(users.filter((user) => isHeldOut(user, 1)).length, 5000);
  assert.deepEqual(users.slice(0, 40).filter((user) => isHeldOut(user, 0.1)), ["user-0", "user-4", "user-5", "user-10", "user-31"], "a fixed split");
});

test("languages are guessed by script and small words, and left open where there is too little", () => {
  const texts: [string, string][] = [
    ["Please write the answer in the form of a table", "English"], ["Por favor, escribe la respuesta en una tabla", "Spanish"], ["Bitte schreib mir die Antwort als Tabelle auf", "German"],
    ["Peux-tu écrire la réponse dans un tableau pour moi ?", "French"], ["Você pode escrever isso em uma tabela para mim?", "Portuguese"], ["Puoi scrivere la risposta in una tabella per me?", "Italian"],
    ["请用表格回答", "Chinese"], ["表で答えてください", "Japanese"], ["표로 답해 주세요", "Korean"], ["Напиши ответ в виде таблицы", "Russian"], ["42", ""], ["", ""], ["print(x)", ""],
  ];
  for (const [text, language] of texts) assert.equal(guessLanguage(text), language, text);
});
