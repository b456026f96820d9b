/**
 * From text to pre-tokens, as Hugging Face tokenizers cut it. Built on @huggingface/tokenizers' components, with two of
 * them rewritten as patterns because the package differs from the Rust original there (0.2.0):
 *  - Digits takes \d, which is ASCII only in JavaScript; the original asks for Unicode's numbers (Nd, Nl, No);
 *  - ByteLevel's built-in pattern takes JavaScript's \s, which has U+FEFF and lacks U+0085; Split's patterns are translated.
 */
import { createHubSequence } from "./hub.js";
import type { ComponentJson } from "./tokenizer-json.js";

/** GPT-2's pattern, which ByteLevel applies with use_regex (https://github.com/openai/gpt-2, encoder.py). */
export const gpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

export function splitBy(pattern: string): ComponentJson {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

/** Sequences flattened, Digits and ByteLevel's own splitting as patterns. */
function rewritten(component: ComponentJson): ComponentJson[] {
  if (component.type === "Sequence") return (component["pretokenizers"] as ComponentJson[]).flatMap(rewritten);
  if (component.type === "Digits") return [splitBy(component["individual_digits"] === true ? "\\p{N}" : "\\p{N}+")];
  if (component.type === "ByteLevel" && component["use_regex"] !== false && component["add_prefix_space"] !== true) {
    return [splitBy(gpt2Pattern), { ...component, use_regex: false }];
  }
  return [component];
}

export interface PreTokenizer {
  /** True: pieces are plain text whose UTF-8 bytes the model takes. False: pieces are as the model takes them. */
  readonly byteLevel: boolean;
  /** `section`: which stretch between added tokens this is; Metaspace prepends to the first only. */
  split(text: string, section: number): string[];
}

export function createPreTokenizer(component: ComponentJson | null): PreTokenizer {
  const parts = component === null ? [] : rewritten(component);
  const last = parts.at(-1);
  // Byte mapping is left to the caller, who remembers whole pieces: most text is words seen before.
  const byteLevel = last?.type === "ByteLevel" && last["use_regex"] === false && last["add_prefix_space"] !== true;
  const cuts = byteLevel ? parts.slice(0, -1) : parts;
  if (cuts.length === 0) return { byteLevel, split: (text) => [text] };
  const sequence = createHubSequence(cuts);
  return { byteLevel, split: (text, section) => sequence.pre_tokenize(text, { section_index: section }) };
}
