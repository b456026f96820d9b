/** What `npm run quickstart` does once everything is built: the whole method on the bundled sample, or on files of one's own. */
import { existsSync } from "node:fs";
import { basename, extname, join, resolve } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, exitCodeOf, withTools } from "../cli/command.js";
import type { Tools } from "../cli/command.js";
import { shortPath, withOpenRun } from "../cli/run-folder.js";
import { stageNotes } from "../cli/stage-notes.js";
import { loadRunConfig } from "../config-file.js";
import type { RunConfig, RunConfigInput } from "../config.js";
import { packageRoot } from "../engine/addon.js";
import { UsageError } from "../errors.js";
import { sha256 } from "../files.js";
import { pairFilters } from "../pairs/types.js";
import { runPipeline } from "../run/pipeline.js";
import { headline } from "../report/headline.js";
import { defaultModel } from "./model.js";

const sample = join(packageRoot, "datasets", "sample", "conversations.jsonl");

/**
 * Small enough for two CPU cores and a quarter of an hour, whatever the data: the sizes that cost time are bounded, and
 * everything else is the method's default.
 */
export function quickstartConfig(model: string, data: string, minConversations = 3): RunConfig {
  const input: RunConfigInput = {
    model,
    data: { path: data, min_conversations: minConversations, held_out: 0.2, max_message_chars: 4000, max_users: 40, max_conversations_per_user: 6 },
    // The default model has 135 million parameters: measured on the sample it labels worse than the rules (docs/benchmarks.md).
    feedback: { classifier: "rules" },
    personas: { max_new_tokens: 128, max_conversations: 5, max_words: 100 },
    rewrites: { max: 48, max_new_tokens: 128 },
    // At temperature 1 a model this small loses the thread.
    rewards: { n: 4, max: 36, max_new_tokens: 96, score_without_persona: false, temperature: 0.8, top_p: 0.95 },
    // A small model hardly ever comes to its end within limits this short; both answers of a pair are cut alike.
    pairs: { max_tokens: 1024, min_margin: 0.02, filters: pairFilters.filter((name) => name !== "unfinished_answer") },
    // Ten steps: at the method's default of 1e-6 nothing would be seen of them.
    train: { learning_rate: 1e-5, pairs_per_step: 8, num_epochs: 2, warmup_steps: 2, save_steps: 5, max_tokens_per_micro_batch: 1536 },
    eval: { max_prompts: 24, max_new_tokens: 96 },
  };
  return loadRunConfig(undefined, input);
}

interface QuickstartFlags {
  data?: string | undefined;
  model?: string | undefined;
  run?: string | undefined;
  minConversations: number;
}

async function quickstart(flags: QuickstartFlags, tools: Tools): Promise<void> {
  const { out, progress, signal } = tools;
  const data = fromHere(flags.data) ?? sample;
  if (!existsSync(data)) throw new UsageError({ what: "no such file", where: data, todo: "give --data a Parquet, JSON or JSONL file of conversations" });
  const dir = fromHere(flags.run) ?? join(packageRoot, "runs", data === sample ? "quickstart" : `quickstart-${basename(data, extname(data))}-${sha256(data).slice(0, 6)}`);
  const model = fromHere(flags.model) ?? await defaultModel(join(packageRoot, "models"), progress, signal);
  await withOpenRun({ config: quickstartConfig(model, data, flags.minConversations), dir }, tools, () => "Run the same command again to go on", async (context) => {
    await runPipeline(context, { onStage: stageNotes(progress) });
    const facts = await headline(context.folder, context.config);
    const seconds = Object.values(facts["seconds_by_stage"] as Record<string, number>).reduce((a, b) => a + b, 0);
    out.facts({ ...facts, minutes: Math.round(seconds / 0.6) / 100, report: context.folder.report, model: context.folder.model }, "done");
    out.text(`\nopen in a browser: ${shortPath(context.folder.report)}\ntalk to the trained model: npx rlhi-native chat --model ${shortPath(context.folder.model)}`);
  });
}

/** Paths are meant from where npm was called, which is not always the package's root. */
function fromHere(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(process.env["INIT_CWD"] ?? process.cwd(), path);
}

async function main(args: string[]): Promise<number> {
  try {
    const flags = await yargs(args)
      .scriptName("npm run quickstart --")
      .usage("$0\n\nThe whole method on the bundled sample with a small model; ends with a report. Run it again and it goes on where it stopped.")
      .option("data", { type: "string", requiresArg: true, describe: "conversations of your own (Parquet, JSON or JSONL); default: the bundled sample" })
      .option("model", { type: "string", requiresArg: true, describe: "a Hugging Face folder or GGUF file; default: SmolLM2-135M-Instruct, downloaded once" })
      .option("min-conversations", { type: "number", requiresArg: true, default: 3, describe: "users with fewer are left out; a persona takes at least 2" })
      .option("run", { type: "string", requiresArg: true, describe: "run folder; default: runs/quickstart, or one named after the data" })
      .option("quiet", { type: "boolean", default: false, describe: "no progress on stderr" })
      .option("json", { type: "boolean", default: false, describe: "print the final facts as JSON" })
      .locale("en").strict().version(false).exitProcess(false)
      .fail((message: string | null, error: Error | undefined) => {
        if (error !== undefined && error.name !== "YError") throw error;
        throw new UsageError({ what: message ?? "wrong arguments", todo: "see npm run quickstart -- --help" });
      })
      .parseAsync();
    if (!args.includes("--help")) await withTools(flags, (tools) => quickstart(flags, tools));
    return 0;
  } catch (error) {
    process.stderr.write(describeError(error, args.includes("--json")));
    return exitCodeOf(error);
  }
}

const code = await main(hideBin(process.argv));
process.stdout.write("", () => process.exit(code));
