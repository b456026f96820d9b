/** Where the peers live, how they are set up there, and how a process of a contender is run. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packageRoot } from "../../lib/engine/addon.js";
import type { Instructions } from "./instructions.js";

const pythonPackages = ["torch==2.13.0", "transformers==5.18.0", "trl==1.13.0", "datasets", "accelerate"];
const llamaPackage = "node-llama-cpp@3.22.1";
const home = join(packageRoot, ".cache", "peers");
const python = join(home, "venv", "bin", "python");
const scripts = join(packageRoot, "bench", "peers");
const cli = join(packageRoot, "dist", "lib", "cli", "main.js");

type Env = Readonly<Record<string, string>>;
export type JsonRecord = Readonly<Record<string, unknown>>;

/** Runs a program; the lines it printed that begin as an object does. Rejects where there are none, or with the last line on stderr. */
function objectLines(program: string, args: readonly string[], env: Env): Promise<string[]> {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], cwd: tmpdir(), env: { ...process.env, ...env } });
    const text = { out: "", error: "" };
    child.stdout.on("data", (data: Buffer) => (text.out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (text.error = (text.error + data.toString()).slice(-4000)));
    child.on("error", failed);
    child.on("close", (code, signal) => {
      const lines = text.out.split("\n").filter((line) => line.startsWith("{"));
      if (code === 0 && lines.length > 0) done(lines);
      else failed(new Error(`${program} ${args.join(" ")} ended with ${code ?? signal}: ${text.error.trim().split("\n").at(-1) || "no message"}`));
    });
  });
}

/** `rlhi-native bench WHAT`; the records it printed. */
export async function ours(what: string, env: Env, ...flags: (string | number)[]): Promise<JsonRecord[]> {
  const lines = await objectLines(process.execPath, [cli, "bench", what, "--json", "--quiet", ...flags.map(String)], env);
  return lines.map((line) => JSON.parse(line) as JsonRecord);
}

/** The record on the last line of what a peer's program prints; libraries print others' before it, TRL Python's dictionaries. */
export async function lastRecord(program: string, args: readonly string[], env: Env): Promise<JsonRecord> {
  return JSON.parse((await objectLines(program, args, env)).at(-1) as string) as JsonRecord;
}

/** A script of bench/peers/ in the peers' Python. */
export function pythonPeer(script: string, env: Env, ...args: (string | number)[]): Promise<JsonRecord> {
  return lastRecord(python, [join(scripts, script), ...args.map(String)], env);
}

export function llamaPeer(instructions: Instructions, ...args: (string | number)[]): Promise<JsonRecord> {
  const script = join(llamaFolder(instructions), "llama_cpp.mjs");
  return lastRecord(process.execPath, [script, ...args.map(String)], instructions.env);
}

/** llama.cpp brings a library for each processor and takes the best: where better ones must not be used, it is a copy without them. */
function llamaFolder({ name, withoutLlamaFor }: Instructions): string {
  return withoutLlamaFor.length === 0 ? home : join(home, `llama-${name}`);
}

/** Installs what is not there yet; throws with the last line of what failed. */
export function setUp(needs: { llama: boolean }, instructions: Instructions): void {
  mkdirSync(home, { recursive: true });
  if (!existsSync(join(home, "venv", ".ready"))) {
    step("a virtual environment", "python3", ["-m", "venv", join(home, "venv")]);
    // PyTorch by itself first: a build that fits is then not replaced for another package's sake.
    step(pythonPackages[0] as string, python, ["-m", "pip", "install", "--quiet", pythonPackages[0] as string]);
    step(pythonPackages.slice(1).join(", "), python, ["-m", "pip", "install", "--quiet", ...pythonPackages]);
    writeFileSync(join(home, "venv", ".ready"), "");
  }
  if (needs.llama) setUpLlama(instructions);
}

function setUpLlama(instructions: Instructions): void {
  if (!existsSync(join(home, "node_modules", "node-llama-cpp"))) {
    writeFileSync(join(home, "package.json"), JSON.stringify({ private: true, type: "module" }));
    step(llamaPackage, "npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", llamaPackage]);
  }
  const folder = llamaFolder(instructions);
  if (folder !== home && !existsSync(join(folder, ".ready"))) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder);
    step(`llama.cpp for ${instructions.name}`, "cp", ["--archive", "--link", join(home, "node_modules"), join(home, "package.json"), folder]);
    for (const processor of instructions.withoutLlamaFor) {
      rmSync(join(folder, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64", `libggml-cpu-${processor}.so`));
    }
    writeFileSync(join(folder, ".ready"), "");
  }
  // Beside its package, so that its import is found.
  step("llama_cpp.mjs", "cp", [join(scripts, "llama_cpp.mjs"), folder]);
}

function step(title: string, program: string, args: string[]): void {
  process.stderr.write(`setting up: ${title}\n`);
  const result = spawnSync(program, args, { cwd: home, encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${title} failed: ${(result.stderr || result.error?.message || "").trim().split("\n").at(-1)}`);
}
