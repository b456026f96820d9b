import { readConversations } from "../../conversations/store.js";
import { feedbackLabels, followUpTurns } from "../../conversations/types.js";
import type { Conversation, FeedbackLabel } from "../../conversations/types.js";
import { CalibrationSample, createClassifier } from "../../feedback/classifier.js";
import { followUpAt } from "../../feedback/rules.js";
import type { Classifier } from "../../feedback/classifier.js";
import type { FollowUp } from "../../feedback/rules.js";
import type { FeedbackRecord } from "../../feedback/types.js";
import { JsonlAppender, readJsonl } from "../../files.js";
import { feedbackPrompt } from "../../prompts/feedback.js";
import type { Stage, StageContext } from "../stage.js";

/** Follow-ups given to the classifier at once: enough for a model to be busy, few enough to hold. */
const batchSize = 512;

interface Pending {
  conversation_id: string;
  user_id: string;
  turn: number;
  followUp: FollowUp;
}

/** Labels every follow-up of conversations.parquet into feedback.jsonl, a line each as it is known; those in the file are not done again. */
export const feedbackStage: Stage = async (context) => {
  const { folder, config, progress } = context;
  const { total, sample } = await survey(folder.conversations);
  const classifier = createClassifier(config.feedback, () => context.model("classifier"), sample);
  const appender = new JsonlAppender(folder.feedback);
  try {
    const done = new Set<string>();
    for await (const record of readJsonl<FeedbackRecord>(folder.feedback)) done.add(keyOf(record));
    progress.start("labelling follow-ups", total, Math.min(total, done.size));
    for await (const batch of batches(folder.conversations, done)) await label(context, classifier, batch, appender);
  } finally {
    appender.close();
    progress.stop();
  }
  return { ...await factsOf(folder.feedback), classifier: config.feedback.classifier, prompts: config.feedback.classifier === "rules" ? {} : { [feedbackPrompt.id]: feedbackPrompt.hash } };
};

function keyOf({ conversation_id, turn }: { conversation_id: string; turn: number }): string {
  return `${conversation_id}\u0000${turn}`;
}

/** How many follow-ups there are, and those a model is calibrated on: of all of them, done or not, so that a resumed run agrees. */
async function survey(path: string): Promise<{ total: number; sample: FollowUp[] }> {
  let total = 0;
  const sample = new CalibrationSample<FollowUp>();
  for await (const conversation of readConversations(path)) {
    const pending = pendingOf(conversation);
    total += pending.length;
    for (const one of pending) sample.add(one.followUp, keyOf(one));
  }
  return { total, sample: sample.items() };
}

function pendingOf(conversation: Conversation): Pending[] {
  const { conversation_id, user_id, messages } = conversation;
  return followUpTurns(conversation).map((turn) => ({ conversation_id, user_id, turn, followUp: followUpAt(messages, turn) }));
}

async function* batches(path: string, done: ReadonlySet<string>): AsyncGenerator<Pending[]> {
  let batch: Pending[] = [];
  for await (const conversation of readConversations(path)) {
    batch.push(...pendingOf(conversation).filter((pending) => !done.has(keyOf(pending))));
    if (batch.length < batchSize) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

async function label({ progress, signal }: StageContext, classifier: Classifier, batch: readonly Pending[], appender: JsonlAppender): Promise<void> {
  await classifier.classify(batch.map(({ followUp }) => followUp), {
    signal,
    onResult: (index, verdict) => {
      const { conversation_id, user_id, turn } = batch[index] as Pending;
      appender.append({ conversation_id, user_id, turn, ...verdict } satisfies FeedbackRecord);
      progress.advance();
    },
  });
}

async function factsOf(path: string): Promise<Record<string, unknown>> {
  const labels = Object.fromEntries(feedbackLabels.map((name) => [name, 0])) as Record<FeedbackLabel, number>;
  const decided = { rules: 0, model: 0 };
  let followUps = 0;
  let abstained = 0;
  for await (const record of readJsonl<FeedbackRecord>(path)) {
    followUps += 1;
    if (record.label === null) abstained += 1;
    else labels[record.label] += 1;
    decided[record.decided_by] += 1;
  }
  return { follow_ups: followUps, labels, abstained, decided_by: decided };
}
