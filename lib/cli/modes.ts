/** A command that does one of two things takes other flags for each: one that would be ignored is refused. */
import type { Argv } from "yargs";
import { UsageError } from "../errors.js";

/** Keys of run.yaml by the flag that gives the same value. */
export type SettingFlags = Readonly<Record<string, string>>;

export interface Mode {
  /** As in "--beta does not go with NAME". */
  name: string;
  takes: (flag: string) => boolean;
  /** Where the value of a refused flag belongs. */
  settings?: SettingFlags;
}

/** With a run folder the settings are run.yaml's: of the command's flags only `flags` count. */
export function runFolderMode(flags: readonly string[], settings: SettingFlags): Mode {
  return { name: "a run folder", takes: (flag) => ["config", "run", ...flags].includes(flag), settings };
}

const everywhere: ReadonlySet<string> = new Set(["json", "quiet"]);

/** Throws UsageError for the first of the `given` flags that `mode` does not take. */
export function refuseOthers({ name, takes, settings = {} }: Mode, given: readonly string[]): void {
  const other = given.find((flag) => !everywhere.has(flag) && !takes(flag));
  if (other === undefined) return;
  const setting = settings[other];
  throw new UsageError({ what: `--${other} does not go with ${name}`, todo: setting === undefined ? "leave it out" : `put it into run.yaml, as ${setting}` });
}

/** Names of the flags and positional arguments of `values` that were given, and not filled in with their default. */
export function givenFlags(values: Readonly<Record<string, unknown>>, parser: Argv): string[] {
  // yargs tells what it filled in; its types do not say so.
  const { aliases, defaulted } = parser.parsed as unknown as { aliases: Record<string, string[]>; defaulted: Record<string, boolean> };
  // Each flag also stands there in camel case.
  const names = Object.keys(values).filter((name) => /^[a-z][a-z0-9-]*$/.test(name) && values[name] !== undefined);
  return names.filter((name) => ![name, ...(aliases[name] ?? [])].some((one) => one in defaulted));
}
