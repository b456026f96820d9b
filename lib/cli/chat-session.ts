/** A conversation at the terminal or through a pipe: what the lines mean, and the answers as they are written. */
import { writeFileAtomic } from "../files.js";
import { fitMessages } from "../chat-models/fit.js";
import type { Message } from "../conversations/types.js";
import type { Engine } from "../engine/engine.js";
import { RlhiError } from "../errors.js";
import type { SamplingFlags } from "./model-flags.js";

export interface ChatOutput {
  /** A piece of the answer, as it comes. */
  piece(text: string): void;
  /** The whole answer, when it has ended. */
  done(answer: { content: string; tokens: number; interrupted: boolean }): void;
  note(text: string): void;
}

export const chatHelp = `/reset          forget the conversation; the system message stays
/system TEXT    begin again with this system message (none without TEXT)
/save FILE      write the conversation as JSON messages
/help           this list
Ctrl-C stops an answer, Ctrl-D leaves.`;

export class ChatSession {
  #messages: Message[] = [];
  #answering: AbortController | undefined;
  #turn = 0;

  constructor(private readonly engine: Engine, private readonly sampling: SamplingFlags, private system: string, private readonly out: ChatOutput) {}

  get messages(): Message[] {
    return [...(this.system === "" ? [] : [{ role: "system" as const, content: this.system }]), ...this.#messages];
  }

  /** A command or a request. */
  async line(text: string): Promise<void> {
    const [, command, rest] = /^\/(\w+)\s*(.*)$/s.exec(text) ?? [];
    if (command !== undefined) this.#command(command, rest ?? "");
    else if (text.trim() !== "") await this.#answer(text);
  }

  /** True where there was an answer to stop. */
  interrupt(): boolean {
    this.#answering?.abort();
    return this.#answering !== undefined;
  }

  #command(name: string, rest: string): void {
    switch (name) {
      case "reset":
        this.#messages = [];
        this.out.note("the conversation is forgotten");
        break;
      case "system":
        this.system = rest.trim();
        this.#messages = [];
        this.out.note(this.system === "" ? "no system message; the conversation begins again" : "system message set; the conversation begins again");
        break;
      case "save":
        this.#save(rest.trim());
        break;
      case "help":
        this.out.note(chatHelp);
        break;
      default:
        this.out.note(`no command /${name}\n${chatHelp}`);
    }
  }

  #save(path: string): void {
    if (path === "") {
      this.out.note("/save needs a file's name");
      return;
    }
    try {
      writeFileAtomic(path, `${JSON.stringify(this.messages, null, 2)}\n`);
      this.out.note(`${this.messages.length} messages written to ${path}`);
    } catch (error) {
      this.out.note((error as Error).message);
    }
  }

  async #answer(request: string): Promise<void> {
    const tokenizer = this.engine.requireTokenizer();
    const messages: Message[] = [...this.messages, { role: "user", content: request }];
    const fitted = fitMessages(messages, { budget: this.engine.context - this.sampling.maxNewTokens, count: (kept) => tokenizer.encodeChat(kept).length });
    if (!fitted.fits) {
      this.out.note("that is longer than the model's context allows; shorten it or lower --max-new-tokens");
      return;
    }
    if (fitted.dropped > 0) this.out.note(`the conversation has grown too long: its first ${fitted.dropped} messages are left out`);
    const { content, tokens, interrupted } = await this.#write(tokenizer.encodeChat(fitted.messages));
    this.#messages.push({ role: "user", content: request }, { role: "assistant", content });
    this.out.done({ content, tokens, interrupted });
  }

  /** The answer, piece by piece; stopped in the middle it is what was written so far. */
  async #write(prompt: number[]): Promise<{ content: string; tokens: number; interrupted: boolean }> {
    const tokenizer = this.engine.requireTokenizer();
    const { sampling } = this;
    const ids: number[] = [];
    let shown = "";
    const controller = new AbortController();
    this.#answering = controller;
    try {
      const [[result] = []] = await this.engine.generate([{
        prompt, max_new_tokens: sampling.maxNewTokens, temperature: sampling.temperature, top_p: sampling.topP, top_k: sampling.topK, min_p: sampling.minP, seed: sampling.seed + this.#turn,
      }], {
        signal: controller.signal,
        onToken: ({ token }) => {
          ids.push(token);
          const text = tokenizer.decode(ids, true);
          // A character may still lack bytes.
          if (text.endsWith("\ufffd")) return;
          this.out.piece(text.slice(shown.length));
          shown = text;
        },
      });
      const content = result?.text ?? shown;
      this.out.piece(content.slice(shown.length));
      return { content, tokens: ids.length, interrupted: false };
    } catch (error) {
      if (!controller.signal.aborted) throw error instanceof Error ? error : new RlhiError("ERR_INTERNAL", { what: String(error) });
      return { content: shown, tokens: ids.length, interrupted: true };
    } finally {
      this.#turn += 1;
      this.#answering = undefined;
    }
  }
}
