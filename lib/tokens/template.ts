/** Chat templates: Jinja as transformers renders it (trim_blocks, lstrip_blocks, loop controls, raise_exception, strftime_now, tojson). */
import { Environment, Interpreter, Template } from "@huggingface/jinja";
import type { Message } from "../conversations/types.js";
import { RlhiError } from "../errors.js";
import type { ChatTemplate, RenderOptions } from "./types.js";

/**
 * The date that templates are given in all that a run makes, measures and trains on: the one that Llama 3's template names where
 * there is no clock. Today's would be other tokens tomorrow, in answers already sampled and in pairs tokenised again.
 */
export const fixedDate = (): Date => new Date(2024, 6, 26);

/** As transformers renders: for people who talk with a model. */
export const today = (): Date => new Date();

const shortMonths = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const longMonths = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const longDays = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const two = (n: number): string => String(n).padStart(2, "0");

/** Python's strftime in the C locale, local time; the package's own follows the machine's language. */
export function strftime(date: Date, format: string): string {
  const parts: Record<string, () => string> = {
    Y: () => String(date.getFullYear()), y: () => two(date.getFullYear() % 100), m: () => two(date.getMonth() + 1), d: () => two(date.getDate()),
    b: () => shortMonths[date.getMonth()] ?? "", B: () => longMonths[date.getMonth()] ?? "", A: () => longDays[date.getDay()] ?? "",
    a: () => (longDays[date.getDay()] ?? "").slice(0, 3), H: () => two(date.getHours()), M: () => two(date.getMinutes()), S: () => two(date.getSeconds()),
    I: () => two(date.getHours() % 12 === 0 ? 12 : date.getHours() % 12), p: () => (date.getHours() < 12 ? "AM" : "PM"), "%": () => "%",
  };
  return format.replace(/%([A-Za-z%])/g, (whole, letter: string) => parts[letter]?.() ?? whole);
}

/** Python's range, which templates may call. */
function range(first: number, end?: number, step = 1): number[] {
  const [from, to] = end === undefined ? [0, first] : [first, end];
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, index) => from + index * step);
}

/** A template without system role gets the system text at the head of the first user message. */
function mergeSystem(messages: readonly Message[]): Message[] {
  const [first, second, ...rest] = messages;
  if (first?.role !== "system") return [...messages];
  if (second?.role !== "user") return [{ role: "user", content: first.content }, ...messages.slice(1)];
  return [{ role: "user", content: `${first.content}\n\n${second.content}` }, ...rest];
}

export class JinjaChatTemplate implements ChatTemplate {
  readonly #template: Template;
  readonly #variables: Record<string, unknown>;
  /** Whether what it renders depends on the date. */
  readonly showsDate: boolean;
  #takesSystem: boolean | undefined;

  /** `variables`: the special tokens' texts by transformers' names (bos_token, eos_token, ...). `now`: what strftime_now tells. */
  constructor(source: string, variables: Readonly<Record<string, string>>, where: string, private readonly now: () => Date) {
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new RlhiError("ERR_INVALID_FILE", { what: "the chat template cannot be read", where, found: (error as Error).message, todo: "check chat_template in tokenizer_config.json", cause: error });
    }
    this.#variables = variables;
    this.showsDate = source.includes("strftime_now");
  }

  render(messages: readonly Message[], options: RenderOptions = {}): string {
    const given = messages[0]?.role === "system" && !this.takesSystem() ? mergeSystem(messages) : messages;
    try {
      return this.#render(given, options.add_generation_prompt === true, options.now);
    } catch (error) {
      throw new RlhiError("ERR_TEMPLATE", {
        what: "the model's chat template refuses these messages",
        expected: "roles that the template takes, usually user and assistant in turn",
        found: `${(error as Error).message} (roles: ${messages.map((message) => message.role).join(", ")})`,
        cause: error,
      });
    }
  }

  /** Whether a system message is taken and shows in the text; tried once. */
  takesSystem(): boolean {
    this.#takesSystem ??= this.#trySystem();
    return this.#takesSystem;
  }

  #trySystem(): boolean {
    const marker = "rlhi-system-probe";
    try {
      return this.#render([{ role: "system", content: marker }, { role: "user", content: "x" }], true).includes(marker);
    } catch {
      return false;
    }
  }

  #render(messages: readonly Message[], add_generation_prompt: boolean, now = this.now): string {
    // Template.render would bring globals of its own, and strftime_now cannot be replaced there.
    const environment = new Environment();
    const variables = {
      true: true, false: false, none: null, True: true, False: false, None: null, range,
      raise_exception: (message: unknown) => {
        throw new Error(String(message));
      },
      strftime_now: (format: string) => strftime(now(), format),
      ...this.#variables, tools: null, documents: null, messages: messages.map(({ role, content }) => ({ role, content })), add_generation_prompt,
    };
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    return String(new Interpreter(environment).run(this.#template.parsed).value);
  }
}

/** For checkpoints without a template (base models): every use is an error that says so. */
export class NoChatTemplate implements ChatTemplate {
  constructor(private readonly where: string) {}

  render(): string {
    throw new RlhiError("ERR_TEMPLATE", {
      what: "this model has no chat template, so chats cannot be rendered",
      where: this.where,
      expected: "chat_template in tokenizer_config.json, a chat_template.jinja file, or tokenizer.chat_template in a GGUF file",
      todo: "use an instruction-tuned model, add a template, or give token ids",
    });
  }
}
