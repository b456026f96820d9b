import { stageNames } from "../../run/stage.js";
import { defineCommand } from "../command.js";
import { runFlags, shortPath, withRun } from "../run-folder.js";
import { stageNotes } from "../stage-notes.js";

const details = `A run.yaml to start with; every other setting has a default:

  model: ./SmolLM2-135M-Instruct     # Hugging Face folder or GGUF file
  data:
    path: conversations.jsonl        # Parquet, JSON or JSONL; also lists and patterns like logs/*.parquet
    min_conversations: 3             # users with fewer are left out
    held_out: 0.1                    # share of users kept for the evaluation
  # models:                          # other models for single parts; default: the one above
  #   judge: openai:http://localhost:8000/v1#my-judge

Everything goes into runs/NAME for NAME.yaml. Interrupted or killed, the same command goes on where it stopped; a finished run is not done again. \
A changed setting is refused, with the stage that used it: --force STAGE makes that stage and those after it again.`;

export const run = defineCommand({
  command: "run [config]",
  describe: "the whole method: conversations to feedback, personas, pairs, training, evaluation and a report",
  flags: (yargs) => runFlags(yargs)
    .option("force", { choices: stageNames, requiresArg: true, describe: "begin again from this stage: its files and those of later stages are removed" })
    .example("$0 run run.yaml", "into runs/run; the report is runs/run/report.html")
    .example("$0 run runs/run", "go on with a run by its folder")
    .example("$0 run run.yaml --force train", "keep the pairs, train and evaluate again")
    .epilogue(details),
  run: (flags, tools) => withRun(flags, tools, "run", async (context) => {
    const { runPipeline } = await import("../../run/pipeline.js");
    const { headline } = await import("../../report/headline.js");
    await runPipeline(context, { force: flags.force, onStage: stageNotes(tools.progress) });
    tools.out.facts({ run: context.folder.dir, ...(await headline(context.folder, context.config)), report: context.folder.report, model: context.folder.model }, "done");
    tools.out.text(`\nopen in a browser: ${shortPath(context.folder.report)}\ntalk to the trained model: rlhi-native chat --model ${shortPath(context.folder.model)}`);
  }),
});
