/** What the feedback stage needs, with a stand-in for the model whose verdicts depend on the follow-up alone. */
import { runConfigSchema } from "../../lib/config.js";
import { BusyClock } from "../../lib/engine/busy-clock.js";
import { silent } from "../../lib/progress.js";
import { hashUnit } from "../../lib/random.js";
import { runFolder } from "../../lib/run/folder.js";
import type { StageContext } from "../../lib/run/stage.js";
import { fakeModel } from "./fake-model.js";
import type { FakeModel } from "./fake-model.js";

export interface FeedbackContext extends StageContext {
  readonly fake: FakeModel;
}

export function feedbackContext(dir: string, delayMs = 0): FeedbackContext {
  const fake = fakeModel((messages, labels) => labels.map((label) => hashUnit(label, messages.at(-1)?.content ?? "") ** 4), { delayMs });
  return {
    fake,
    folder: runFolder(dir),
    config: runConfigSchema.parse({ model: "unused", data: { path: "unused" }, feedback: { classifier: "both", rules_threshold: 0.8 } }),
    progress: silent,
    signal: new AbortController().signal,
    clock: new BusyClock(),
    tokenizer: () => { throw new Error("the stage asks its model alone"); },
    model: () => Promise.resolve(fake),
    closeModels: () => Promise.resolve(),
  };
}
