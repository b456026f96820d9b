/** The command lines of bench:peers and bench:targets. */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { UsageError } from "../../lib/errors.js";
import { isaNames } from "./instructions.js";
import type { IsaName } from "./instructions.js";

export interface BenchArguments {
  only: string[];
  rounds: number;
  threads: number;
  isa: IsaName | undefined;
  /** Paths are absolute; on the command line they are meant from where npm was called. */
  gguf: string | undefined;
  out: string | undefined;
  json: boolean;
  help: boolean;
}

/** Throws UsageError for an unknown flag, an unknown one of `kinds`, and a value out of range. */
export function readArguments(argv: readonly string[], kinds: readonly string[]): BenchArguments {
  const values = parse(argv, kinds);
  return {
    only: values.only.split(",").map((name) => oneOf("only", name, kinds)),
    rounds: wholeNumber("rounds", values.rounds), threads: wholeNumber("threads", values.threads),
    isa: values.isa === undefined ? undefined : oneOf("isa", values.isa, isaNames),
    gguf: existing("gguf", values.gguf), out: fromHere(values.out), json: values.json, help: values.help,
  };
}

interface Texts {
  only: string;
  rounds: string;
  threads: string;
  isa?: string;
  gguf?: string;
  out?: string;
  json: boolean;
  help: boolean;
}

function parse(argv: readonly string[], kinds: readonly string[]): Texts {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        only: { type: "string", default: kinds.join(",") }, rounds: { type: "string", default: "3" },
        threads: { type: "string", default: String(availableParallelism()) }, isa: { type: "string" }, gguf: { type: "string" }, out: { type: "string" },
        json: { type: "boolean", default: false }, help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError({ what: (error as Error).message, todo: "--help lists the flags", cause: error });
  }
}

function oneOf<Name extends string>(flag: string, value: string, names: readonly Name[]): Name {
  const found = names.find((name) => name === value);
  if (found !== undefined) return found;
  throw new UsageError({ what: "unknown name", where: `--${flag}`, expected: names.join(", "), found: value });
}

function wholeNumber(flag: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new UsageError({ what: "value out of range", where: `--${flag}`, expected: "a whole number from 1", found: text });
}

function existing(flag: string, path: string | undefined): string | undefined {
  const resolved = fromHere(path);
  if (resolved !== undefined && !existsSync(resolved)) throw new UsageError({ what: "no such file", where: `--${flag}`, found: resolved });
  return resolved;
}

function fromHere(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(process.env["INIT_CWD"] ?? process.cwd(), path);
}
