import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { ChatModel, ChatRequest } from "../lib/chat-models/types.js";
import { runConfigSchema } from "../lib/config.js";
import type { Conversation, FeedbackLabel } from "../lib/conversations/types.js";
import { readAllJsonl } from "../lib/files.js";
import { History, historyDigest } from "../lib/personas/history.js";
import { inferPersonas } from "../lib/personas/infer.js";
import { parsePersona, summaryOnly } from "../lib/personas/parse.js";
import { renderPersona, withPersona, words } from "../lib/personas/render.js";
import type { PersonaRecord } from "../lib/personas/types.js";
import { personasStage } from "../lib/run/stages/personas.js";
import { temporaryFolder } from "./helpers/conversations.js";
import { methodRun, openMethodRun, sampleLogs } from "./helpers/method-run.js";

function conversation(id: string, time: string, texts: string[], more: Partial<Conversation> = {}): Conversation {
  return {
    conversation_id: id, user_id: "u", timestamp: time, source: "messages", model: "", language: "", flagged: false,
    messages: texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content, language: "", flagged: false, gold_label: null })), ...more,
  };
}

const noFeedback = (): undefined => undefined;
const roomy = { budget: 100_000, count: (text: string): number => text.length };

const idsOf = (conversations: readonly Conversation[]): string[] => conversations.map(({ conversation_id }) => conversation_id);

const at = (clock: string): string => `2024-03-05T${clock}:00Z`;

/** On one day, from `began` to `ended` o'clock; where began is null only the time it ended is known. */
function session(id: string, began: string | null, ended: string): Conversation {
  return conversation(id, at(ended), [id], began === null ? {} : { began: at(began), ended: at(ended) });
}

/** How often a time is read where a user has `n` conversations and the history of each is asked for. */
function reads(n: number): number {
  let count = 0;
  const many = Array.from({ length: n }, (_, i): Conversation => {
    const one = conversation(`c${i}`, "", [`text ${i}`]);
    return Object.defineProperty(one, "timestamp", { get: () => ((count += 1), new Date(1.7e12 + i * 1000).toISOString()) });
  });
  const history = new History(many);
  for (const [i, one] of many.entries()) assert.deepEqual(idsOf(history.before(one, 2)), [`c${i - 2}`, `c${i - 1}`].slice(Math.max(0, 2 - i)));
  return count;
}

describe("what a persona may be made from", () => {
  const now = conversation("now", "2024-03-05T10:00:00Z", ["the text at hand"]);
  const all = [
    conversation("later", "2024-03-05T10:00:01Z", ["a later text"]), conversation("same", "2024-03-05T10:00:00.000Z", ["a text of the same moment"]), now,
    conversation("before", "2024-03-05T12:59:59+03:00", ["an earlier text"]), conversation("old", "2023-12-01T00:00:00Z", ["the oldest text"]),
  ];
  const history = new History(all);

  it("is the user's conversations strictly before, oldest first, time zones minded; the latest so many", () => {
    assert.deepEqual(idsOf(history.before(now, 12)), ["old", "before"]);
    assert.deepEqual(idsOf(history.before(now, 1)), ["before"]);
    assert.deepEqual(history.before(all[4] as Conversation, 12), []);
    assert.deepEqual(idsOf(history.before(all[0] as Conversation, 12)), ["old", "before", "now", "same"]);
  });

  it("is over before this one begins: of two sessions side by side neither knows the other", () => {
    const morning = session("morning", "08:00", "09:00");
    const long = session("long", "08:30", "12:00");
    const inside = session("inside", "10:00", "11:00");
    const untimed = session("untimed", null, "11:30");
    const evening = session("evening", "12:01", "18:00");
    const day = new History([evening, long, inside, morning, untimed]);
    assert.deepEqual(idsOf(day.before(long, 12)), [], "morning was not over");
    assert.deepEqual(idsOf(day.before(inside, 12)), ["morning"]);
    assert.deepEqual(idsOf(day.before(untimed, 12)), ["morning", "inside"]);
    assert.deepEqual(idsOf(day.before(evening, 12)), ["morning", "inside", "untimed", "long"]);
    assert.deepEqual(idsOf(day.before(evening, 2)), ["untimed", "long"], "the latest are those that ended last");
  });

  it("holds no text of the moment or of later", () => {
    const { text, ids } = historyDigest(history.before(now, 12), noFeedback, roomy);
    assert.ok(text.includes("an earlier text") && text.includes("the oldest text"));
    for (const other of ["at hand", "later text", "same moment"]) assert.ok(!text.includes(other));
    assert.deepEqual([...ids], [["C1", "old"], ["C2", "before"]]);
  });

  it("takes work that grows with the number of conversations, not with its square", () => {
    assert.equal(reads(4000), 2 * reads(2000));
  });

  it("leaves out answers, and messages that other people wrote", () => {
    const shared = conversation("tree", "2024-01-01T00:00:00Z", ["somebody's question", "an answer", "my follow-up", "more"], { context_messages: 2 });
    const { text } = historyDigest([shared], () => "reattempt_with_feedback", roomy);
    assert.equal(text, "C1\n- asked to change the answer: my follow-up");
  });

  it("says what each follow-up was, where that is known", () => {
    const one = conversation("x", "2024-01-01T00:00:00Z", ["q", "a", "thanks", "b", "hm"]);
    const { text } = historyDigest([one], (_, turn) => (turn === 2 ? "positive_feedback" : null), roomy);
    assert.equal(text, "C1\n- asked: q\n- was content: thanks\n- then said: hm");
  });

  it("is cut to the context: long messages first, then the oldest conversations", () => {
    const many = Array.from({ length: 20 }, (_, i) => conversation(`c${i}`, `2024-01-${String(i + 1).padStart(2, "0")}T00:00:00Z`, [`start${i} ${"blah ".repeat(200)}`]));
    assert.equal(historyDigest(many, noFeedback, roomy).ids.size, 20);
    const tight = historyDigest(many, noFeedback, { ...roomy, budget: 500 });
    assert.ok(tight.text.length <= 500);
    assert.equal([...tight.ids.values()].at(-1), "c19", "the latest stays");
    const least = historyDigest(many, noFeedback, { ...roomy, budget: 1 });
    assert.equal(least.ids.size, 1);
  });
});

const made = (evidence: unknown, value = "short"): Record<string, unknown> => ({ dimension: "length", value, evidence });

describe("a persona from what a model wrote", () => {
  const ids = new Map([["C1", "id-one"], ["C2", "id-two"]]);
  const preference = { dimension: "length", value: "short", evidence: "id-two" };

  const readable: Record<string, string> = {
    "plain JSON": '{"summary": "Cooks.", "preferences": [{"dimension": "length", "value": "short", "evidence": "C2"}]}',
    "in a code fence, with words around": 'Here you go:\n```json\n{"summary": "Cooks.", "preferences": [{"dimension": "length", "value": "short", "evidence": "conversation C2"}]}\n```\nAnything else?',
    "single quotes, trailing commas": "{'summary': 'Cooks.', 'preferences': [{'dimension': 'length', 'value': 'short', 'evidence': 'C2',},],}",
    "bare keys": "{summary: \"Cooks.\", preferences: [{dimension: \"length\", value: \"short\", evidence: C2}]}",
    "cut off in the middle of a second preference": '{"summary": "Cooks.", "preferences": [{"dimension": "length", "value": "short", "evidence": "C2"}, {"dimension": "tone", "value": "war',
    "evidence by its own id": '{"summary": "Cooks.", "preferences": [{"dimension": "length", "value": "short", "evidence": "id-two"}]}',
  };
  for (const [name, text] of Object.entries(readable)) {
    it(`is read: ${name}`, () => {
      assert.deepEqual(parsePersona(text, ids)?.persona, { summary: "Cooks.", preferences: [preference] });
    });
  }

  it("loses preferences that name no conversation shown, say nothing, or come twice", () => {
    const text = JSON.stringify({ summary: "Cooks.", preferences: [made("C3"), made(""), made(null), made("C1", ""), "text", made("C2"), made("C2")] });
    const parsed = parsePersona(text, ids);
    assert.deepEqual(parsed?.persona.preferences, [preference]);
    assert.equal(parsed?.dropped, 6);
  });

  it("is none where there is nothing in it", () => {
    for (const text of ["", "no JSON at all", "[]", "{}", "42", '{"summary": ""}', '{"summary": "one or two sentences: what this user works on and how they like to be answered"}', `{"summary": "${"they like short lists and ".repeat(20)}"}`]) assert.equal(parsePersona(text, ids), undefined, text);
  });

  it("stays text whatever it holds", () => {
    const evil = '{"summary": "line\\nbreak <b> {{x}} \\u0000\\u202e", "preferences": [], "__proto__": {"polluted": true}}';
    const parsed = parsePersona(evil, ids);
    assert.equal(parsed?.persona.summary, "line break <b> {{x}}");
    assert.equal((({} as Record<string, unknown>)["polluted"]), undefined);
  });

  it("is a summary alone where the text is prose", () => {
    assert.deepEqual(summaryOnly("The user likes short answers. They cook. They also sail."), { summary: "The user likes short answers. They cook.", preferences: [] });
    assert.equal(summaryOnly("{}"), null);
    assert.equal(summaryOnly("… 12 …"), null);
  });
});

describe("a rendered persona", () => {
  const persona = { summary: "A cook from the coast.", preferences: [{ dimension: "length", value: "short", evidence: "a" }, { dimension: "tone", value: "warm and plain", evidence: "b" }] };

  it("is a few lines within its words, preferences going from the last", () => {
    const full = renderPersona(persona, 200);
    assert.equal(full, "What is known of this user from earlier conversations:\nA cook from the coast.\n- length: short\n- tone: warm and plain");
    assert.equal(renderPersona(persona, 18).split("\n").length, 3);
    for (const max of [1, 5, 9, 12, 20, 30]) assert.ok(words(renderPersona(persona, max)).length <= Math.max(max, 10), String(max));
    assert.equal(renderPersona(null, 200), "");
    assert.equal(renderPersona({ summary: "", preferences: [] }, 200), "");
  });

  it("stands ahead of the conversation in one system message", () => {
    assert.deepEqual(withPersona([{ role: "user", content: "q" }], "P"), [{ role: "system", content: "P" }, { role: "user", content: "q" }]);
    assert.deepEqual(withPersona([{ role: "system", content: "S" }, { role: "user", content: "q" }], "P"), [{ role: "system", content: "P\n\nS" }, { role: "user", content: "q" }]);
    assert.deepEqual(withPersona([{ role: "user", content: "q" }], ""), [{ role: "user", content: "q" }]);
  });
});

const refuse = (): never => assert.fail("not asked for");

/** Gives the texts of `rounds` by round: the first answers, then those asked again. */
function scripted(rounds: string[][]): ChatModel & { asked: ChatRequest[][] } {
  const asked: ChatRequest[][] = [];
  return {
    asked, spec: "native:x", context_length: 2048, fingerprint: async () => "f", countTokens: (messages) => messages.reduce((sum, { content }) => sum + content.length / 4, 0), chooseLabel: refuse, score: refuse, close: async () => {},
    async chat(requests, options) {
      const texts = rounds[asked.length] ?? [];
      asked.push(requests);
      return requests.map((_, i) => {
        const result = [{ text: texts[i] ?? "", finish_reason: "stop" as const, tokens: 1 }];
        options?.onResult?.(i, result);
        return result;
      });
    },
  };
}

const labelled = (_: string, turn: number): FeedbackLabel => (turn === 2 ? "reattempt_with_feedback" : "positive_feedback");
const settings = runConfigSchema.parse({ model: "m", data: { path: "d" } }).personas;

describe("inferring many personas", () => {
  it("takes the user's own words of feedback where the model cannot be read", async () => {
    const earlier = [conversation("before", "2024-01-01T00:00:00Z", ["q", "a", "Shorter, please.\nNo lists.", "b", "thanks"])];
    const records: PersonaRecord[] = [];
    const options = { settings, seed: 1, feedback: labelled, signal: new AbortController().signal, onResult: (record: PersonaRecord) => records.push(record) };
    await inferPersonas(scripted([["hm"], ["still no JSON at all, but prose"]]), [{ conversation: conversation("now", "2024-02-02T00:00:00Z", ["now"]), earlier }], options);
    assert.equal(records[0]?.outcome, "quotes");
    assert.deepEqual(records[0]?.persona?.preferences, [{ dimension: "said of an earlier answer", value: '"Shorter, please. No lists."', evidence: "before" }]);
  });

  it("asks again once where an answer cannot be read, then takes a summary or nothing", async () => {
    const good = '{"summary": "Cooks.", "preferences": [{"dimension": "length", "value": "short", "evidence": "C1"}]}';
    const model = scripted([[good, '{"summary": "Rests on nothing.", "preferences": []}', "{}", ""], [good, "This user likes short answers very much.", "..."]]);
    const records: PersonaRecord[] = [];
    const tasks = ["a", "b", "c", "d"].map((id) => ({ conversation: conversation(id, "2024-02-02T00:00:00Z", ["now"]), earlier: [conversation(`${id}-before`, "2024-01-01T00:00:00Z", ["then"])] }));
    await inferPersonas(model, tasks, { settings, seed: 1, feedback: noFeedback, signal: new AbortController().signal, onResult: (record) => records.push(record) });
    assert.deepEqual(records.map(({ conversation_id, outcome }) => [conversation_id, outcome]), [["a", "json"], ["b", "json_retry"], ["c", "summary"], ["d", "nothing"]]);
    assert.deepEqual(records.map(({ persona }) => persona?.summary), ["Cooks.", "Cooks.", "This user likes short answers very much.", undefined]);
    assert.deepEqual(records[0]?.from_conversations, ["a-before"]);
    assert.equal(model.asked[0]?.[0]?.sampling.temperature, 0);
    assert.ok((model.asked[1]?.[0]?.sampling.temperature ?? 0) > 0, "the same question again would get the same answer");
  });
});

describe("the stage, for one user with many conversations", () => {
  const count = 600;

  it("asks in batches, and stops between them", async (t) => {
    const run = await methodRun(temporaryFolder(t), sampleLogs(1, count));
    const stop = new AbortController();
    const model = scripted([]);
    const context = openMethodRun(run, stop.signal);
    t.after(() => context.close());
    const asking = { ...context, model: async () => model };
    const chat = model.chat.bind(model);
    model.chat = (requests, options) => {
      if (model.asked.length === 2) stop.abort();
      return chat(requests, options);
    };
    // The first and the second asking of a batch of 256, then the batch that is told to stop.
    await assert.rejects(personasStage(asking), { name: "AbortError" });
    assert.deepEqual(model.asked.map((requests) => requests.length), [256, 256, 256, 256]);
    assert.equal((await readAllJsonl<PersonaRecord>(context.folder.personas)).length, 1 + 512, "what was answered is kept");
    model.chat = chat;
    const rest = await personasStage({ ...asking, signal: new AbortController().signal });
    assert.equal(rest["conversations"], count);
    assert.deepEqual(model.asked.slice(4).map((requests) => requests.length), [count - 513, count - 513]);
  });
});
