import { existsSync, statSync } from "node:fs";
import { loadAddon } from "../engine/addon.js";
import { RlhiError } from "../errors.js";
import { CheckpointTokenizer } from "./chat-tokenizer.js";
import { fixedDate } from "./template.js";
import { sourceFromFolder, sourceFromGguf } from "./source.js";

/**
 * Tokenizer and chat template of a Hugging Face folder or a GGUF file (whose metadata the addon reads). Throws
 * ERR_NO_MODEL where the path does not exist, ERR_NO_TOKENIZER where it carries none, ERR_UNSUPPORTED for another kind.
 * `now`: the present, for templates that name the date.
 */
export function openTokenizer(path: string, now: () => Date = fixedDate): CheckpointTokenizer {
  if (!existsSync(path)) {
    throw new RlhiError("ERR_NO_MODEL", { what: "there is no such model", where: path, expected: "a Hugging Face folder or a GGUF file", todo: "check the path" });
  }
  return new CheckpointTokenizer(statSync(path).isDirectory() ? sourceFromFolder(path) : sourceFromGguf(loadAddon().ggufMetadata(path), path), now);
}
