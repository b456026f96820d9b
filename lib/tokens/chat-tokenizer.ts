/** Tokenizer and chat template of one checkpoint. */
import type { Message } from "../conversations/types.js";
import { sha256 } from "../files.js";
import { AddedTokens } from "./added-tokens.js";
import { makeInert } from "./inert.js";
import type { TokenizerSource } from "./source.js";
import { saveTokenizer } from "./save.js";
import { fixedDate, JinjaChatTemplate, NoChatTemplate, strftime } from "./template.js";
import { tokenText } from "./tokenizer-json.js";
import { JsonTokenizer, wellFormed } from "./tokenizer.js";
import type { ChatTemplate, ChatTokenizer, RenderOptions, SpecialTokens } from "./types.js";

export class CheckpointTokenizer implements ChatTokenizer {
  readonly template: ChatTemplate;
  readonly special: SpecialTokens;
  readonly vocab_size: number;
  readonly fingerprint: string;
  readonly #tokenizer: JsonTokenizer;
  readonly #specialTexts: string[];
  readonly #specialTokens: AddedTokens;

  /** `now`: the present, for templates that name the date. */
  constructor(private readonly source: TokenizerSource, now: () => Date = fixedDate) {
    const { json, config } = source;
    const template = source.template === undefined ? undefined : new JinjaChatTemplate(source.template, templateVariables(source), source.where, now);
    this.template = template ?? new NoChatTemplate(source.where);
    // The tokenizer is made without knowing its end-of-turn token: finding that takes the tokenizer.
    this.#tokenizer = new JsonTokenizer(json, config, { bos: null, eos: [], pad: null });
    this.#specialTexts = this.#tokenizer.specialTexts();
    this.#specialTokens = new AddedTokens(json.added_tokens.filter((token) => token.special === true));
    this.vocab_size = this.#tokenizer.vocab_size;
    const idOf = (text: string | undefined): number | null => (text === undefined ? null : (this.#tokenizer.idOf(text) ?? null));
    const ends = [this.#endOfTurn(), ...source.eos, idOf(tokenText(config.eos_token))].filter((id) => id !== null);
    this.special = { bos: idOf(tokenText(config.bos_token)), eos: [...new Set(ends)], pad: idOf(tokenText(config.pad_token)) };
    this.fingerprint = sha256(JSON.stringify([source.identity, source.template ?? null, this.special, ...(template?.showsDate === true ? [strftime(now(), "%Y-%m-%d")] : [])])).slice(0, 16);
  }

  encode(text: string, parse_special = false): number[] {
    return this.#tokenizer.encode(text, parse_special);
  }

  decode(ids: ArrayLike<number>, skip_special_tokens = false): string {
    return this.#tokenizer.decode(ids, skip_special_tokens);
  }

  tokenBytes(): { offsets: Int32Array; bytes: Uint8Array } {
    return this.#tokenizer.tokenBytes();
  }

  encodeChat(messages: readonly Message[], options: RenderOptions = {}): number[] {
    const clean = messages.map(({ role, content }) => ({ role, content: wellFormed(content) }));
    const inert = makeInert(clean, this.#specialTexts);
    const rendered = this.template.render(inert.messages, { ...options, add_generation_prompt: options.add_generation_prompt ?? true });
    const ids: number[] = [];
    // Sections are encoded one by one, as the tokenizer itself would between special tokens.
    for (const section of this.#specialTokens.split(rendered)) {
      if (section.id === null) for (const id of this.encode(inert.restore(section.text))) ids.push(id);
      else ids.push(section.id);
    }
    return ids;
  }

  encodeAnswer(text: string): number[] {
    const ids = text === "" ? [] : this.encode(text);
    const end = this.special.eos[0];
    if (end !== undefined) ids.push(end);
    return ids;
  }

  /** The special token with which the template closes an answer: the first one after it. Null where it closes with none. */
  #endOfTurn(): number | null {
    if (this.template instanceof NoChatTemplate) return null;
    const answer = "rlhi-answer-probe";
    try {
      const rendered = this.template.render([{ role: "user", content: "x" }, { role: "assistant", content: answer }]);
      const at = rendered.lastIndexOf(answer);
      const after = at < 0 ? [] : this.#specialTokens.split(rendered.slice(at + answer.length));
      return after.find((section) => section.id !== null)?.id ?? null;
    } catch {
      return null;
    }
  }

  save(dir: string): void {
    saveTokenizer(this.source, this.special, dir);
  }
}

/** What transformers gives a template: every named special token's text. */
function templateVariables({ config }: TokenizerSource): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const name of ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]) {
    const text = tokenText(config[name] as Parameters<typeof tokenText>[0]);
    if (text !== undefined) variables[name] = text;
  }
  return variables;
}
