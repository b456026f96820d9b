/** Where a checkpoint keeps its tokenizer and chat template: a Hugging Face folder's files or a GGUF file's metadata. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { RlhiError } from "../errors.js";
import { sha256 } from "../files.js";
import { tokenizerFromGguf } from "./gguf.js";
import type { GgufMetadata } from "./gguf.js";
import type { TokenizerConfigJson, TokenizerJson } from "./tokenizer-json.js";

export interface TokenizerSource {
  json: TokenizerJson;
  config: TokenizerConfigJson;
  template: string | undefined;
  /** End-of-text ids that the checkpoint's own configuration names. */
  eos: number[];
  /** Hash of tokenizer.json's contents, whatever its layout: the same for a GGUF file and the folder made from it. */
  identity: string;
  /** For messages. */
  where: string;
  /** The folder to copy files from, where there is one. */
  folder: string | undefined;
}

/** Undefined where there is no such file. The caller names the shape it reads. */
function readJson(path: string): unknown {
  if (!existsSync(path)) return undefined;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as unknown;
  } catch (error) {
    throw new RlhiError("ERR_INVALID_FILE", { what: "not valid JSON", where: path, found: (error as Error).message, todo: "copy or download the file again", cause: error });
  }
}

/** Whether a folder carries a tokenizer at all: models that are given token ids need none. */
export function hasTokenizer(path: string): boolean {
  return !statSync(path).isDirectory() || existsSync(join(path, "tokenizer.json"));
}

export function noTokenizer(folder: string): RlhiError {
  return new RlhiError("ERR_NO_TOKENIZER", {
    what: "the model folder has no tokenizer.json",
    where: folder,
    expected: "the fast tokenizer's file, as Hugging Face models carry it",
    todo: "download tokenizer.json and tokenizer_config.json too, or give token ids instead of text",
  });
}

export function sourceFromFolder(folder: string): TokenizerSource {
  const path = join(folder, "tokenizer.json");
  const json = readJson(path) as TokenizerJson | undefined;
  if (json === undefined) throw noTokenizer(folder);
  if (typeof json.model !== "object" || typeof json.model.vocab !== "object") {
    throw new RlhiError("ERR_INVALID_FILE", { what: "tokenizer.json holds no vocabulary", where: path, expected: "model.vocab", todo: "copy or download the file again" });
  }
  const config = (readJson(join(folder, "tokenizer_config.json")) ?? {}) as TokenizerConfigJson;
  const specials = (readJson(join(folder, "special_tokens_map.json")) ?? {}) as TokenizerConfigJson;
  return {
    json: { ...json, added_tokens: json.added_tokens ?? [] },
    config: { ...specials, ...config },
    template: templateOfFolder(folder, config),
    eos: [...eosOf(join(folder, "generation_config.json")), ...eosOf(join(folder, "config.json"))],
    identity: sha256(JSON.stringify(json)),
    where: folder,
    folder,
  };
}

/** chat_template.jinja goes before tokenizer_config.json, as in transformers; of named templates the one called "default". */
function templateOfFolder(folder: string, config: TokenizerConfigJson): string | undefined {
  const file = join(folder, "chat_template.jinja");
  if (existsSync(file)) return readFileSync(file, "utf8");
  const named = config.chat_template ?? (readJson(join(folder, "chat_template.json")) as TokenizerConfigJson | undefined)?.chat_template;
  return Array.isArray(named) ? (named.find((one) => one.name === "default") ?? named[0])?.template : named;
}

function eosOf(path: string): number[] {
  const eos = (readJson(path) as { eos_token_id?: number | number[] | null } | undefined)?.eos_token_id;
  return Array.isArray(eos) ? eos : typeof eos === "number" ? [eos] : [];
}

export function sourceFromGguf(metadata: GgufMetadata, path: string): TokenizerSource {
  const { json, config, eos } = tokenizerFromGguf(metadata, path);
  const template = config.chat_template;
  return { json, config, template: typeof template === "string" ? template : undefined, eos, identity: sha256(JSON.stringify(json)), where: path, folder: undefined };
}
