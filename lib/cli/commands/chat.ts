import { createInterface } from "node:readline";
import type { Tools } from "../command.js";
import { defineCommand } from "../command.js";
import type { ChatOutput } from "../chat-session.js";
import { RlhiError } from "../../errors.js";
import { linesOf } from "../../files.js";
import { checkSampling, modelFlags, openEngine, samplingFlags } from "../model-flags.js";
import type { ModelFlags, SamplingFlags } from "../model-flags.js";

interface ChatFlags extends ModelFlags, SamplingFlags {
  system?: string | undefined;
  persona?: string | undefined;
}

export const chat = defineCommand({
  command: "chat",
  describe: "talk with a model at the terminal",
  ownInterrupt: true,
  flags: (yargs) => samplingFlags(modelFlags(yargs))
    .option("system", { type: "string", requiresArg: true, describe: "system message" })
    .option("persona", { type: "string", requiresArg: true, describe: "file whose text is the system message, e.g. a persona" })
    .conflicts("system", "persona")
    .example("$0 chat --model runs/quickstart/model --persona me.txt", "the trained model, told who you are")
    .example("echo 'Name three rivers.' | $0 chat --model model.gguf", "a line is a request, also from a pipe"),
  run: (flags, tools) => runChat(flags, tools),
});

async function runChat(flags: ChatFlags, { out, progress }: Tools): Promise<void> {
  checkSampling(flags);
  const system = await systemMessage(flags);
  const { ChatSession, chatHelp } = await import("../chat-session.js");
  const engine = await openEngine(flags, progress);
  const terminal = process.stdin.isTTY && process.stdout.isTTY;
  const session = new ChatSession(engine, flags, system, chatOutput(out, terminal));
  const keyboard = terminal ? createInterface({ input: process.stdin, output: process.stdout, prompt: "> " }) : undefined;
  // At a terminal Ctrl-C comes as a key; through a pipe as a signal, which stops the answer and then the program.
  keyboard?.on("SIGINT", () => {
    if (!session.interrupt()) process.stderr.write("\n(Ctrl-D leaves)\n");
    keyboard.prompt();
  });
  const signalled = (): void => {
    if (!session.interrupt()) process.exit(130);
  };
  process.on("SIGINT", signalled);
  try {
    if (terminal) out.text(`${chatHelp}\n`);
    keyboard?.prompt();
    for await (const line of keyboard ?? linesOf(process.stdin)) {
      await session.line(line);
      keyboard?.prompt();
    }
  } finally {
    process.off("SIGINT", signalled);
    keyboard?.close();
    await engine.close();
  }
}

async function systemMessage(flags: ChatFlags): Promise<string> {
  if (flags.persona === undefined) return flags.system ?? "";
  const { readFileSync } = await import("node:fs");
  try {
    return readFileSync(flags.persona, "utf8").trim();
  } catch (error) {
    throw new RlhiError("ERR_NO_FILE", { what: `cannot read the persona: ${(error as Error).message}`, where: flags.persona, cause: error });
  }
}

function chatOutput(out: Tools["out"], terminal: boolean): ChatOutput {
  return {
    piece: (text) => {
      if (!out.json) out.raw(text);
    },
    done: ({ content, tokens, interrupted }) => {
      if (out.json) out.facts({ role: "assistant", content, tokens, interrupted });
      else out.raw(interrupted ? " [stopped]\n" : "\n");
    },
    note: (text) => {
      (terminal ? process.stdout : process.stderr).write(`${text}\n`);
    },
  };
}
