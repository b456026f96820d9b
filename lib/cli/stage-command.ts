/** A command that runs one stage of the method in a run folder. */
import type { Stage, StageName } from "../run/stage.js";
import { defineCommand } from "./command.js";
import type { Command } from "./command.js";

export interface StageCommand {
  name: StageName;
  describe: string;
  /** What the stage reads, does and writes, for --help. */
  epilogue: string;
  load: () => Promise<Stage>;
  /** Title of the printed facts. */
  title: (dir: string) => string;
}

export function defineStageCommand({ name, describe, epilogue, load, title }: StageCommand): Command {
  return defineCommand({
    command: `${name} <config>`,
    describe,
    flags: (yargs) => yargs
      .positional("config", { type: "string", demandOption: true, describe: "run.yaml: the run's settings" })
      .option("run", { type: "string", requiresArg: true, describe: "run folder (default: runs/NAME for NAME.yaml)" })
      .option("force", { type: "boolean", default: false, describe: "do a finished stage again; removes its files and those of later stages" })
      .example(`$0 ${name} run.yaml`, "in runs/run/; stopped or killed, the same command goes on")
      .example(`$0 ${name} run.yaml --run runs/two --json`, "in another run folder, facts as JSON")
      .epilogue(epilogue),
    run: async (flags, tools) => {
      const { loadRunConfig } = await import("../config-file.js");
      const { defaultRunDir, openRun } = await import("../run/context.js");
      const { runStage } = await import("../run/run-stage.js");
      const run = openRun({ config: loadRunConfig(flags.config), dir: flags.run ?? defaultRunDir(flags.config), progress: tools.progress, signal: tools.signal });
      try {
        const { facts, skipped, seconds } = await runStage(name, await load(), run, flags.force);
        const { prompts, ...shown } = facts;
        tools.out.facts({ stage: name, skipped, seconds: Math.round(seconds * 10) / 10, ...shown, ...(tools.out.json ? { prompts } : {}) }, `${title(run.folder.dir)}${skipped ? " (finished before; --force does it again)" : ""}`);
      } finally {
        await run.close();
      }
    },
  });
}
