/** Follow-ups whose labels an author gave, and how a classifier does on them. */
import type { ChatModel } from "../chat-models/types.js";
import { normalize } from "../conversations/normalize.js";
import { openSources, readSources } from "../conversations/sources/index.js";
import { Notes } from "../conversations/sources/source.js";
import { followUpTurns } from "../conversations/types.js";
import type { FeedbackLabel } from "../conversations/types.js";
import { RlhiError } from "../errors.js";
import type { Progress } from "../progress.js";
import { CalibrationSample, createClassifier } from "./classifier.js";
import type { FeedbackSettings } from "./classifier.js";
import { evaluate } from "./evaluate.js";
import type { Evaluation, Labelled } from "./evaluate.js";
import { followUpAt } from "./rules.js";
import type { FollowUp } from "./rules.js";

export interface LabelledFollowUp {
  followUp: FollowUp;
  gold: FeedbackLabel;
}

/** Every labelled follow-up of the files, unfiltered. Throws where there is none. */
export async function labelledFollowUps(paths: readonly string[]): Promise<LabelledFollowUp[]> {
  const items: LabelledFollowUp[] = [];
  for await (const { source, raw } of readSources(await openSources(paths), new Notes())) {
    const normalized = normalize(raw, source);
    if ("malformed" in normalized) continue;
    const { messages } = normalized.conversation;
    for (const turn of followUpTurns(normalized.conversation)) {
      const gold = messages[turn]?.gold_label ?? null;
      if (gold !== null) items.push({ followUp: followUpAt(messages, turn), gold });
    }
  }
  if (items.length > 0) return items;
  throw new RlhiError("ERR_NO_LABELS", {
    what: "no follow-up in these files has a label",
    where: paths.join(", "),
    expected: "user messages after the first with feedback_label",
    todo: "label some follow-ups (docs/formats.md), or give another file",
  });
}

export async function evaluateClassifier(
  items: readonly LabelledFollowUp[],
  settings: FeedbackSettings,
  model: ChatModel | undefined,
  options: { progress: Progress; signal: AbortSignal },
): Promise<Evaluation> {
  const results: Labelled[] = [];
  options.progress.start(`labelling by ${settings.classifier}`, items.length);
  const opened = (): Promise<ChatModel> => (model === undefined ? Promise.reject(new Error("no model was opened")) : Promise.resolve(model));
  const followUps = items.map(({ followUp }) => followUp);
  const sample = new CalibrationSample<FollowUp>();
  for (const followUp of followUps) sample.add(followUp, [followUp.request, followUp.answer, followUp.text].join("\u0000"));
  await createClassifier(settings, opened, sample.items()).classify(followUps, {
    signal: options.signal,
    onResult: (index, { label, confidence }) => {
      results.push({ gold: (items[index] as LabelledFollowUp).gold, label, confidence });
      options.progress.advance();
    },
  });
  options.progress.stop();
  return evaluate(results);
}
