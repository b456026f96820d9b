#!/usr/bin/env node
/** The command line. Handlers load what they need themselves, so that --help answers at once. */
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { packageVersion } from "../engine/addon.js";
import { UsageError } from "../errors.js";
import { describeError, exitCodeOf } from "./command.js";
import { commands } from "./commands.js";

/** A reader that went away (`| head`) is no error. */
function tolerateClosedPipe(stream: NodeJS.WriteStream): void {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
}

/** Names of flags whose value is nothing: yargs reads it as 0 where a number is wanted. */
function emptyFlags(args: readonly string[]): string[] {
  return args.flatMap((arg, index) => {
    const [, name, value = args[index + 1]] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? [];
    return name !== undefined && value?.trim() === "" ? [name] : [];
  });
}

/** "--beta abc" arrives as NaN. */
function checkValues(argv: Record<string, unknown>, empty: readonly string[]): true {
  const nothing = empty.find((name) => typeof argv[name] === "number");
  if (nothing !== undefined) throw new UsageError({ what: "not a number", where: `--${nothing}`, expected: "a number, e.g. 0.1 or 1e-6", found: "nothing" });
  for (const [name, value] of Object.entries(argv)) {
    if (typeof value === "number" && Number.isNaN(value)) throw new UsageError({ what: "not a number", where: `--${name}`, expected: "a number, e.g. 0.1 or 1e-6" });
  }
  return true;
}

async function main(args: readonly string[]): Promise<number> {
  const json = args.includes("--json");
  try {
    const cli = yargs([...args])
      .scriptName("rlhi-native")
      .locale("en")
      .usage("$0 <command>\n\nLearns from the conversations people already had with a chat model.\nStart with `$0 doctor`, then `$0 run config.yaml`.")
      .parserConfiguration({ "duplicate-arguments-array": false })
      .strict()
      .demandCommand(1, "say which command to run; --help lists them")
      .recommendCommands()
      .version(packageVersion())
      .help()
      .alias("help", "h")
      .wrap(Math.min(110, process.stdout.columns ?? 110))
      .check((argv) => checkValues(argv, emptyFlags(args)))
      .exitProcess(false)
      .fail((message: string | null, error: Error | undefined) => {
        // yargs' own complaints come as a message, some of them as its YError; everything else a handler threw.
        if (error !== undefined && error.name !== "YError") throw error;
        const command = args[0] === undefined || args[0].startsWith("-") ? "" : `${args[0]} `;
        throw new UsageError({ what: message ?? error?.message ?? "wrong arguments", todo: `see rlhi-native ${command}--help` });
      });
    for (const command of commands) cli.command(command);
    await cli.parseAsync();
    return 0;
  } catch (error) {
    process.stderr.write(describeError(error, json));
    return exitCodeOf(error);
  }
}

tolerateClosedPipe(process.stdout);
tolerateClosedPipe(process.stderr);
const code = await main(hideBin(process.argv));
// Connections kept alive by clients must not hold the process; what was written is flushed first.
process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
