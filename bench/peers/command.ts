/** How bench:peers and bench:targets begin and end: as the command line does, with exit code 1 for a failure and 2 for wrong arguments. */
import { RlhiError } from "../../lib/errors.js";
import { readArguments } from "./arguments.js";
import type { BenchArguments } from "./arguments.js";

/** `kinds`: what --only takes. */
export async function runCommand(usage: string, kinds: readonly string[], main: (given: BenchArguments) => Promise<void>): Promise<void> {
  try {
    const given = readArguments(process.argv.slice(2), kinds);
    if (given.help) process.stdout.write(`${usage}\n`);
    else await main(given);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = error instanceof RlhiError ? error.exitCode : 1;
  }
}
