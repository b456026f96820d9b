/** Writes a tokenizer into a Hugging Face folder, as transformers' AutoTokenizer opens it. */
import { copyFileSync, existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../files.js";
import type { TokenizerSource } from "./source.js";
import type { SpecialTokens } from "./types.js";

const files = [
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
  "chat_template.jinja", "chat_template.json", "generation_config.json",
];

export function saveTokenizer(source: TokenizerSource, special: SpecialTokens, dir: string): void {
  if (source.folder !== undefined && realpathSync(source.folder) === realpathSync(dir)) return;
  const json = (name: string, value: unknown): void => writeFileAtomic(join(dir, name), `${JSON.stringify(value, null, 2)}\n`);
  if (source.folder !== undefined) {
    for (const name of files) if (existsSync(join(source.folder, name))) copyFileSync(join(source.folder, name), join(dir, name));
  } else {
    json("tokenizer.json", source.json);
    json("tokenizer_config.json", source.config);
  }
  if (existsSync(join(dir, "generation_config.json"))) return;
  json("generation_config.json", {
    ...(special.bos === null ? {} : { bos_token_id: special.bos }),
    ...(special.eos.length === 0 ? {} : { eos_token_id: special.eos.length === 1 ? special.eos[0] : special.eos }),
    ...(special.pad === null ? {} : { pad_token_id: special.pad }),
  });
}
