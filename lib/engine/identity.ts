/** What a checkpoint is, by the bytes of its files: training that goes on must go on from the same model. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { sha256, sha256File } from "../files.js";

/** SHA-256 over weights and configuration of a Hugging Face folder or GGUF file. A shape's name stands for itself and the seed of its weights. */
export async function modelIdentity(path: string, seed: number): Promise<string> {
  if (!existsSync(path)) return sha256(JSON.stringify([path, seed]));
  if (!statSync(path).isDirectory()) return sha256File(path);
  const names = readdirSync(path).filter((name) => name === "config.json" || name.endsWith(".safetensors")).toSorted();
  const hashes: [string, string][] = [];
  for (const name of names) hashes.push([name, await sha256File(join(path, name))]);
  return sha256(JSON.stringify(hashes));
}
