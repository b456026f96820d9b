/** Runs the command line as a user does: another process, its output and exit code. */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const cliPath = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "lib", "cli", "main.js");

export interface CliResult {
  /** Exit code; null where a signal ended the process. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  stdin?: string;
  env?: Record<string, string>;
  cwd?: string;
  /** Sees the process while it runs: to send it signals. */
  onStart?: (child: ChildProcess) => void;
}

export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cliPath, ...args], { cwd: options.cwd, env: { ...process.env, ...options.env } });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
    child.stdin.end(options.stdin ?? "");
    options.onStart?.(child);
  });
}

/** The JSON lines of a command that succeeded; throws with what it said where it did not. */
export async function cliJson<T>(args: readonly string[], options: CliOptions = {}): Promise<T[]> {
  const result = await runCli([...args, "--json", "--quiet"], options);
  if (result.code !== 0) throw new Error(`rlhi-native ${args.join(" ")} ended with ${result.code ?? result.signal}:\n${result.stderr}`);
  return result.stdout.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as T);
}
