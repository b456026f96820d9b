/**
 * npm run bench:peers: the engine beside Hugging Face TRL, transformers, PyTorch and llama.cpp, in turns within one sitting.
 * Each figure is the median over rounds in which every contender runs once, as a process of its own; ratios are of medians.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { packageRoot } from "../lib/engine/addon.js";
import { median } from "../lib/engine/bench.js";
import { createOutput, formatBytes } from "../lib/cli/output.js";
import { barsAgainstLimit } from "./picture.js";

const usage = `npm run bench:peers -- [--only train,train-long,forward,generate,gemm] [--rounds 3] [--threads N] [--gguf MODEL.gguf] [--out DIR] [--json]

Sets up the peers in .cache/peers (PyPI for PyTorch, transformers and TRL; npm for llama.cpp, which needs --gguf), runs them and this
engine in turns, prints a table of ratios, and with --out writes peers.json and a picture of each measurement.`;

const pythonPackages = ["torch==2.13.0", "transformers==5.18.0", "trl==1.13.0", "datasets", "accelerate"];
const llamaPackage = "node-llama-cpp@3.22.1";
const home = join(packageRoot, ".cache", "peers");
const peersDir = join(packageRoot, "bench", "peers");

/** What one run of a contender gave; `limit` is what this machine allows, in the same unit, where it was measured. */
interface Reading {
  value: number;
  memory?: number | undefined;
  limit?: number | undefined;
}

interface Contender {
  name: string;
  ours: boolean;
  run: () => Promise<Reading>;
}

interface Measurement {
  name: string;
  unit: string;
  contenders: Contender[];
}

interface Figures {
  contender: string;
  ours: boolean;
  median: number;
  low: number;
  high: number;
  memory: number | null;
  limit: number | null;
}

/** Runs a program and reads the JSON object on the last line of its output. */
function lastJson(program: string, args: string[]): Promise<Record<string, unknown>> {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], cwd: home });
    const text = { out: "", error: "" };
    child.stdout.on("data", (data: Buffer) => (text.out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (text.error = (text.error + data.toString()).slice(-4000)));
    child.on("error", failed);
    child.on("close", (code) => {
      const line = text.out.trim().split("\n").findLast((one) => one.startsWith("{"));
      if (code === 0 && line !== undefined) done(JSON.parse(line) as Record<string, unknown>);
      else failed(new Error(`${program} ${args.join(" ")} ended with ${code}: ${text.error.trim().split("\n").at(-1) ?? ""}`));
    });
  });
}

const number = (record: Record<string, unknown>, key: string): number => record[key] as number;

function reading(record: Record<string, unknown>, key: string, limit?: number): Reading {
  return { value: number(record, key), memory: number(record, "peak_memory_bytes"), limit };
}

interface Setting {
  threads: number;
  gguf: string | undefined;
}

const cli = join(packageRoot, "dist", "lib", "cli", "main.js");
const python = join(home, "venv", "bin", "python");
const dtypes = ["bf16", "f32"] as const;

function ours(what: string, dtype: string, { threads }: Setting, ...flags: (string | number)[]): Promise<Record<string, unknown>> {
  return lastJson(process.execPath, [cli, "bench", what, ...(what === "gemm" ? [] : ["--model", "smollm2-135m"]), "--dtype", dtype, "--threads", String(threads), "--json", "--quiet", ...flags.map(String)]);
}

const peer = (script: string, ...args: (string | number)[]): Promise<Record<string, unknown>> => lastJson(python, [join(peersDir, script), ...args.map(String)]);

function training(name: string, prompt: number, answer: number, setting: Setting): Measurement {
  const [pairs, steps] = [2, 3];
  return {
    name, unit: "pairs/s",
    contenders: dtypes.flatMap((dtype): Contender[] => [
      {
        name: `rlhi-native ${dtype}`, ours: true,
        run: async () => {
          const record = await ours("train", dtype, setting, "--pairs", pairs, "--prompt", prompt, "--answer", answer, "--steps", steps);
          return reading(record, "pairs_per_s", number(record, "matrix_peak_flops") / number(record, "useful_flops_per_pair"));
        },
      },
      { name: `TRL ${dtype}`, ours: false, run: async () => reading(await peer("trl_dpo.py", dtype, pairs, prompt, answer, steps, setting.threads), "pairs_per_s") },
    ]),
  };
}

function forward(setting: Setting): Measurement {
  const [sequences, tokens, steps] = [4, 512, 3];
  return {
    name: `forward, ${sequences} x ${tokens}`, unit: "tokens/s",
    contenders: dtypes.flatMap((dtype): Contender[] => [
      {
        name: `rlhi-native ${dtype}`, ours: true,
        run: async () => {
          const record = await ours("forward", dtype, setting, "--sequences", sequences, "--tokens", tokens, "--steps", steps);
          return reading(record, "tokens_per_s", number(record, "tokens_per_s") / number(record, "useful_mfu"));
        },
      },
      { name: `transformers ${dtype}`, ours: false, run: async () => reading(await peer("transformers_speed.py", "forward", dtype, sequences, tokens, steps, setting.threads), "tokens_per_s") },
    ]),
  };
}

function generation(sequences: number, setting: Setting): Measurement {
  const [prompt, fresh, steps] = [64, 64, 1];
  const llama = setting.gguf === undefined ? [] : [{
    name: "llama.cpp Q4_1", ours: false,
    run: async (): Promise<Reading> => reading(await lastJson(process.execPath, [join(home, "llama_cpp.mjs"), setting.gguf as string, String(sequences), String(prompt), String(fresh), String(setting.threads)]), "tokens_per_s"),
  }];
  return {
    name: `generation, ${sequences} at once`, unit: "tokens/s",
    contenders: [...dtypes.flatMap((dtype): Contender[] => [
      {
        name: `rlhi-native ${dtype}`, ours: true,
        run: async () => {
          const record = await ours("generate", dtype, setting, "--sequences", sequences, "--prompt", prompt, "--max-new-tokens", fresh, "--steps", steps);
          // One sequence cannot be decoded faster than the weights are read.
          return reading(record, "tokens_per_s", sequences === 1 ? number(record, "read_bandwidth_bytes_per_s") / number(record, "weight_bytes") : undefined);
        },
      },
      { name: `transformers ${dtype}`, ours: false, run: async () => reading(await peer("transformers_speed.py", "generate", dtype, sequences, prompt, fresh, steps, setting.threads), "tokens_per_s") },
    ]), ...llama],
  };
}

/** m, n, k of SmolLM2's products on 1024 tokens, and of an 8B model's on 512. */
const gemmShapes: readonly (readonly [string, number, number, number])[] = [
  ["qkv", 1024, 960, 576], ["attention out", 1024, 576, 576], ["gate and up", 1024, 3072, 576], ["down", 1024, 576, 1536], ["head", 1024, 49152, 576],
  ["8B qkv", 512, 6144, 4096], ["8B gate and up", 512, 28672, 4096], ["8B down", 512, 4096, 14336],
];

function gemm(setting: Setting): Measurement[] {
  const repeats = 5;
  return gemmShapes.map(([name, m, n, k]) => ({
    name: `product ${name}, ${m} x ${n} x ${k}`, unit: "FLOP/s",
    contenders: dtypes.flatMap((dtype): Contender[] => [
      {
        name: `rlhi-native ${dtype}`, ours: true,
        run: async () => {
          const record = await ours("gemm", dtype, setting, "--shape", `${m},${n},${k}`, "--steps", repeats);
          return { value: number(record, "flops"), limit: number(record, "matrix_peak_flops") };
        },
      },
      { name: `PyTorch ${dtype}`, ours: false, run: async () => ({ value: number(await peer("torch_gemm.py", dtype, repeats, setting.threads, `${m},${n},${k}`), `${m},${n},${k}`) }) },
    ]),
  }));
}

const kinds: Record<string, (setting: Setting) => Measurement[]> = {
  "train": (setting) => [training("training, 2 pairs of 256 + 256 + 256", 256, 256, setting)],
  "train-long": (setting) => [training("training, 2 pairs of 700 + 300 + 300", 700, 300, setting)],
  "forward": (setting) => [forward(setting)],
  "generate": (setting) => [16, 64, 1].map((sequences) => generation(sequences, setting)),
  "gemm": gemm,
};

function setUp(only: readonly string[], gguf: string | undefined): void {
  mkdirSync(home, { recursive: true });
  const step = (title: string, program: string, args: string[]): void => {
    process.stderr.write(`setting up: ${title}\n`);
    const result = spawnSync(program, args, { cwd: home, encoding: "utf8" });
    if (result.status !== 0) throw new Error(`${title} failed: ${(result.stderr || result.error?.message || "").trim().split("\n").at(-1)}`);
  };
  if (!existsSync(join(home, "venv", ".ready"))) {
    step("a virtual environment", "python3", ["-m", "venv", join(home, "venv")]);
    // PyTorch by itself first: a build that fits is then not replaced for another package's sake.
    step(pythonPackages[0] as string, python, ["-m", "pip", "install", "--quiet", pythonPackages[0] as string]);
    step(pythonPackages.slice(1).join(", "), python, ["-m", "pip", "install", "--quiet", ...pythonPackages]);
    writeFileSync(join(home, "venv", ".ready"), "");
  }
  if (gguf === undefined || !only.includes("generate")) return;
  if (!existsSync(join(home, "node_modules", "node-llama-cpp"))) {
    writeFileSync(join(home, "package.json"), JSON.stringify({ private: true, type: "module" }));
    step(llamaPackage, "npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", llamaPackage]);
  }
  // Beside its package, so that its import is found.
  step("llama_cpp.mjs", "cp", [join(peersDir, "llama_cpp.mjs"), home]);
}

async function measure({ name, contenders }: Measurement, rounds: number): Promise<Figures[]> {
  const readings = new Map<string, Reading[]>(contenders.map((contender) => [contender.name, []]));
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of contenders) {
      process.stderr.write(`${name}: round ${round} of ${rounds}, ${contender.name}\n`);
      try {
        readings.get(contender.name)?.push(await contender.run());
      } catch (error) {
        process.stderr.write(`  ${(error as Error).message}\n`);
      }
    }
  }
  return contenders.flatMap((contender) => {
    const all = readings.get(contender.name) ?? [];
    if (all.length === 0) return [];
    const values = all.map(({ value }) => value);
    const limits = all.flatMap(({ limit }) => (limit === undefined ? [] : [limit]));
    const memories = all.flatMap(({ memory }) => (memory === undefined ? [] : [memory]));
    return [{
      contender: contender.name, ours: contender.ours, median: median(values), low: Math.min(...values), high: Math.max(...values),
      memory: memories.length === 0 ? null : Math.max(...memories), limit: limits.length === 0 ? null : median(limits),
    }];
  });
}

/** Paths are meant from where npm was called. */
const fromHere = (path: string | undefined): string | undefined => (path === undefined ? undefined : resolve(process.env["INIT_CWD"] ?? process.cwd(), path));

const best = (figures: readonly Figures[]): Figures | undefined => figures.toSorted((a, b) => b.median - a.median)[0];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: "string", default: Object.keys(kinds).join(",") }, rounds: { type: "string", default: "3" }, threads: { type: "string", default: String(availableParallelism()) },
      gguf: { type: "string" }, out: { type: "string" }, json: { type: "boolean", default: false }, help: { type: "boolean", default: false },
    },
  });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const only = values.only.split(",");
  const [rounds, threads] = [Number(values.rounds), Number(values.threads)];
  const unknown = only.find((name) => !(name in kinds));
  if (unknown !== undefined || ![rounds, threads].every((n) => Number.isInteger(n) && n >= 1)) throw new TypeError(usage);
  const setting = { threads, gguf: fromHere(values.gguf) };
  setUp(only, setting.gguf);
  const out = createOutput({ json: values.json });
  const results: { name: string; unit: string; ratio: number | null; figures: Figures[] }[] = [];
  for (const measurement of only.flatMap((name) => (kinds[name] as (typeof kinds)[string])(setting))) {
    const figures = await measure(measurement, rounds);
    const [own, other] = [best(figures.filter((one) => one.ours)), best(figures.filter((one) => !one.ours))];
    const ratio = own === undefined || other === undefined ? null : own.median / other.median;
    results.push({ name: measurement.name, unit: measurement.unit, ratio, figures });
    out.table(figures.map((one) => ({
      contender: one.contender, [measurement.unit]: one.median, lowest: one.low, highest: one.high, "of the limit": one.limit === null ? "-" : `${((100 * one.median) / one.limit).toFixed(0)} %`,
      memory: one.memory === null ? "-" : formatBytes(one.memory),
    })), `${measurement.name}${ratio === null ? "" : `: ${ratio.toFixed(2)} times the best peer`}`);
    out.text("");
  }
  const folder = fromHere(values.out);
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "peers.json"), `${JSON.stringify(results, null, 1)}\n`);
  for (const { name, unit, figures } of results) {
    writeFileSync(join(folder, `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.svg`), await barsAgainstLimit(name, unit, figures));
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = error instanceof TypeError ? 2 : 1;
}
