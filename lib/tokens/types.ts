/** Text to token ids and back, as one checkpoint has it. */
import type { Message } from "../conversations/types.js";

export interface SpecialTokens {
  bos: number | null;
  /** What ends an answer: generation stops at any of them; the first ends training answers. */
  eos: number[];
  pad: number | null;
}

export interface Tokenizer {
  readonly vocab_size: number;
  readonly special: SpecialTokens;
  /** Without special tokens added; special tokens' own texts inside `text` are recognised only where `parse_special` is true. */
  encode(text: string, parse_special?: boolean): number[];
  decode(ids: ArrayLike<number>, skip_special_tokens?: boolean): string;
  /** The bytes each token stands for: offsets [vocab_size + 1] into bytes; special tokens are empty. */
  tokenBytes(): { offsets: Int32Array; bytes: Uint8Array };
}

export interface RenderOptions {
  add_generation_prompt?: boolean;
  /** The present, for templates that name the date, instead of what the tokenizer was opened with. */
  now?: () => Date;
}

export interface ChatTemplate {
  /** As transformers' apply_chat_template(tokenize=False) renders it. */
  render(messages: readonly Message[], options?: RenderOptions): string;
}

/**
 * Tokenizer and template of a checkpoint, with the rules that keep text from datasets inert: message contents are
 * encoded so that special tokens spelled out in them stay ordinary text.
 */
export interface ChatTokenizer extends Tokenizer {
  readonly template: ChatTemplate;
  /** Ids of the rendered chat, ready for the answer. */
  encodeChat(messages: readonly Message[], options?: RenderOptions): number[];
  /** Ids of an answer: its text, then the end-of-turn token. An empty text is just that token. */
  encodeAnswer(text: string): number[];
  /** Hash over tokenizer, template and the date where the template names it, for cached log-probabilities. */
  readonly fingerprint: string;
  /** Writes tokenizer.json, tokenizer_config.json, chat template and generation config into a Hugging Face folder. */
  save(dir: string): void;
}
