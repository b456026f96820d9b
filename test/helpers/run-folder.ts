/**
 * A run folder as a finished run leaves it, made by the project's own writers (and, for the evaluation, by its own stage with
 * stand-ins for the models): long texts, code, right-to-left and East Asian writing, empty values, and texts that try to be HTML.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { configYaml } from "../../lib/config-file.js";
import { runConfigSchema } from "../../lib/config.js";
import type { RunConfig, RunConfigInput } from "../../lib/config.js";
import { followUpTurns, isHeldOut, writeConversations } from "../../lib/conversations/index.js";
import type { Conversation, FeedbackLabel, LoggedMessage, MiningFacts } from "../../lib/conversations/index.js";
import { BusyClock } from "../../lib/engine/busy-clock.js";
import type { EngineTime } from "../../lib/engine/busy-clock.js";
import { evalStage } from "../../lib/eval/user-eval.js";
import type { UserEvalFacts } from "../../lib/eval/user-eval.js";
import type { FeedbackRecord } from "../../lib/feedback/types.js";
import type { CandidateRecord, FilteredRecord, PairRecord } from "../../lib/pairs/types.js";
import { renderPersona, withPersona } from "../../lib/personas/render.js";
import type { Persona, PersonaRecord } from "../../lib/personas/types.js";
import { silent } from "../../lib/progress.js";
import { seededRandom } from "../../lib/random.js";
import { runFolder } from "../../lib/run/folder.js";
import type { RunFolder } from "../../lib/run/folder.js";
import { Manifest } from "../../lib/run/manifest.js";
import type { StageFacts, StageName } from "../../lib/run/stage.js";
import type { HeldOutPairs } from "../../lib/report/types.js";
import { standInModel } from "./stand-in-models.js";

/** Stands in every text field in turn. None of it may become an element, an attribute, a style or a request. */
export const hostileTexts = [
  "<script>document.title = 'taken over'; window.pwned = true</script>",
  "<img src=\"https://example.invalid/x.png\" onerror=\"window.pwned = true\"> and </div></section></main><h1>mine</h1>",
  "'\"><svg onload=window.pwned=true><style>* { display: none }</style> ${7 * 7} {{ persona }} <!-- `",
  "</style></title><iframe src=\"https://example.invalid/\"></iframe> &lt;b&gt; &amp;amp; &#x3c;i&#x3e;",
  "<a href=\"javascript:alert(1)\">click</a> <input autofocus onfocus=window.pwned=true> <base href=\"https://example.invalid/\">",
] as const;

const code = "Here it is:\n\n```typescript\nexport function median(values: readonly number[]): number {\n  const sorted = [...values].sort((a, b) => a - b); // not in place: the caller's array stays as it is, and this comment is long enough to wrap\n  return sorted[Math.floor(sorted.length / 2)] ?? 0;\n}\n```\n\nThe list is copied first.";
const requests = [
  "Write a function that gives the median of a list, please.", "請幫我寫一封給房東的信，語氣客氣一點，說明冷氣壞了三天。", "اكتب لي رسالة قصيرة أعتذر فيها عن تأخري في تسليم المشروع.",
  "Plan three dinners for two, gluten-free, under 30 minutes each 🍲", "What is the difference between a process and a thread?", "kjhgfdsaqwertzuiopkjhgfdsaqwertzuiopkjhgfdsaqwertzuiopkjhgfdsaqwertzuiopkjhgfdsaqwertzuiopkjhgfdsaqwertzuiop".repeat(3),
] as const;
const answers = [code, "房東您好：\n\n冷氣自週一起故障，已三天無法使用，想請您安排師傅檢修。謝謝您。", "عزيزي الأستاذ،\nأعتذر بشدة عن تأخري في تسليم المشروع. Deadline: 2024-05-01.\nمع خالص التحية", "1. Risotto with peas\n2. Baked trout, potatoes\n3. Chickpea curry 🌶️👩‍👩‍👧‍👦", "A process has memory of its own; threads share it. ".repeat(40), ""] as const;
const followUps: readonly [FeedbackLabel | null, string][] = [
  ["reattempt_with_feedback", "Shorter, and without the list. I asked for two sentences."], ["positive_feedback", "Perfect, thank you! 🙏"], ["reattempt_with_feedback", "لا، بلهجة أكثر رسمية من فضلك"],
  ["new_request", "Now the same for the mode."], ["reattempt_without_feedback", "try again"], ["clarification", "Why do you copy it?"], ["other", "brb"], [null, "hm"], ["reattempt_with_feedback", `No. ${"It must fit on one page and name the date. ".repeat(30)}`],
];

export interface FixtureOptions {
  /** Lines of metrics.jsonl; 0: not trained. */
  steps?: number;
  /** Stages that ran; default all. */
  until?: StageName;
  config?: Partial<Omit<RunConfigInput, "model" | "data">>;
}

export interface Fixture {
  folder: RunFolder;
  config: RunConfig;
  mined: MiningFacts;
  labels: FeedbackRecord[];
  candidates: CandidateRecord[];
  pairs: PairRecord[];
  filtered: FilteredRecord[];
  heldOut: HeldOutPairs;
  evaluation: UserEvalFacts | null;
  losses: number[];
}

/** Of the stages that are made with the embedded engine; the judge is an endpoint. */
const engineTimes: Partial<Record<StageName, EngineTime>> = {
  personas: { busy_seconds: 26.1, load_seconds: 0.25 }, rewrite: { busy_seconds: 50, load_seconds: 0 }, reward: { busy_seconds: 81.25, load_seconds: 0 },
  train: { busy_seconds: 143.1, load_seconds: 0.25 }, eval: { busy_seconds: 104, load_seconds: 0 },
};
const stagesInOrder = ["mine", "feedback", "personas", "rewrite", "reward", "pairs", "train", "eval"] as const;

/** Fills `dir` (made if need be). The same options give the same files. */
export async function writeRunFolder(dir: string, options: FixtureOptions = {}): Promise<Fixture> {
  mkdirSync(dir, { recursive: true });
  const folder = runFolder(dir);
  const input = join(dir, "logs <b>.jsonl");
  writeFileSync(input, "{}\n");
  const config = runConfigSchema.parse({
    model: "/models/Tiny<i>Llama", data: { path: input, held_out: 0.6 }, models: { judge: "openai:http://user:secret@127.0.0.1:1/v1#judge-<b>8b" },
    rewards: { n: 4 }, eval: { max_prompts: 16 }, ...options.config,
  });
  const until = options.until === "report" ? "eval" : options.until ?? "eval";
  const did = (stage: (typeof stagesInOrder)[number]): boolean => stagesInOrder.indexOf(stage) <= stagesInOrder.indexOf(until);
  const conversations = makeConversations();
  const heldOutUsers = [...new Set(conversations.map((c) => c.user_id))].filter((id) => isHeldOut(id, config.data.held_out));
  const mined = miningFacts(conversations, heldOutUsers.length);
  const labels = makeLabels(conversations);
  const personas = makePersonas(conversations);
  const candidates = makeCandidates(conversations, labels, new Map(personas.map((p) => [p.conversation_id, renderPersona(p.persona, config.personas.max_words)])));
  const { pairs, filtered } = makePairs(candidates, config.data.held_out);
  const measured = pairs.filter((p) => p.held_out).length;
  const heldOut: HeldOutPairs = {
    before: { pairs: measured, loss: Math.LN2, "rewards/margins": 0, "rewards/accuracies": 0 }, after: { pairs: measured, loss: 0.6614, "rewards/margins": 0.0721, "rewards/accuracies": 0.75 },
  };
  const metrics = did("train") ? makeMetrics(options.steps ?? 24) : [];

  if (did("mine")) await writeConversations(folder.conversations, conversations);
  if (did("feedback")) jsonl(folder.feedback, labels);
  if (did("personas")) jsonl(folder.personas, personas);
  if (did("reward")) jsonl(folder.candidates, candidates);
  if (did("pairs")) jsonl(folder.pairs, pairs);
  if (did("pairs")) jsonl(folder.filtered, filtered);
  if (metrics.length > 0) jsonl(folder.metrics, metrics);
  const evaluation = did("eval") ? await evalStage({ folder, config, progress: silent, signal: new AbortController().signal, model: async (role) => standInModel(role), closeModels: async () => {}, clock: new BusyClock(), tokenizer: noTokenizer }) : null;

  const facts: Record<(typeof stagesInOrder)[number], StageFacts> = {
    mine: { ...mined }, feedback: { prompts: { "feedback <b>": "0123456789abcdef" } }, personas: {}, rewrite: {}, reward: {}, pairs: {}, train: { held_out_before: heldOut.before, held_out_after: heldOut.after }, eval: evaluation ?? {},
  };
  writeFileSync(folder.config, configYaml(config));
  const manifest = new Manifest(folder.manifest);
  for (const [i, stage] of stagesInOrder.entries()) {
    if (!did(stage)) continue;
    await manifest.begin(stage, config);
    manifest.end(stage, { seconds: 3.25 * (i + 1) ** 2, busy_seconds: 0, load_seconds: 0, ...engineTimes[stage] }, facts[stage]);
  }
  manifest.recordModel("policy", `native:${config.model}`, "00112233445566778899aabbccddeeff");
  manifest.recordModel("judge", config.models.judge ?? "", "an endpoint");
  return { folder, config, mined, labels, candidates, pairs, filtered, heldOut, evaluation, losses: metrics.map((m) => m["loss"] as number) };
}

const noTokenizer = (): never => { throw new Error("an evaluation asks for no tokenizer"); };

function jsonl(path: string, records: readonly unknown[]): void {
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
}

const message = (role: LoggedMessage["role"], content: string, gold: FeedbackLabel | null = null): LoggedMessage => ({ role, content, language: "English", flagged: false, gold_label: gold });

/** A piece of the list in turn, now and then behind a hostile text. */
function pick(list: readonly string[], i: number): string {
  return i % 4 === 3 ? `${hostileTexts[i % hostileTexts.length] ?? ""} ${list[i % list.length] ?? ""}` : list[i % list.length] ?? "";
}

function makeConversations(): Conversation[] {
  return Array.from({ length: 40 }, (_, i): Conversation => {
    const user = Math.floor(i / 4);
    const texts = [message("user", pick(requests, i)), message("assistant", pick(answers, i))];
    for (let turn = 0; turn < i % 4; turn += 1) {
      const [label, text] = followUps[(i + turn * 5) % followUps.length] ?? [null, ""];
      texts.push(message("user", (i + turn) % 7 === 3 ? `${hostileTexts[(i + turn) % hostileTexts.length] ?? ""} ${text}` : text, label), message("assistant", pick(answers, i + turn + 1)));
    }
    return {
      conversation_id: `c${i}<u>`, user_id: user === 3 ? "<b>user3</b>" : `user-${user}-${"0".repeat(50)}`, timestamp: new Date(Date.UTC(2024, 0, 1 + i)).toISOString(),
      source: "wildchat", model: "gpt-4", language: "English", flagged: false, messages: texts,
    };
  });
}

function miningFacts(conversations: readonly Conversation[], heldOutUsers: number): MiningFacts {
  return {
    files: [{ file: "logs.jsonl", source: "wildchat" }], read: 61,
    dropped: { malformed: 2, flagged: 3, language: 0, short_request: 1, long_message: 0, duplicate: 1, few_conversations: 14, max_conversations_per_user: 0, max_users: 0 },
    conversations: conversations.length, users: new Set(conversations.map((c) => c.user_id)).size, held_out_users: heldOutUsers,
    follow_ups: conversations.reduce((sum, c) => sum + followUpTurns(c).length, 0), languages: { English: conversations.length }, malformed: {}, repaired: {}, shortened: 0, source_notes: {},
  };
}

function makeLabels(conversations: readonly Conversation[]): FeedbackRecord[] {
  return conversations.flatMap((c) => followUpTurns(c).map((turn, i): FeedbackRecord => ({
    conversation_id: c.conversation_id, user_id: c.user_id, turn, label: c.messages[turn]?.gold_label ?? null, confidence: 0.9,
    decided_by: i % 2 === 0 ? "rules" : "model", evidence: {}, prompt_hash: "", model: "",
  })));
}

function makePersonas(conversations: readonly Conversation[]): PersonaRecord[] {
  return conversations.map((c, i): PersonaRecord => {
    const persona: Persona | null = i % 4 === 0 ? null : {
      summary: i % 4 === 1 ? "A backend developer who writes Go and wants terse answers." : `${hostileTexts[i % hostileTexts.length] ?? ""} ${"Prefers plain words, metric units and British spelling. ".repeat(12)}`,
      preferences: [{ dimension: "length", value: "two sentences", evidence: "c0" }, { dimension: "tone", value: "<b>warm</b>", evidence: "c0" }],
    };
    return { user_id: c.user_id, conversation_id: c.conversation_id, persona, from_conversations: [], outcome: persona === null ? "no_history" : "json", dropped_preferences: 0, prompt_hash: "", model: "" };
  });
}

const answer = (text: string, origin: CandidateRecord["answers"][number]["origin"], reward: number): CandidateRecord["answers"][number] => ({ text, origin, finish_reason: "stop", reward, reward_no_persona: null });

function makeCandidates(conversations: readonly Conversation[], labels: readonly FeedbackRecord[], personas: ReadonlyMap<string, string>): CandidateRecord[] {
  const base = (c: Conversation, turn: number): Pick<CandidateRecord, "user_id" | "conversation_id" | "turn" | "prompt" | "persona" | "models" | "prompt_hashes"> => ({
    user_id: c.user_id, conversation_id: c.conversation_id, turn, prompt: c.messages.slice(0, turn + 1).map(({ role, content }) => ({ role, content })),
    persona: personas.get(c.conversation_id) ?? "", models: {}, prompt_hashes: {},
  });
  return conversations.flatMap((c, i) => {
    const used = labels.filter((l) => l.conversation_id === c.conversation_id && l.label === "reattempt_with_feedback");
    const rewrites = used.map(({ turn }): CandidateRecord => ({
      ...base(c, turn - 2), id: `rewrite:${c.conversation_id}:${turn}`, method: "rewrite", follow_up_turn: turn, follow_up: c.messages[turn]?.content ?? "",
      answers: [answer(pick(answers, i + turn), "policy", 4.1), answer(`${pick(answers, i + turn + 1)}\n\nRewritten.`, "rewrite", 6.75)],
    }));
    const reward: CandidateRecord = {
      ...base(c, 0), id: `reward:${c.conversation_id}:0`, method: "reward", follow_up_turn: null, follow_up: "",
      answers: [0, 1, 2, 3].map((n) => answer(pick(answers, i + n), "policy", 3 + ((i + n) % 4) * 1.25)),
    };
    return i % 2 === 0 ? [...rewrites, reward] : rewrites;
  });
}

function makePairs(candidates: readonly CandidateRecord[], share: number): { pairs: PairRecord[]; filtered: FilteredRecord[] } {
  const pairs: PairRecord[] = [];
  const filtered: FilteredRecord[] = [];
  for (const [i, c] of candidates.entries()) {
    if (i % 5 === 4) {
      filtered.push({ id: c.id, user_id: c.user_id, method: c.method, filter: i % 2 === 0 ? "small_margin" : "leaked_feedback", detail: "<b>detail</b>" });
      continue;
    }
    const sorted = [...c.answers].sort((a, b) => (b.reward ?? 0) - (a.reward ?? 0));
    const [best, worst] = [sorted[0], sorted.at(-1)];
    const persona_used = i % 6 !== 0 && c.persona !== "";
    pairs.push({
      id: c.id, method: c.method, user_id: c.user_id, conversation_id: c.conversation_id, turn: c.turn, follow_up_turn: c.follow_up_turn,
      prompt: persona_used ? withPersona(c.prompt, c.persona) : c.prompt, chosen: [{ role: "assistant", content: best?.text ?? "" }], rejected: [{ role: "assistant", content: worst?.text ?? "" }],
      score_chosen: best?.reward ?? null, score_rejected: worst?.reward ?? null, persona_used, held_out: isHeldOut(c.user_id, share),
    });
  }
  return { pairs, filtered };
}

function makeMetrics(steps: number): Record<string, number>[] {
  const random = seededRandom(1);
  return Array.from({ length: steps }, (_, i) => {
    const noise = (random() - 0.5) * 0.04;
    const margin = (0.16 * i) / Math.max(1, steps) + (i === 0 ? 0 : noise);
    return {
      step: i + 1, loss: Math.log1p(Math.exp(-margin)), grad_norm: 1.5 + random(), learning_rate: 1e-6, "rewards/chosen": margin / 2, "rewards/rejected": -margin / 2,
      "rewards/margins": margin, "rewards/accuracies": i === 0 ? 0 : Math.min(1, Math.max(0, 0.5 + margin * 2 + noise)), num_tokens: 4000 * (i + 1), tokens_per_second: 900 + 100 * random(),
    };
  });
}
