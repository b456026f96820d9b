/** A tokenizer.json made from a GGUF file's metadata: the same vocabulary, merges, special tokens and splitting rules. */
import type { GgufValue } from "../engine/addon.js";
import { RlhiError } from "../errors.js";
import { splitBy } from "./pre-tokenizer.js";
import type { AddedTokenJson, ComponentJson, TokenizerConfigJson, TokenizerJson } from "./tokenizer-json.js";

export type GgufMetadata = Readonly<Record<string, GgufValue>>;

/** tokenizer.ggml.token_type (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

const byteLevel = (use_regex: boolean): ComponentJson => ({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex });
const llama3Pattern = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const sequence = (...pretokenizers: ComponentJson[]): ComponentJson => ({ type: "Sequence", pretokenizers });

/**
 * What each `tokenizer.ggml.pre` means, in Hugging Face terms: the tokenizer.json of the models the name comes from
 * (SmolLM2, Llama 3, Qwen2), and llama.cpp's own fallback for "default".
 */
const preTokenizers: Readonly<Record<string, { normalizer: ComponentJson | null; pre_tokenizer: ComponentJson; ignore_merges: boolean }>> = {
  smollm: { normalizer: null, pre_tokenizer: sequence({ type: "Digits", individual_digits: true }, byteLevel(true)), ignore_merges: false },
  "llama-bpe": { normalizer: null, pre_tokenizer: sequence(splitBy(llama3Pattern("\\p{N}{1,3}")), byteLevel(false)), ignore_merges: true },
  qwen2: { normalizer: { type: "NFC" }, pre_tokenizer: sequence(splitBy(llama3Pattern("\\p{N}")), byteLevel(false)), ignore_merges: false },
  default: {
    normalizer: null,
    pre_tokenizer: sequence(
      splitBy("[\\p{P}\\$\\+<=>\\^~\\|]+"),
      splitBy("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
      splitBy("\\p{N}+"),
      splitBy("[0-9][0-9][0-9]"),
      byteLevel(false),
    ),
    ignore_merges: false,
  },
};

export interface GgufTokenizer {
  json: TokenizerJson;
  config: TokenizerConfigJson;
  eos: number[];
}

/** Throws ERR_UNSUPPORTED, naming what is supported, for another kind of vocabulary or splitting; ERR_INVALID_FILE where parts are missing. */
export function tokenizerFromGguf(metadata: GgufMetadata, path: string): GgufTokenizer {
  const rules = splittingRules(metadata, path);
  const tokens = strings(metadata, "tokenizer.ggml.tokens", path);
  const merges = strings(metadata, "tokenizer.ggml.merges", path);
  const types = metadata["tokenizer.ggml.token_type"] as ArrayLike<number> | undefined;
  const added: AddedTokenJson[] = [];
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  tokens.forEach((content, id) => {
    const type = types?.[id] ?? tokenType.normal;
    if (type === tokenType.unused) return;
    vocab[content] = id;
    if (type === tokenType.normal || type === tokenType.byte) return;
    added.push({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: type !== tokenType.userDefined });
  });
  const text = (key: string): string | undefined => tokenOf(metadata, key, tokens, path);
  const config: TokenizerConfigJson = { tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false, model_input_names: ["input_ids", "attention_mask"] };
  for (const [name, key] of [["bos_token", "bos"], ["eos_token", "eos"], ["unk_token", "unknown"], ["pad_token", "padding"]] as const) {
    const value = text(key);
    if (value !== undefined) config[name] = value;
  }
  const template = metadata["tokenizer.chat_template"];
  if (typeof template === "string") config.chat_template = template;
  const eos = ["eos", "eot", "eom"].map((key) => metadata[`tokenizer.ggml.${key}_token_id`]).filter((id) => typeof id === "number");
  return {
    json: {
      version: "1.0", truncation: null, padding: null, added_tokens: added, normalizer: rules.normalizer, pre_tokenizer: rules.pre_tokenizer,
      post_processor: null, decoder: byteLevel(true),
      model: {
        type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
        ignore_merges: rules.ignore_merges, vocab, merges: merges.map((merge) => splitMerge(merge)),
      },
    },
    config,
    eos,
  };
}

function splittingRules(metadata: GgufMetadata, path: string): (typeof preTokenizers)[string] {
  const model = metadata["tokenizer.ggml.model"];
  if (model !== "gpt2") {
    throw new RlhiError("ERR_UNSUPPORTED", {
      what: "this GGUF file's kind of tokenizer is not supported",
      where: path,
      expected: 'tokenizer.ggml.model "gpt2" (byte-level BPE)',
      found: model === undefined ? "none: the file carries no tokenizer" : JSON.stringify(model),
      todo: "use the model's Hugging Face folder instead",
    });
  }
  const pre = metadata["tokenizer.ggml.pre"] ?? "default";
  const rules = typeof pre === "string" && Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined;
  if (rules === undefined) {
    throw new RlhiError("ERR_UNSUPPORTED", {
      what: "this GGUF file's pre-tokenizer is not supported",
      where: path,
      expected: `tokenizer.ggml.pre of ${Object.keys(preTokenizers).join(", ")}`,
      found: JSON.stringify(pre),
      todo: "use the model's Hugging Face folder instead",
    });
  }
  return rules;
}

/** "a b" at the first space that is not the first character: a left side may itself begin with a space. */
function splitMerge(merge: string): [string, string] {
  const at = merge.indexOf(" ", 1);
  return [merge.slice(0, at), merge.slice(at + 1)];
}

function strings(metadata: GgufMetadata, key: string, path: string): string[] {
  const value = metadata[key];
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  throw new RlhiError("ERR_INVALID_FILE", { what: `${key} is missing`, where: path, expected: "an array of strings", found: typeof value, todo: "convert or download the file again" });
}

function tokenOf(metadata: GgufMetadata, key: string, tokens: readonly string[], path: string): string | undefined {
  const id = metadata[`tokenizer.ggml.${key}_token_id`];
  if (id === undefined) return undefined;
  const token = typeof id === "number" ? tokens[id] : undefined;
  if (token !== undefined) return token;
  throw new RlhiError("ERR_INVALID_FILE", {
    what: `tokenizer.ggml.${key}_token_id points outside the vocabulary`,
    where: path,
    expected: `0 to ${tokens.length - 1}`,
    found: String(id),
  });
}
