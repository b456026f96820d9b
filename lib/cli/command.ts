/** What every command shares: its common flags, its tools, interruption, and how errors become exit codes. */
import type { ArgumentsCamelCase, Argv, CommandModule } from "yargs";
import { RlhiError } from "../errors.js";
import type { Progress } from "../progress.js";
import { printable } from "../text/printable.js";
import { createOutput } from "./output.js";
import { givenFlags, refuseOthers } from "./modes.js";
import type { Mode } from "./modes.js";
import type { Output } from "./output.js";
import { createProgress } from "./progress.js";

export interface CommonFlags {
  json: boolean;
  quiet: boolean;
}

export interface Tools {
  readonly out: Output;
  readonly progress: Progress;
  /** Aborts at the first Ctrl-C (or SIGTERM); a second one ends the process at once. */
  readonly signal: AbortSignal;
}

/** The work was stopped by Ctrl-C: exit code 130. `message` says what was saved and how to go on. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

// Each command has its own flags, which a list of commands cannot carry.
// oxlint-disable-next-line typescript/no-explicit-any
export type Command = CommandModule<object, any>;

/**
 * A command: `flags` declares what it takes (may load what it needs for that), `run` does it. Imports of more than a few
 * milliseconds belong into them, not at the file's head.
 */
export function defineCommand<F extends CommonFlags>(spec: {
  command: string;
  describe: string;
  flags: (yargs: Argv<CommonFlags>) => Argv<F> | PromiseLike<Argv<F>>;
  run: (flags: ArgumentsCamelCase<F>, tools: Tools) => Promise<void>;
  /** Which of several things the command is asked for: flags of the others are refused. */
  mode?: (flags: ArgumentsCamelCase<F>) => Mode | PromiseLike<Mode>;
  /** The command takes Ctrl-C itself. */
  ownInterrupt?: boolean;
}): Command {
  let parser: Argv | undefined;
  const command = {
    command: spec.command,
    describe: spec.describe,
    builder: (yargs: Argv) => {
      parser = yargs;
      return spec.flags(commonFlags(yargs));
    },
    handler: async (flags: ArgumentsCamelCase<F>) => {
      if (spec.mode !== undefined && parser !== undefined) refuseOthers(await spec.mode(flags), givenFlags(flags, parser));
      await withTools(flags, (tools) => spec.run(flags, tools), spec.ownInterrupt);
    },
  };
  // yargs takes asynchronous builders (parseAsync); its types do not say so yet.
  return command as unknown as Command;
}

function commonFlags<T>(yargs: Argv<T>): Argv<T & CommonFlags> {
  return yargs
    .option("json", { type: "boolean", default: false, describe: "print facts as JSON, one object a line" })
    .option("quiet", { type: "boolean", default: false, describe: "no progress on stderr" });
}

/**
 * Runs a handler with its tools. The progress display is closed whatever happens. Work that ends by an abort of
 * `signal` becomes Interrupted, unless it threw Interrupted with a message of its own.
 */
export async function withTools(flags: CommonFlags, work: (tools: Tools) => Promise<void>, ownInterrupt = false): Promise<void> {
  const controller = new AbortController();
  const stop = (): void => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write("\nstopping (press Ctrl-C again to stop at once)\n");
    controller.abort(new Interrupted("stopped"));
  };
  const progress = createProgress({ quiet: flags.quiet });
  if (!ownInterrupt) process.on("SIGINT", stop).on("SIGTERM", stop);
  try {
    await work({ out: createOutput({ json: flags.json }), progress, signal: controller.signal });
    if (controller.signal.aborted) throw new Interrupted("stopped");
  } catch (error) {
    if (!controller.signal.aborted || error instanceof Interrupted) throw error;
    if (isAbort(error)) throw new Interrupted(error instanceof RlhiError ? error.message : "stopped");
    throw error;
  } finally {
    progress.stop();
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
}

function isAbort(error: unknown): boolean {
  const { name, code } = error as { name?: unknown; code?: unknown };
  return name === "AbortError" || code === "ABORT_ERR" || code === "ERR_ABORTED";
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof Interrupted) return 130;
  return error instanceof RlhiError ? error.exitCode : 1;
}

/** For people; with --json followed by one line for programs. Unknown errors show where they came from under RLHI_DEBUG. */
export function describeError(error: unknown, json: boolean): string {
  const known = error instanceof Error ? error : new Error(String(error));
  const own = (known as { code?: unknown }).code;
  const code = error instanceof Interrupted ? "ERR_INTERRUPTED" : typeof own === "string" ? own : "ERR_INTERNAL";
  const text = process.env["RLHI_DEBUG"] === undefined ? known.message : (known.stack ?? known.message);
  const line = json ? `${JSON.stringify({ error: { code, message: known.message } })}\n` : "";
  return `${error instanceof Interrupted ? "" : "error: "}${printable(text)}\n${line}`;
}
