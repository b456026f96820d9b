/**
 * npm run bench:peers: the engine beside Hugging Face TRL, transformers, PyTorch and llama.cpp, in turns within one sitting.
 * Each figure is the median over rounds in which every contender runs once, as a process of its own; ratios are of medians.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createOutput, formatBytes } from "../lib/cli/output.js";
import type { Output } from "../lib/cli/output.js";
import { createProgress } from "../lib/cli/progress.js";
import { runCommand } from "./peers/command.js";
import { setUp } from "./peers/environment.js";
import { instructionsOf } from "./peers/instructions.js";
import { bothDtypes, forward, generation, products, training } from "./peers/measurements.js";
import type { Setting } from "./peers/measurements.js";
import { savePicture } from "./peers/picture.js";
import { best, runRounds, secondsOf, shownOn } from "./peers/rounds.js";
import type { Measurement, Result } from "./peers/rounds.js";

const usage = `npm run bench:peers -- [--only train,train-long,forward,generate,gemm] [--rounds 3] [--threads N] [--isa amx|avx512-bf16|avx512] [--gguf MODEL.gguf] [--out DIR] [--json]

Sets up the peers in .cache/peers (PyPI for PyTorch, transformers and TRL; npm for llama.cpp, which needs --gguf), runs them and this
engine in turns, prints a table of ratios, and with --out writes peers.json and a picture of each measurement. --isa holds all of them to
the same instructions.`;

const kinds: Record<string, (setting: Setting) => Measurement[]> = {
  "train": (setting) => [training({ prompt: 256, answer: 256 }, bothDtypes, setting)],
  "train-long": (setting) => [training({ prompt: 700, answer: 300 }, bothDtypes, setting)],
  "forward": (setting) => [forward(bothDtypes, setting)],
  "generate": (setting) => [16, 64, 1].map((sequences) => generation(sequences, bothDtypes, setting)),
  "gemm": (setting) => [products("small", bothDtypes, setting), products("large", bothDtypes, setting)],
};

type WithRatio = Result & { ratio: number | null };

function withRatio(result: Result): WithRatio {
  const [own, other] = [best(result.figures, true), best(result.figures, false)];
  return { ...result, ratio: own === undefined || other === undefined ? null : own.median / other.median };
}

function print(out: Output, { part, unit, figures, ratio }: WithRatio): void {
  out.table(figures.map((one) => ({
    contender: one.contender, [unit]: one.median, lowest: one.low, highest: one.high, "of the limit": one.limit === null ? "-" : `${((100 * one.median) / one.limit).toFixed(0)} %`,
    memory: one.memory === null ? "-" : formatBytes(one.memory),
  })), `${part}${ratio === null ? "" : `: ${ratio.toFixed(2)} times the best peer`}`);
  out.text("");
}

async function save(folder: string, results: readonly WithRatio[]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "peers.json"), `${JSON.stringify(results, null, 1)}\n`);
  for (const result of results) await savePicture(folder, result);
}

await runCommand(usage, Object.keys(kinds), async ({ only, rounds, threads, isa, gguf, out: folder, json }) => {
  const instructions = instructionsOf(isa);
  setUp({ llama: gguf !== undefined && only.includes("generate") }, instructions);
  const setting = { threads, gguf, instructions };
  const out = createOutput({ json });
  const progress = createProgress();
  const measurements = only.flatMap((name) => (kinds[name] as (typeof kinds)[string])(setting));
  progress.start("bench:peers, in seconds", secondsOf(measurements, rounds));
  const results: WithRatio[] = [];
  for (const measurement of measurements) {
    for (const result of (await runRounds(measurement, rounds, shownOn(progress, measurement, rounds))).results.map(withRatio)) {
      results.push(result);
      print(out, result);
    }
  }
  progress.stop();
  if (folder !== undefined) await save(folder, results);
});
