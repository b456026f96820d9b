import { join, resolve } from "node:path";
import type { ArgumentsCamelCase } from "yargs";
import { UsageError } from "../../errors.js";
import type { MiningFacts } from "../../conversations/mining.js";
import { sourceNames } from "../../conversations/sources/source.js";
import { defineCommand } from "../command.js";
import type { Tools } from "../command.js";
import { runFolderMode } from "../modes.js";
import { runFlags, withRun } from "../run-folder.js";
import type { RunFlags } from "../run-folder.js";

const settings = {
  data: "data.path", source: "data.source", languages: "data.languages", "min-conversations": "data.min_conversations", "max-users": "data.max_users", "include-flagged": "data.include_flagged",
};
const ofRunFolder = ["force", "feedback"];
const inRunFolder = ({ config, run }: RunFlags): boolean => config !== undefined || run !== undefined;

export const mine = defineCommand({
  command: "mine [config]",
  describe: "conversations from log files: filtered, repaired, ordered by user and time",
  flags: (yargs) => runFlags(yargs)
    .option("force", { type: "boolean", default: false, describe: "mine again, and remove what later stages made of it" })
    .option("feedback", { type: "boolean", default: true, describe: "with a config: go on to label the follow-ups (--no-feedback: do not)" })
    .option("data", { type: "string", array: true, requiresArg: true, describe: "without a config: files or glob patterns (Parquet, JSON, JSONL)" })
    .option("out", { type: "string", requiresArg: true, describe: "without a config: folder for conversations.parquet" })
    .option("source", { choices: ["auto", ...sourceNames] as const, default: "auto" as const, describe: "the files' schema" })
    .option("languages", { type: "string", array: true, requiresArg: true, describe: "keep only these (English names or codes)" })
    .option("min-conversations", { type: "number", requiresArg: true, describe: "drop users with fewer (default 3)" })
    .option("max-users", { type: "number", requiresArg: true, describe: "stop after this many users" })
    .option("include-flagged", { type: "boolean", describe: "keep conversations the source calls toxic or moderated" })
    .example("$0 mine run.yaml", "into runs/run/")
    .example("$0 mine --data 'wildchat/*.parquet' --languages English --out mined", "only mine, with defaults for the rest"),
  run: async (flags, tools) => {
    if (inRunFolder(flags)) await mineRun(flags, tools);
    else await mineFiles(flags, tools);
  },
  mode: (flags) => (inRunFolder(flags) ? runFolderMode(ofRunFolder, settings) : { name: "--data", takes: (flag) => !ofRunFolder.includes(flag) }),
});

function usage(what: string): UsageError {
  return new UsageError({ what, todo: "see rlhi-native mine --help" });
}

async function mineRun(flags: RunFlags & { force: boolean; feedback: boolean }, tools: Tools): Promise<void> {
  await withRun(flags, tools, "mine", async (run) => {
    const { runStage } = await import("../../run/run-stage.js");
    const { mineStage } = await import("../../run/stages/mine.js");
    const mined = await runStage("mine", mineStage, run, flags.force);
    printFacts(tools, run.folder.conversations, mined.facts, mined.skipped);
    if (!flags.feedback) return;
    const { feedbackStage } = await import("../../run/stages/feedback.js");
    const labelled = await runStage("feedback", feedbackStage, run);
    tools.out.facts({ stage: "feedback", skipped: labelled.skipped, ...labelled.facts }, `follow-ups labelled in ${run.folder.feedback}`);
  });
}

async function mineFiles(flags: ArgumentsCamelCase<{ data?: string[] | undefined; out?: string | undefined }>, tools: Tools): Promise<void> {
  if (flags.data === undefined) throw usage("give either a run.yaml (or --run DIR), or --data FILE --out DIR");
  if (flags.out === undefined) throw usage("--data needs --out DIR, the folder for conversations.parquet");
  const mining = await import("../../conversations/mining.js");
  const { sectionOfFlags } = await import("../section-flags.js");
  const path = join(resolve(flags.out), "conversations.parquet");
  printFacts(tools, path, { ...await mining.mine(sectionOfFlags("data", settings, flags), path, { progress: tools.progress, signal: tools.signal }) }, false);
}

function printFacts(tools: Tools, path: string, facts: Record<string, unknown>, skipped: boolean): void {
  const dropped = Object.fromEntries(Object.entries((facts as Partial<MiningFacts>).dropped ?? {}).filter(([, n]) => n > 0));
  const shown = tools.out.json ? facts : { ...facts, files: undefined, dropped };
  tools.out.facts({ stage: "mine", path, skipped, ...shown }, `conversations in ${path}${skipped ? " (mined before)" : ""}`);
}
