/** Runs of the command line (or of another compiled script) in processes of their own, which a test can stop or kill at a stage. */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";

const main = fileURLToPath(new URL("../../lib/cli/main.js", import.meta.url));

export interface Ended {
  /** null where a signal ended it. */
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunningCommand {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Resolves as stderr has shown `text`, or at the end. */
  shown(text: string): Promise<void>;
}

export function startCommand(args: readonly string[], cwd: string, script = main): RunningCommand {
  const child = spawn(process.execPath, [script, ...args], { cwd, stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  const waiting = new Set<() => void>();
  child.stdout.setEncoding("utf8").on("data", (text: string) => { stdout += text; });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    for (const check of waiting) check();
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject).on("close", (code) => resolve({ code, stdout, stderr }));
  });
  const shown = (text: string): Promise<void> => new Promise((resolve, reject) => {
    const check = (): void => { if (stderr.includes(text)) resolve(); };
    waiting.add(check);
    check();
    ended.then(() => resolve(), reject);
  });
  return { child, ended, shown };
}

export function runCommand(args: readonly string[], cwd: string, script = main): Promise<Ended> {
  return startCommand(args, cwd, script).ended;
}

/** Writes run.yaml into `dir`; returns its path. */
export function writeRunYaml(dir: string, config: object): string {
  const path = join(dir, "run.yaml");
  writeFileSync(path, stringify(config));
  return path;
}
