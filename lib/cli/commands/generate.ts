import { UsageError } from "../../errors.js";
import type { Engine, Generated, GenerationItem } from "../../engine/engine.js";
import type { Tools } from "../command.js";
import { defineCommand } from "../command.js";
import { checkSampling, modelFlags, openEngine, requireRange, samplingFlags, traceFlag } from "../model-flags.js";
import type { SamplingFlags } from "../model-flags.js";

interface GenerateFlags extends SamplingFlags {
  trace?: string | undefined;
  chats?: string | undefined;
  prompt?: string | undefined;
  system?: string | undefined;
  numReturnSequences: number;
  stop?: string[] | undefined;
  ignoreEos: boolean;
}

export const generate = defineCommand({
  command: "generate",
  describe: "answers of a model to chats, all at once",
  flags: (yargs) => traceFlag(samplingFlags(modelFlags(yargs)))
    .option("chats", { type: "string", requiresArg: true, describe: "file of chats: a JSON array or JSON lines of arrays of messages, or of token ids" })
    .option("prompt", { type: "string", requiresArg: true, describe: "one request, instead of a file" })
    .option("system", { type: "string", requiresArg: true, describe: "system message of --prompt, e.g. a persona" })
    .option("num-return-sequences", { type: "number", default: 1, describe: "answers to each chat" })
    .option("stop", { type: "string", array: true, nargs: 1, describe: "text that ends an answer, before it; may be given several times" })
    .option("ignore-eos", { type: "boolean", default: false, describe: "go on past the end of text, to --max-new-tokens" })
    .option("max-sequences", { type: "number", default: 64, describe: "sequences decoded at once" })
    .conflicts("chats", "prompt")
    .example("$0 generate --model ./SmolLM2-135M-Instruct --prompt 'Name three rivers.'", "one answer")
    .example("$0 generate --model model.gguf --chats chats.json --temperature 0 --json", "a JSON line a chat, in file order"),
  run: async (flags, tools) => {
    checkSampling(flags);
    requireRange("num-return-sequences", flags.numReturnSequences, "a whole number from 1", Number.isInteger(flags.numReturnSequences) && flags.numReturnSequences >= 1);
    if (flags.chats === undefined && flags.prompt === undefined) throw new UsageError({ what: "nothing to answer", expected: "--chats FILE or --prompt TEXT" });
    const engine = await openEngine(flags, tools.progress);
    try {
      await answer(engine, flags, tools);
    } finally {
      await engine.close();
    }
  },
});

async function answer(engine: Engine, flags: GenerateFlags, { out, progress, signal }: Tools): Promise<void> {
  const items = (await prompts(engine, flags)).map((prompt, index): GenerationItem => ({
    prompt, max_new_tokens: flags.maxNewTokens, n: flags.numReturnSequences, temperature: flags.temperature, top_p: flags.topP, top_k: flags.topK, min_p: flags.minP,
    seed: flags.seed + index, stop_strings: flags.stop, ignore_eos: flags.ignoreEos,
  }));
  progress.start("answering", items.length * flags.numReturnSequences);
  // Answers end in any order; they are printed in the chats' order, each as soon as those before it are there.
  const waiting: (Generated | undefined)[] = Array.from({ length: items.length * flags.numReturnSequences });
  let next = 0;
  await engine.generate(items, {
    signal,
    onResult: (result) => {
      waiting[result.request * flags.numReturnSequences + result.sample] = result;
      progress.advance();
      for (let ready = waiting[next]; ready !== undefined; ready = waiting[next]) {
        print(out, ready, items[ready.request] as GenerationItem, flags.numReturnSequences > 1);
        waiting[next] = undefined;
        next += 1;
      }
    },
  });
}

async function prompts(engine: Engine, flags: GenerateFlags): Promise<ArrayLike<number>[]> {
  if (flags.prompt !== undefined) {
    const system = flags.system === undefined ? [] : [{ role: "system" as const, content: flags.system }];
    return [engine.requireTokenizer().encodeChat([...system, { role: "user", content: flags.prompt }])];
  }
  const { checkFits, checkVocabulary, readChats } = await import("../../tokens/data-files.js");
  const all: ArrayLike<number>[] = [];
  for await (const chat of readChats(flags.chats ?? "")) {
    const ids = chat.kind === "ids" ? chat.ids : engine.requireTokenizer().encodeChat(chat.messages);
    checkVocabulary(ids, engine.info.vocabSize, chat.where);
    checkFits(ids.length + flags.maxNewTokens, engine.context, chat.where);
    all.push(ids);
  }
  return all;
}

function print(out: Tools["out"], result: Generated, item: GenerationItem, several: boolean): void {
  if (out.json) {
    out.facts({
      index: result.request, ...(several ? { sample: result.sample } : {}), prompt_ids: Array.from(item.prompt), token_ids: Array.from(result.token_ids), text: result.text,
      logps: Array.from(result.logps), finish_reason: result.finish_reason,
    });
    return;
  }
  out.text(`--- ${result.request}${several ? `.${result.sample}` : ""} (${result.token_ids.length} tokens, ${result.finish_reason === "length" ? "cut at --max-new-tokens" : "ended"})`);
  out.text(result.text);
}
