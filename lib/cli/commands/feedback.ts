import { join } from "node:path";
import type { ArgumentsCamelCase } from "yargs";
import { UsageError } from "../../errors.js";
import { classifierKinds } from "../../feedback/types.js";
import type { ClassifierKind } from "../../feedback/types.js";
import { defineCommand } from "../command.js";
import type { Tools } from "../command.js";
import { runFolderMode } from "../modes.js";
import { runFlags, shortPath, withRun } from "../run-folder.js";
import type { RunFlags } from "../run-folder.js";

interface EvaluateFlags {
  data?: string[] | undefined;
  classifier?: ClassifierKind | "all" | undefined;
  model?: string | undefined;
}

const settings = { classifier: "feedback.classifier", model: "models.classifier", "rules-threshold": "feedback.rules_threshold", "abstain-below": "feedback.abstain_below" };

export const feedback = defineCommand({
  command: "feedback [config]",
  describe: "label every follow-up: what does it say about the answer before it? Or measure the labels with --evaluate",
  flags: (yargs) => runFlags(yargs)
    .option("force", { type: "boolean", default: false, describe: "label again, and remove what later stages made of it" })
    .option("evaluate", { type: "boolean", default: false, describe: "precision, recall, F1, coverage and confusion against the labels in a file" })
    .option("data", { type: "string", array: true, requiresArg: true, describe: "of --evaluate: conversations whose follow-ups carry feedback_label (default: the bundled sample)" })
    .option("classifier", { choices: [...classifierKinds, "all"] as const, describe: "of --evaluate: which to measure (default: rules, or all with --model)" })
    .option("model", { type: "string", requiresArg: true, describe: "of --evaluate: native:PATH or openai:URL#model" })
    .option("rules-threshold", { type: "number", requiresArg: true, describe: "of --evaluate: rules decide alone from this confidence on (default 0.8)" })
    .option("abstain-below", { type: "number", requiresArg: true, describe: "of --evaluate: below this confidence the label is left open (default 0.4)" })
    .example("$0 feedback run.yaml", "label the follow-ups of runs/run/")
    .example("$0 feedback --evaluate", "how good are the rules on the bundled sample?")
    .example("$0 feedback --evaluate --data labelled.jsonl --model native:./SmolLM2-135M-Instruct --json", "all three classifiers on your own labels"),
  run: async (flags, tools) => {
    if (flags.evaluate === (flags.config !== undefined || flags.run !== undefined)) throw usage("give either a run.yaml (or --run DIR), or --evaluate");
    if (flags.evaluate) await evaluateAll(flags, tools);
    else await labelRun(flags, tools);
  },
  mode: (flags) => (flags.evaluate ? { name: "--evaluate", takes: (flag) => flag !== "force" } : runFolderMode(["force"], settings)),
});

function usage(what: string): UsageError {
  return new UsageError({ what, todo: "see rlhi-native feedback --help" });
}

async function labelRun(flags: RunFlags & { force: boolean }, tools: Tools): Promise<void> {
  await withRun(flags, tools, "feedback", async (run) => {
    const { runStage } = await import("../../run/run-stage.js");
    const { feedbackStage } = await import("../../run/stages/feedback.js");
    const { facts, skipped } = await runStage("feedback", feedbackStage, run, flags.force);
    tools.out.facts({ stage: "feedback", path: run.folder.feedback, skipped, ...facts }, `follow-ups labelled in ${shortPath(run.folder.feedback)}${skipped ? " (before)" : ""}`);
  });
}

async function evaluateAll(flags: ArgumentsCamelCase<EvaluateFlags>, tools: Tools): Promise<void> {
  const { packageRoot } = await import("../../engine/addon.js");
  const { evaluateClassifier, labelledFollowUps } = await import("../../feedback/labelled.js");
  const { sectionOfFlags } = await import("../section-flags.js");
  const wanted = flags.classifier ?? (flags.model === undefined ? "rules" : "all");
  const kinds: readonly ClassifierKind[] = wanted === "all" ? classifierKinds : [wanted];
  if (flags.model === undefined && kinds.some((kind) => kind !== "rules")) throw usage(`--classifier ${wanted} needs --model`);
  // Each classifier is measured by itself: that setting is the loop's.
  const feedbackSettings = sectionOfFlags("feedback", settings, { ...flags, classifier: undefined });
  const paths = flags.data ?? [join(packageRoot, "datasets", "sample", "conversations.jsonl")];
  const items = await labelledFollowUps(paths);
  const model = await openModel(flags.model, tools);
  try {
    for (const classifier of kinds) {
      const evaluation = await evaluateClassifier(items, { ...feedbackSettings, classifier }, model, tools);
      if (tools.out.json) tools.out.facts({ classifier, data: paths, model: classifier === "rules" ? null : flags.model, ...evaluation });
      else print(tools, classifier, evaluation);
    }
  } finally {
    await model?.close();
  }
}

async function openModel(spec: string | undefined, tools: Tools) {
  if (spec === undefined) return undefined;
  const { runConfigSchema } = await import("../../config.js");
  const { openChatModel } = await import("../../chat-models/open.js");
  const { endpoint, dtype, threads } = runConfigSchema.parse({ model: spec, data: { path: "-" } });
  return openChatModel(spec, { endpoint, dtype, threads, note: (text) => tools.progress.note(text) });
}

function print({ out }: Tools, classifier: ClassifierKind, evaluation: import("../../feedback/evaluate.js").Evaluation): void {
  const { labels, confusion, calibration, ...totals } = evaluation;
  out.facts(totals, `\n${classifier}`);
  out.table(labels.map((score) => ({ ...score })), "\nby label");
  out.table(Object.entries(confusion).map(([gold, row]) => ({ "in the file": gold, ...row })), "\nin the file (rows), given (columns)");
  out.table(calibration, "\nby confidence");
}
