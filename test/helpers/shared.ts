/** Reference results and real data beside the project: tests that need them run where they are and say so where they are not. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../lib/engine/addon.js";

const root = process.env["RLHI_SHARED"] ?? join(packageRoot, "..", "shared");

/** The path below ../shared (or $RLHI_SHARED) and, where it is not there, the reason to skip. */
export function shared(...parts: string[]): { path: string; skip: false | string } {
  const path = join(root, ...parts);
  return { path, skip: existsSync(path) ? false : `no ${path} (set RLHI_SHARED to the folder with the reference results)` };
}

/** SmolLM2-135M-Instruct as GGUF: the file that $RLHI_SMOLLM2 names. */
export function smollm2(): { path: string; skip: false | string } {
  const path = process.env["RLHI_SMOLLM2"] ?? "";
  return { path, skip: path !== "" && existsSync(path) ? false : "RLHI_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf" };
}

/** First reason to skip, if any. */
export function skipUnless(...needs: { skip: false | string }[]): false | string {
  return needs.find((need) => need.skip !== false)?.skip ?? false;
}
