/** What `npm run quickstart` does once everything is built: the whole method on the bundled sample, or on files of one's own. */
import { existsSync } from "node:fs";
import { basename, extname, join, relative, resolve } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, exitCodeOf, withTools } from "../cli/command.js";
import { stageNotes } from "../cli/stage-notes.js";
import { runConfigSchema } from "../config.js";
import type { RunConfig, RunConfigInput } from "../config.js";
import { packageRoot } from "../engine/addon.js";
import { UsageError } from "../errors.js";
import { sha256 } from "../files.js";
import { openRun } from "../run/context.js";
import { runPipeline } from "../run/pipeline.js";
import { headline } from "../report/headline.js";
import { defaultModel } from "./model.js";

const sample = join(packageRoot, "datasets", "sample", "conversations.jsonl");

/**
 * Small enough for two CPU cores and a quarter of an hour, whatever the data: the sizes that cost time are bounded, and
 * everything else is the method's default.
 */
export function quickstartConfig(model: string, data: string): RunConfig {
  const input: RunConfigInput = {
    model,
    data: { path: data, min_conversations: 3, held_out: 0.2, max_message_chars: 4000, max_users: 40, max_conversations_per_user: 6 },
    personas: { max_new_tokens: 128, max_conversations: 5, max_words: 100 },
    rewrites: { max: 48, max_new_tokens: 128 },
    rewards: { n: 4, max: 36, max_new_tokens: 96, score_without_persona: false },
    pairs: { max_tokens: 1024, min_margin: 0.02 },
    train: { learning_rate: 2e-6, pairs_per_step: 8, num_epochs: 2, warmup_steps: 2, save_steps: 5, max_tokens_per_micro_batch: 1536 },
    eval: { max_prompts: 24, max_new_tokens: 96 },
  };
  return runConfigSchema.parse(input);
}

async function main(args: string[]): Promise<number> {
  try {
    const flags = await yargs(args)
      .scriptName("npm run quickstart --")
      .usage("$0\n\nThe whole method on the bundled sample with a small model; ends with a report. Run it again and it goes on where it stopped.")
      .option("data", { type: "string", describe: "conversations of your own (Parquet, JSON or JSONL); default: the bundled sample" })
      .option("model", { type: "string", describe: "a Hugging Face folder or GGUF file; default: SmolLM2-135M-Instruct, downloaded once" })
      .option("run", { type: "string", describe: "run folder; default: runs/quickstart, or one named after the data" })
      .option("quiet", { type: "boolean", default: false, describe: "no progress on stderr" })
      .option("json", { type: "boolean", default: false, describe: "print the final facts as JSON" })
      .strict().version(false).exitProcess(false)
      .fail((message: string | null, error: Error | undefined) => {
        if (error !== undefined && error.name !== "YError") throw error;
        throw new UsageError({ what: message ?? "wrong arguments", todo: "see npm run quickstart -- --help" });
      })
      .parseAsync();
    if (args.includes("--help")) return 0;
    await withTools(flags, async ({ out, progress, signal }) => {
      const data = resolve(flags.data ?? sample);
      if (!existsSync(data)) throw new UsageError({ what: "no such file", where: data, todo: "give --data a Parquet, JSON or JSONL file of conversations" });
      const model = flags.model === undefined ? await defaultModel(join(packageRoot, "models"), progress, signal) : resolve(flags.model);
      const dir = flags.run ?? join(packageRoot, "runs", flags.data === undefined ? "quickstart" : `quickstart-${basename(data, extname(data))}-${sha256(data).slice(0, 6)}`);
      const context = openRun({ config: quickstartConfig(model, data), dir, progress, signal });
      const start = performance.now();
      try {
        await runPipeline(context, { onStage: stageNotes(progress) });
        const facts = { ...(await headline(context.folder, context.config)), minutes: Math.round((performance.now() - start) / 600) / 100, report: context.folder.report };
        out.facts(facts, "done");
        out.text(`\nOpen ${relative(process.cwd(), context.folder.report) || context.folder.report} in a browser. The trained model is ${relative(process.cwd(), context.folder.model)};\ntalk to it with: npx rlhi-native chat --model ${relative(process.cwd(), context.folder.model)}`);
      } finally {
        await context.close();
      }
    });
    return 0;
  } catch (error) {
    process.stderr.write(describeError(error, args.includes("--json")));
    return exitCodeOf(error);
  }
}

const code = await main(hideBin(process.argv));
process.stdout.write("", () => process.exit(code));
