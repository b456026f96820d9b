import { isHeldOut } from "../../conversations/split.js";
import { readConversations } from "../../conversations/store.js";
import type { Conversation } from "../../conversations/types.js";
import { requestsOf, selectRequests as selectEvalRequests } from "../../eval/requests.js";
import type { EvalRequest } from "../../eval/types.js";
import { JsonlAppender, readJsonl } from "../../files.js";
import { readFeedbackLabels, selectRequests } from "../../pairs/requests.js";
import type { FeedbackLabels } from "../../pairs/requests.js";
import { History } from "../../personas/history.js";
import { inferPersonas } from "../../personas/infer.js";
import type { PersonaTask } from "../../personas/infer.js";
import type { PersonaRecord } from "../../personas/types.js";
import { personaPrompt } from "../../prompts/persona.js";
import type { Stage, StageContext } from "../stage.js";

/** Personas asked for at once. */
const batchSize = 256;

/** A persona for every conversation in which a later stage uses one, from its user's earlier conversations, into personas.jsonl. */
export const personasStage: Stage = async (context) => {
  const { folder, config, progress } = context;
  const appender = new JsonlAppender(folder.personas);
  try {
    if (config.personas.enabled) {
      const labels = await readFeedbackLabels(folder.feedback);
      const needed = await conversationsInNeed(context, labels);
      const done = new Set<string>();
      for await (const { conversation_id } of readJsonl<PersonaRecord>(folder.personas)) done.add(conversation_id);
      const left = new Set([...needed].filter((id) => !done.has(id)));
      progress.start("inferring personas", needed.size, needed.size - left.size);
      await inferAll(context, labels, left, appender);
    }
  } finally {
    appender.close();
    progress.stop();
  }
  return factsOf(context);
};

/** Conversations with a request that is rewritten, sampled or judged. */
async function conversationsInNeed({ folder, config }: StageContext, labels: FeedbackLabels): Promise<Set<string>> {
  const needed = new Set<string>();
  const inTraining = config.personas.at === "train_and_inference";
  for (const [stage, enabled] of [["rewrite", config.rewrites.enabled], ["reward", config.rewards.enabled]] as const) {
    if (!enabled || !inTraining) continue;
    for (const { conversation_id } of (await selectRequests(stage, folder, config, labels)).refs) needed.add(conversation_id);
  }
  if (!config.eval.enabled) return needed;
  const requests: EvalRequest[] = [];
  for await (const conversation of readConversations(folder.conversations)) {
    if (isHeldOut(conversation.user_id, config.data.held_out)) requests.push(...requestsOf(conversation, labels.get(conversation.conversation_id) ?? new Map(), ""));
  }
  for (const { conversation_id } of selectEvalRequests(requests, config.eval.max_prompts, config.seed)) needed.add(conversation_id);
  return needed;
}

async function inferAll(context: StageContext, labels: FeedbackLabels, left: ReadonlySet<string>, appender: JsonlAppender): Promise<void> {
  const { config, folder, progress, signal } = context;
  const write = (record: PersonaRecord): void => {
    appender.append(record);
    progress.advance();
  };
  let tasks: PersonaTask[] = [];
  const flush = async (): Promise<void> => {
    signal.throwIfAborted();
    if (tasks.length === 0) return;
    await inferPersonas(await context.model("persona"), tasks, {
      settings: config.personas, seed: config.seed, signal, onResult: write,
      feedback: (conversation, turn) => labels.get(conversation)?.get(turn),
    });
    tasks = [];
  };
  for await (const ofUser of byUser(folder.conversations)) {
    const history = new History(ofUser);
    for (const conversation of ofUser) {
      if (!left.has(conversation.conversation_id)) continue;
      signal.throwIfAborted();
      const earlier = history.before(conversation, config.personas.max_conversations);
      if (earlier.length === 0) write(withoutHistory(conversation));
      else tasks.push({ conversation, earlier });
      // Within a user too: one of thousands of conversations is neither held as one batch nor deaf to Ctrl-C.
      if (tasks.length >= batchSize) await flush();
    }
  }
  await flush();
}

/** conversations.parquet is ordered by user: a user's conversations come together. */
async function* byUser(path: string): AsyncGenerator<Conversation[]> {
  let group: Conversation[] = [];
  for await (const conversation of readConversations(path)) {
    if (group.length > 0 && group[0]?.user_id !== conversation.user_id) {
      yield group;
      group = [];
    }
    group.push(conversation);
  }
  if (group.length > 0) yield group;
}

function withoutHistory({ user_id, conversation_id }: Conversation): PersonaRecord {
  return { user_id, conversation_id, persona: null, from_conversations: [], outcome: "no_history", dropped_preferences: 0, prompt_hash: "", model: "" };
}

async function factsOf({ folder, config }: StageContext): Promise<Record<string, unknown>> {
  const outcomes: Record<PersonaRecord["outcome"], number> = { json: 0, json_retry: 0, quotes: 0, summary: 0, nothing: 0, no_history: 0 };
  const users = new Set<string>();
  let conversations = 0;
  let personas = 0;
  let preferences = 0;
  let dropped = 0;
  for await (const record of readJsonl<PersonaRecord>(folder.personas)) {
    conversations += 1;
    outcomes[record.outcome] += 1;
    dropped += record.dropped_preferences;
    preferences += record.persona?.preferences.length ?? 0;
    if (record.persona === null) continue;
    personas += 1;
    users.add(record.user_id);
  }
  return {
    enabled: config.personas.enabled, conversations, personas, users_with_persona: users.size, preferences, dropped_preferences: dropped, outcomes,
    prompts: { [personaPrompt.id]: personaPrompt.hash },
  };
}
