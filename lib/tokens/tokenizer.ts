/** A tokenizer.json at work: text to ids and back. Models and normalizers are @huggingface/tokenizers'; see pre-tokenizer.ts for what is not. */
import { AddedTokens } from "./added-tokens.js";
import { fromByteLevel, toByteLevel } from "./byte-level.js";
import { createHubTokenizer } from "./hub.js";
import type { HubTokenizer } from "./hub.js";
import { createPreTokenizer } from "./pre-tokenizer.js";
import type { PreTokenizer } from "./pre-tokenizer.js";
import type { AddedTokenJson, TokenizerConfigJson, TokenizerJson } from "./tokenizer-json.js";
import type { SpecialTokens, Tokenizer } from "./types.js";

/** Pieces remembered with their ids; natural text repeats its words. Emptied when full: a simple bound on memory. */
const rememberedPieces = 1 << 16;
const longestRemembered = 64;

const utf8 = new TextEncoder();

/** A lone surrogate has no UTF-8; it becomes U+FFFD, as when the text is written to a file. */
export function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}

/** The package reads runs of byte tokens with a decoder that swallows a byte order mark: it is made text before. */
function joinByteOrderMarks(tokens: readonly string[]): string[] {
  const joined: string[] = [];
  for (let i = 0; i < tokens.length; i += 1) {
    const mark = tokens[i] === "<0xEF>" && tokens[i + 1] === "<0xBB>" && tokens[i + 2] === "<0xBF>";
    joined.push(mark ? "\ufeff" : (tokens[i] as string));
    if (mark) i += 2;
  }
  return joined;
}

export class JsonTokenizer implements Tokenizer {
  readonly vocab_size: number;
  readonly #hub: HubTokenizer;
  readonly #preTokenizer: PreTokenizer;
  readonly #added: ReadonlyMap<number, AddedTokenJson>;
  /** [without special tokens, with them]; those matched before normalisation, then those matched after it. */
  readonly #splitters: readonly { raw: AddedTokens; normalized: AddedTokens }[];
  readonly #ids: ReadonlyMap<string, number>;
  readonly #pieces = new Map<string, readonly number[]>();
  #tokenBytes: { offsets: Int32Array; bytes: Uint8Array } | undefined;

  constructor(json: TokenizerJson, config: TokenizerConfigJson, readonly special: SpecialTokens) {
    // The package would decode and split by these; both are done here.
    this.#hub = createHubTokenizer({ ...json, added_tokens: [] }, config);
    this.#preTokenizer = createPreTokenizer(json.pre_tokenizer);
    this.#added = new Map(json.added_tokens.map((token) => [token.id, token]));
    const afterNormalizing = (token: AddedTokenJson): boolean => this.#hub.normalizer !== null && (token.normalized ?? token.special !== true);
    this.#splitters = [json.added_tokens.filter((token) => token.special !== true), json.added_tokens].map((tokens) => ({
      raw: new AddedTokens(tokens.filter((token) => !afterNormalizing(token))),
      normalized: new AddedTokens(tokens.filter(afterNormalizing).map((token) => ({ ...token, content: this.#normalize(token.content) }))),
    }));
    const specials = new Set(json.added_tokens.filter((token) => token.special === true).map((token) => token.content));
    const model = this.#hub.model;
    // Ordinary text never becomes a special token, not even where the model takes whole pieces (ignore_merges).
    for (const content of specials) model.tokens_to_ids.delete(content);
    this.#ids = model.tokens_to_ids;
    let size = 0;
    for (const id of this.#ids.values()) size = Math.max(size, id + 1);
    for (const id of this.#added.keys()) size = Math.max(size, id + 1);
    this.vocab_size = size;
  }

  encode(text: string, parse_special = false): number[] {
    const ids: number[] = [];
    const { raw, normalized } = this.#splitters[parse_special ? 1 : 0]!;
    raw.split(wellFormed(text)).forEach((section, index) => {
      if (section.id !== null) {
        ids.push(section.id);
        return;
      }
      for (const part of normalized.split(this.#normalize(section.text))) {
        if (part.id === null) this.#encodeOrdinary(part.text, index, ids);
        else ids.push(part.id);
      }
    });
    return ids;
  }

  #normalize(text: string): string {
    return this.#hub.normalizer === null ? text : this.#hub.normalizer.normalize(text);
  }

  #encodeOrdinary(text: string, section: number, ids: number[]): void {
    for (const piece of this.#preTokenizer.split(text, section)) {
      let found = this.#pieces.get(piece);
      if (found === undefined) {
        found = this.#encodePiece(piece);
        if (piece.length <= longestRemembered) {
          if (this.#pieces.size >= rememberedPieces) this.#pieces.clear();
          this.#pieces.set(piece, found);
        }
      }
      for (const id of found) ids.push(id);
    }
  }

  #encodePiece(piece: string): number[] {
    const model = this.#hub.model;
    const tokens = model.encode([this.#preTokenizer.byteLevel ? toByteLevel(piece) : piece]);
    return tokens.map((token) => this.#ids.get(token) ?? model.unk_token_id).filter((id) => id !== undefined);
  }

  decode(ids: ArrayLike<number>, skip_special_tokens = false): string {
    // Bytes of neighbouring tokens are joined before they are read as UTF-8: a character may span tokens.
    if (this.#hub.decoder !== null && !this.#decodesBytes()) return this.#decodeByComponents(ids, skip_special_tokens);
    const { offsets, bytes } = this.tokenBytes();
    const parts: Uint8Array[] = [];
    for (const id of Array.from(ids)) {
      const added = this.#added.get(id);
      if (added !== undefined && added.special === true) {
        if (!skip_special_tokens) parts.push(utf8.encode(added.content));
      } else if (id >= 0 && id < this.vocab_size) {
        parts.push(bytes.subarray(offsets[id], offsets[id + 1]));
      }
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(parts));
  }

  #decodesBytes(): boolean {
    return this.#preTokenizer.byteLevel || this.#hub.decoder?.config.type === "ByteLevel";
  }

  /** Vocabularies that are not byte-level (SentencePiece's): their decoder knows about word marks and byte tokens. */
  #decodeByComponents(ids: ArrayLike<number>, skip_special_tokens: boolean): string {
    const vocab = this.#hub.model.vocab;
    const tokens: string[] = [];
    for (const id of Array.from(ids)) {
      const added = this.#added.get(id);
      if (added?.special === true && skip_special_tokens) continue;
      const token = added?.content ?? vocab[id];
      if (token !== undefined) tokens.push(token);
    }
    return this.#hub.decoder!.decode(joinByteOrderMarks(tokens));
  }

  tokenBytes(): { offsets: Int32Array; bytes: Uint8Array } {
    this.#tokenBytes ??= this.#collectBytes();
    return this.#tokenBytes;
  }

  #collectBytes(): { offsets: Int32Array; bytes: Uint8Array } {
    const vocab = this.#hub.model.vocab;
    const parts: Uint8Array[] = [];
    const offsets = new Int32Array(this.vocab_size + 1);
    for (let id = 0; id < this.vocab_size; id += 1) {
      const added = this.#added.get(id);
      const token = vocab[id];
      const part = added !== undefined ? (added.special === true ? new Uint8Array() : utf8.encode(added.content))
        : token === undefined ? new Uint8Array() : this.#bytesOf(token);
      parts.push(part);
      offsets[id + 1] = offsets[id]! + part.length;
    }
    return { offsets, bytes: Buffer.concat(parts) };
  }

  #bytesOf(token: string): Uint8Array {
    if (this.#decodesBytes()) return fromByteLevel(token) ?? utf8.encode(token);
    const byte = /^<0x([0-9A-F]{2})>$/u.exec(token)?.[1];
    return byte === undefined ? utf8.encode(token.replaceAll("\u2581", " ")) : Uint8Array.of(Number.parseInt(byte, 16));
  }

  /** The special tokens' texts: what must stay inert in texts from datasets. */
  specialTexts(): string[] {
    return [...this.#added.values()].filter((token) => token.special === true && token.content !== "").map((token) => token.content);
  }

  /** The text of any token, added ones included. */
  textOf(id: number): string | undefined {
    return this.#added.get(id)?.content ?? this.#hub.model.vocab[id];
  }

  idOf(text: string): number | undefined {
    for (const token of this.#added.values()) if (token.content === text) return token.id;
    return this.#ids.get(text);
  }
}
