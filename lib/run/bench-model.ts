/**
 * A model folder of random weights that the whole method can run on: a shape's weights as the engine draws them, with a byte-level
 * tokenizer whose merges spell the commonest words of given texts. What it writes is noise; what it costs is the shape's.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Dtype } from "../engine/addon.js";
import { Engine } from "../engine/engine.js";
import { byteToChar, toByteLevel } from "../tokens/byte-level.js";

const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;

/** ChatML. */
const template =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** Words whose letters are merged: enough for a token a word in most text. */
const wordsMerged = 2000;

/** Makes the folder `dir`. Throws ERR_NO_MODEL where the engine knows no shape of that name. */
export async function writeRandomModel(shape: string, texts: Iterable<string>, dir: string, options: { dtype: Dtype; threads: number }): Promise<void> {
  const engine = await Engine.open({ path: shape, tokenizer: null, ...options });
  try {
    mkdirSync(dir, { recursive: true });
    await engine.native.save(dir, options.dtype);
    writeWordTokenizer(dir, texts, engine.info.vocabSize);
  } finally {
    await engine.close();
  }
}

function commonWords(texts: Iterable<string>): string[] {
  const counts = new Map<string, number>();
  for (const text of texts) for (const [word] of text.matchAll(/ ?\p{L}+/gu)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].toSorted(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).slice(0, wordsMerged).map(([word]) => word);
}

/** Merges build each of the commonest words from its left: "t h", "th e". At most `vocabSize` entries, as many as the model has rows. */
export function writeWordTokenizer(dir: string, texts: Iterable<string>, vocabSize: number): void {
  const vocab = new Map<string, number>();
  for (const token of [...specialTokens, ...byteToChar]) vocab.set(token, vocab.size);
  const merges: string[] = [];
  for (const word of commonWords(texts)) {
    const letters = toByteLevel(word);
    for (let end = 2; end <= letters.length && vocab.size < vocabSize; end += 1) {
      const merged = letters.slice(0, end);
      if (vocab.has(merged)) continue;
      vocab.set(merged, vocab.size);
      merges.push(`${letters.slice(0, end - 1)} ${letters[end - 1]}`);
    }
  }
  const added = specialTokens.map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const write = (name: string, value: unknown): void => writeFileSync(join(dir, name), JSON.stringify(value));
  write("tokenizer.json", {
    version: "1.0", truncation: null, padding: null, added_tokens: added, normalizer: null, pre_tokenizer: byteLevel, post_processor: null, decoder: byteLevel,
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
      vocab: Object.fromEntries(vocab), merges,
    },
  });
  write("tokenizer_config.json", { tokenizer_class: "GPT2Tokenizer", clean_up_tokenization_spaces: false, bos_token: specialTokens[0], eos_token: specialTokens[2], unk_token: specialTokens[0], chat_template: template });
}
