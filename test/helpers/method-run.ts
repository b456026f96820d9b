/** A run folder with conversations and labels, a tiny policy, and settings for the stages that make pairs. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { loadRunConfig } from "../../lib/config-file.js";
import type { RunConfig } from "../../lib/config.js";
import { writeConversations } from "../../lib/conversations/index.js";
import { followUpTurns } from "../../lib/conversations/types.js";
import type { Conversation, FeedbackLabel } from "../../lib/conversations/types.js";
import type { FeedbackRecord } from "../../lib/feedback/types.js";
import { silent } from "../../lib/progress.js";
import { openRun } from "../../lib/run/context.js";
import type { RunContext } from "../../lib/run/context.js";
import { Manifest } from "../../lib/run/manifest.js";
import { writeTinyModel } from "./tiny-model.js";

export interface LoggedConversation {
  user: string;
  id: string;
  /** Day of January 2024. */
  day: number;
  /** user, assistant, user, ... */
  texts: string[];
  /** Of the follow-ups, in order. */
  labels?: (FeedbackLabel | null)[];
}

export interface MethodRun {
  dir: string;
  /** run.yaml outside of the run folder. */
  configPath: string;
  config: RunConfig;
}

/** `users` users of `each` conversations: a request, an answer, feedback on it, an answer, another request. */
export function sampleLogs(users: number, each: number): LoggedConversation[] {
  return Array.from({ length: users * each }, (_, i): LoggedConversation => {
    const user = `user-${Math.floor(i / each)}`;
    return {
      user, id: `conversation-${i}`, day: 1 + (i % each),
      texts: [`Tell me something about topic ${i}, please.`, `Topic ${i} is a long story that the old answer tells.`, `No, make it shorter and name the year ${1900 + i}.`, `Year ${1900 + i}.`, `What comes after topic ${i}?`],
      labels: ["reattempt_with_feedback", "new_request"],
    };
  });
}

/** Writes what `mine` and `feedback` would leave, and run.yaml with `settings` over small defaults. */
export async function methodRun(dir: string, logs: readonly LoggedConversation[], settings: Record<string, unknown> = {}): Promise<MethodRun> {
  const run = join(dir, "run");
  mkdirSync(run, { recursive: true });
  const modelDir = join(dir, "model");
  const model = writeTinyModel(modelDir, { seed: 3, maxPosition: 1024 }).path;
  const data = join(dir, "logs.jsonl");
  writeFileSync(data, "{}\n");
  const configPath = join(dir, "run.yaml");
  const small = { max_new_tokens: 12 };
  writeFileSync(configPath, stringify({
    model, dtype: "f32", threads: 1, data: { path: data, held_out: 0.3 }, personas: { max_new_tokens: 32 }, rewrites: small, rewards: { ...small, n: 3 },
    pairs: { max_tokens: 1024, min_margin: 0, filters: ["empty_answer", "tie", "small_margin", "too_long", "per_user_cap"] }, eval: small, ...settings,
  }));
  const config = loadRunConfig(configPath);
  const conversations = logs.map(conversationOf);
  await writeConversations(join(run, "conversations.parquet"), conversations);
  writeFileSync(join(run, "feedback.jsonl"), logs.flatMap(feedbackOf).map((record) => `${JSON.stringify(record)}\n`).join(""));
  const manifest = new Manifest(join(run, "manifest.json"));
  for (const stage of ["mine", "feedback"] as const) {
    await manifest.begin(stage, config);
    manifest.end(stage, { seconds: 0, busy_seconds: 0, load_seconds: 0 }, {});
  }
  return { dir: run, configPath, config };
}

export function openMethodRun({ dir, config }: MethodRun, signal: AbortSignal = new AbortController().signal): RunContext {
  return openRun({ config, dir, progress: silent, signal });
}

function conversationOf({ user, id, day, texts }: LoggedConversation): Conversation {
  return {
    conversation_id: id, user_id: user, timestamp: new Date(Date.UTC(2024, 0, day)).toISOString(), source: "messages", model: "", language: "English", flagged: false,
    messages: texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content, language: "English", flagged: false, gold_label: null })),
  };
}

function feedbackOf(log: LoggedConversation): FeedbackRecord[] {
  return followUpTurns(conversationOf(log)).map((turn, i) => ({
    conversation_id: log.id, user_id: log.user, turn, label: log.labels?.[i] ?? null, confidence: 1, decided_by: "rules", evidence: {}, prompt_hash: "", model: "",
  }));
}
