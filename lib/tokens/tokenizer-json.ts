/** The parts of tokenizer.json and tokenizer_config.json that are read here (Hugging Face tokenizers' own format). */

export interface AddedTokenJson {
  id: number;
  content: string;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  normalized?: boolean;
  special?: boolean;
}

/** A component: its type and whatever settings that type has. */
export interface ComponentJson {
  type: string;
  [setting: string]: unknown;
}

export interface TokenizerJson {
  version?: string;
  truncation?: unknown;
  padding?: unknown;
  added_tokens: AddedTokenJson[];
  normalizer: ComponentJson | null;
  pre_tokenizer: ComponentJson | null;
  post_processor: ComponentJson | null;
  decoder: ComponentJson | null;
  model: ComponentJson & { vocab: Record<string, number>; merges?: string[] | [string, string][]; ignore_merges?: boolean };
}

/** A special token is written as its text or as an object that holds it. */
export type TokenText = string | { content: string } | null | undefined;

export interface TokenizerConfigJson {
  bos_token?: TokenText;
  eos_token?: TokenText;
  unk_token?: TokenText;
  pad_token?: TokenText;
  chat_template?: string | { name: string; template: string }[];
  [setting: string]: unknown;
}

export function tokenText(token: TokenText): string | undefined {
  return typeof token === "string" ? token : (token?.content ?? undefined);
}
