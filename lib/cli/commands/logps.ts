import { defineCommand } from "../command.js";
import type { Tools } from "../command.js";
import type { Engine } from "../../engine/engine.js";
import type { PairScore } from "../../engine/pair-scores.js";
import type { PairRow } from "../../tokens/arrow.js";
import { modelFlags, openEngine, requireRange } from "../model-flags.js";

/** Pairs scored by one call: results come out while the rest is still to do. */
const pairsAtOnce = 32;

interface LogpsFlags {
  data: string;
  maxLength: number;
  perToken: boolean;
  maxTokensPerMicroBatch: number;
}

export const logps = defineCommand({
  command: "logps",
  describe: "log-probabilities that a model gives to the answers of pairs",
  flags: (yargs) => modelFlags(yargs)
    .option("data", { type: "string", demandOption: true, requiresArg: true, describe: "pairs: a JSON array, JSON lines or Arrow; token ids or TRL's conversational form" })
    .option("per-token", { type: "boolean", default: false, describe: "also each answer token's log-probability" })
    .option("max-length", { type: "number", default: 0, describe: "prompt plus longer answer, in tokens; the oldest turns of a chat go first; 0: the model's context" })
    .option("max-tokens-per-micro-batch", { type: "number", default: 2048, describe: "token budget of one forward" })
    .example("$0 logps --model ./SmolLM2-135M-Instruct --data pairs.jsonl --json", "a JSON line a pair, in file order"),
  run: async (flags, tools) => {
    requireRange("max-length", flags.maxLength, "a whole number from 0", Number.isInteger(flags.maxLength) && flags.maxLength >= 0);
    const engine = await openEngine(flags, tools.progress);
    try {
      await scoreFile(engine, flags, tools);
    } finally {
      await engine.close();
    }
  },
});

async function scoreFile(engine: Engine, flags: LogpsFlags, { out, progress, signal }: Tools): Promise<void> {
  const { pairRow, readPairs } = await import("../../tokens/data-files.js");
  const { scorePairs } = await import("../../engine/pair-scores.js");
  const limits = { vocabSize: engine.info.vocabSize, maxTokens: flags.maxLength || engine.context, limitName: flags.maxLength > 0 ? "--max-length" : "the model's context" };
  // All rows are read before the first is scored: a bad one is told at once.
  const rows: PairRow[] = [];
  for await (const pair of readPairs(flags.data)) rows.push(pairRow(pair, () => engine.requireTokenizer(), limits));
  progress.start("scoring", rows.length);
  for (let begin = 0; begin < rows.length; begin += pairsAtOnce) {
    const group = rows.slice(begin, begin + pairsAtOnce);
    const scores = await scorePairs(engine, group, {
      maxTokensPerMicroBatch: flags.maxTokensPerMicroBatch, signal, nameOf: (index) => `${flags.data} row ${begin + index + 1}`,
    });
    const records = scores.map((score, index) => record(begin + index, score, flags.perToken));
    if (out.json) for (const line of records) out.facts(line);
    else out.table(records, begin === 0 ? flags.data : undefined);
    progress.advance(group.length);
  }
}

function record(index: number, { chosen, rejected }: PairScore, perToken: boolean): Record<string, unknown> {
  const tokens = perToken ? { chosen_token_logps: Array.from(chosen.tokenLogps), rejected_token_logps: Array.from(rejected.tokenLogps) } : {};
  return { index, chosen_logps: chosen.logps, rejected_logps: rejected.logps, ...tokens };
}
