/**
 * The parts of @huggingface/tokenizers that are used here, with their types written out: the package's own declarations
 * import without file extensions, which Node's module resolution does not follow.
 */
import * as tokenizers from "@huggingface/tokenizers";
import type { ComponentJson, TokenizerConfigJson, TokenizerJson } from "./tokenizer-json.js";

export interface HubTokenizer {
  readonly normalizer: { normalize(text: string): string } | null;
  readonly model: {
    /** By id; holes where an id is not in use. */
    readonly vocab: (string | undefined)[];
    readonly tokens_to_ids: Map<string, number>;
    readonly unk_token_id: number | undefined;
    encode(pieces: string[]): string[];
  };
  readonly decoder: { readonly config: ComponentJson; decode(tokens: string[]): string } | null;
}

export interface HubPreTokenizer {
  pre_tokenize(text: string, options: { section_index: number }): string[];
}

const hub = tokenizers as unknown as {
  Tokenizer: new (json: TokenizerJson, config: TokenizerConfigJson) => HubTokenizer;
  SequencePreTokenizer: new (json: { type: "Sequence"; pretokenizers: ComponentJson[] }) => HubPreTokenizer;
};

export const createHubTokenizer = (json: TokenizerJson, config: TokenizerConfigJson): HubTokenizer => new hub.Tokenizer(json, config);
export const createHubSequence = (pretokenizers: ComponentJson[]): HubPreTokenizer => new hub.SequencePreTokenizer({ type: "Sequence", pretokenizers });
