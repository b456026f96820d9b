/** bench:peers and bench:targets, without their peers: turns, verdicts, what a killed run keeps, arguments. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readArguments } from "../bench/peers/arguments.js";
import { lastRecord } from "../bench/peers/environment.js";
import { instructionsOf, isHeld } from "../bench/peers/instructions.js";
import type { Setting } from "../bench/peers/measurements.js";
import { runRounds, secondsOf } from "../bench/peers/rounds.js";
import type { Contender, Measurement, Reading, Result } from "../bench/peers/rounds.js";
import { measureRows } from "../bench/targets/measure.js";
import { TargetsRecord } from "../bench/targets/record.js";
import type { Settings } from "../bench/targets/record.js";
import { rowMakers } from "../bench/targets/rows.js";
import type { Criterion } from "../bench/targets/rows.js";
import { lineOf, verdictOf } from "../bench/targets/verdicts.js";
import { loadAddon, packageRoot } from "../lib/engine/addon.js";
import { silent } from "../lib/progress.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-targets-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Gives one reading after the other; an Error is thrown. */
function contender(name: string, ours: boolean, readings: (Reading | Error)[], log: string[] = []): Contender {
  let round = 0;
  return {
    name, ours,
    run: () => {
      log.push(name);
      const next = readings[round] as Reading | Error;
      round += 1;
      return next instanceof Error ? Promise.reject(next) : Promise.resolve(new Map([["it", next]]));
    },
  };
}

const measurement = (contenders: Contender[], more: Partial<Measurement> = {}): Measurement => ({ name: "it", unit: "x/s", parts: ["it"], seconds: 5, contenders, ...more });
const ratio = (target: number): Criterion => ({ kind: "ratio", target });
const settingOf = (isa: string): Setting => ({ threads: 2, gguf: undefined, instructions: { name: isa, forced: true, env: {}, withoutLlamaFor: [] } });
const quiet = { begins: () => {}, ended: () => {} };
const values = (...all: number[]): Reading[] => all.map((value) => ({ value }));
const figuresOf = async (contenders: Contender[], rounds: number): Promise<Result> => (await runRounds(measurement(contenders), rounds, quiet)).results[0] as Result;

test("contenders take turns; figures are medians, and a failure costs its own round alone", async () => {
  const log: string[] = [];
  const contenders = [
    contender("a", true, [{ value: 4, limit: 8, memory: 10 }, { value: 1, limit: 10, memory: 30 }, { value: 2, limit: 9, memory: 20 }], log),
    contender("b", false, [{ value: 5 }, new Error("no memory"), { value: 7 }], log),
    contender("c", false, [new Error("absent"), new Error("absent"), new Error("absent")], log),
  ];
  const shown: string[] = [];
  const { results, failures } = await runRounds(measurement(contenders), 3, { begins: (name, round) => shown.push(`${round} ${name}`), ended: () => {} });
  assert.deepEqual(log, ["a", "b", "c", "a", "b", "c", "a", "b", "c"]);
  assert.deepEqual(shown.slice(2, 4), ["1 c", "2 a"]);
  assert.deepEqual(results, [{
    part: "it", unit: "x/s",
    figures: [
      { contender: "a", ours: true, median: 2, low: 1, high: 4, memory: 30, limit: 9, values: [4, 1, 2], limits: [8, 10, 9] },
      { contender: "b", ours: false, median: 6, low: 5, high: 7, memory: null, limit: null, values: [5, null, 7], limits: [null, null, null] },
    ],
  }]);
  assert.deepEqual(failures, [{ contender: "c", message: "absent" }, { contender: "b", message: "no memory" }]);
  assert.equal(secondsOf([measurement(contenders), measurement(contenders.slice(1), { seconds: 1 })], 3), 3 * 3 * 5 + 3 * 2);
});

test("a ratio is of the medians of the fastest on either side, its range round by round", async () => {
  const result = await figuresOf([
    contender("ours slow", true, values(1, 1, 1)), contender("ours", true, values(8, 12, 10)), contender("peer", false, values(4, 4, 5)), contender("peer slow", false, values(1, 20, 1)),
  ], 3);
  assert.deepEqual(verdictOf(result, ratio(2.5)), { part: "it", kind: "ratio", target: 2.5, measured: { median: 2.5, low: 2, high: 3 }, met: true, ours: "ours", peer: "peer", without: [] });
  assert.equal(verdictOf(result, ratio(2.51)).met, false);
  assert.equal(lineOf(verdictOf(result, ratio(5)))["verdict"], "missed by 50 %");
  assert.equal(lineOf(verdictOf(result, ratio(2.501)))["verdict"], "missed by 1 %");
  assert.deepEqual(lineOf(verdictOf(result, ratio(2))), { "row": "it", "target": "2.00x the peer's speed", "measured": "2.50x", "low - high": "2.00x - 3.00x", "verdict": "met", "compared": "ours, peer" });
});

test("shares are of the limit of the same run, and memory is to stay below", async () => {
  const result = await figuresOf([contender("ours", true, [{ value: 3, limit: 4, memory: 100 }, { value: 4, limit: 5, memory: 90 }]), contender("peer", false, [{ value: 1, memory: 150 }, { value: 1, memory: 160 }])], 2);
  const share = verdictOf(result, { kind: "share", target: 0.8 });
  assert.ok(share.measured !== null && Math.abs(share.measured.median - 3.5 / 4.5) < 1e-12);
  assert.deepEqual([share.measured.low, share.measured.high, share.met, share.peer], [0.75, 0.8, false, null]);
  assert.equal(lineOf(share)["verdict"], "missed by 2.2 points");
  const half = verdictOf(result, { kind: "memory ratio", target: 0.5 });
  assert.deepEqual([half.measured?.median, half.met, lineOf(half)["verdict"]], [0.625, false, "missed by 25 %"]);
  assert.equal(verdictOf(result, { kind: "memory ratio", target: 0.625 }).met, true);
  assert.equal(verdictOf(result, { kind: "memory", target: 100 }).met, true);
  assert.equal(verdictOf(result, { kind: "memory", target: 99 }).met, false);
});

test("without figures, or without a peer that should be there, nothing is met", async () => {
  const alone = await figuresOf([contender("ours", true, values(9)), contender("peer", false, [new Error("absent")])], 1);
  assert.deepEqual([verdictOf(alone, ratio(2)).measured, verdictOf(alone, ratio(2)).met, lineOf(verdictOf(alone, ratio(2)))["verdict"]], [null, false, "not measured"]);
  assert.equal(verdictOf(alone, { kind: "share", target: 0.1 }).measured, null);
  const incomplete = await figuresOf([contender("ours", true, values(9)), contender("peer", false, values(3))], 1);
  const open = verdictOf(incomplete, ratio(2), ["llama.cpp"]);
  assert.deepEqual([open.measured?.median, open.met, lineOf(open)["verdict"]], [3, false, "open: without llama.cpp"]);
  // What is missed against fewer peers is missed.
  assert.equal(lineOf(verdictOf(incomplete, ratio(4), ["llama.cpp"]))["verdict"], "missed by 25 %");
});

const runScript = (script: string): ReturnType<typeof lastRecord> => lastRecord(process.execPath, ["-e", script], { GIVEN: "7" });

test("a peer's record is its last; what libraries print before it may look like one", async () => {
  assert.deepEqual(await runScript(`console.log("{'loss': '0.6931'}\\nnoise"); console.log(JSON.stringify({ given: process.env.GIVEN }))`), { given: "7" });
  await assert.rejects(runScript("console.log('nothing')"), /ended with 0: no message/);
  await assert.rejects(runScript("console.error('first\\nlast line'); process.exit(3)"), /ended with 3: last line$/);
  await assert.rejects(runScript("console.log(\"{'torn\")"), SyntaxError);
});

const settings: Settings = { instructions: "avx512", threads: 2, rounds: 1, cpu: "a cpu", addon: "hash", gguf: null };

test("a finished row is kept and not measured again; one with a failure, or of other settings, is", async () => {
  const path = join(folder, "kept");
  const log: string[] = [];
  const rows = (second: Reading | Error): { measurement: Measurement; criteria: Criterion[] }[] => [
    { measurement: measurement([contender("first", true, values(4), log)], { name: "first" }), criteria: [] },
    { measurement: measurement([contender("second", true, [second], log), contender("peer", false, values(2), log)], { name: "second" }), criteria: [{ kind: "ratio", target: 2 }] },
  ];
  const run = async (second: Reading | Error, under: Settings): Promise<Awaited<ReturnType<typeof measureRows>> & { ran: string[] }> => {
    log.length = 0;
    return { ...(await measureRows(rows(second), 1, () => under, new TargetsRecord(path), silent)), ran: [...log] };
  };
  const failing = await run(new Error("killed"), settings);
  assert.deepEqual(failing.failures, ["second: second failed: killed"]);
  assert.equal(failing.verdicts[0]?.measured, null);
  assert.deepEqual((await run({ value: 6 }, settings)).ran, ["second", "peer"]);
  const again = await run(new Error("never asked"), settings);
  assert.deepEqual([again.ran, again.failures, again.verdicts[0]?.measured?.median, again.verdicts[0]?.met], [[], [], 3, true]);
  assert.deepEqual((await run({ value: 6 }, { ...settings, addon: "another build" })).ran, ["first", "second", "peer"]);
  // The same instructions: in place of the old; others: beside them.
  await run({ value: 6 }, { ...settings, instructions: "amx" });
  const kept = JSON.parse(readFileSync(join(path, "targets.json"), "utf8")) as { rows: { measurement: string; settings: Settings }[] };
  assert.deepEqual(kept.rows.map((row) => `${row.measurement} ${row.settings.instructions} ${row.settings.addon}`), ["first avx512 another build", "second avx512 another build", "first amx hash", "second amx hash"]);
});

test("a row is on disk before the next is begun", async () => {
  const path = join(folder, "killed");
  let seen = "";
  const watching: Contender = {
    name: "watching", ours: true,
    run: () => {
      seen = readFileSync(join(path, "targets.json"), "utf8");
      return Promise.resolve(new Map([["it", { value: 1 }]]));
    },
  };
  const rows = [measurement([contender("a", true, values(4))], { name: "first" }), measurement([watching], { name: "second" })].map((one) => ({ measurement: one, criteria: [] }));
  await measureRows(rows, 1, () => settings, new TargetsRecord(path), silent);
  assert.match(seen, /"first"/);
  assert.doesNotMatch(seen, /"second"/);
});

test("a file that is no record is left alone", () => {
  writeFileSync(join(folder, "targets.json"), "{ not json");
  assert.throws(() => new TargetsRecord(folder), { code: "ERR_INVALID_FILE", message: /targets\.json: not a record of bench:targets/ });
  assert.equal(readFileSync(join(folder, "targets.json"), "utf8"), "{ not json");
});

test("the targets: stricter peers and types go with the instructions", () => {
  const row = (kind: string, isa: string): string => {
    const [{ measurement: { contenders, missing }, criteria }] = (rowMakers[kind] as (typeof rowMakers)[string])(settingOf(isa)) as [ReturnType<(typeof rowMakers)[string]>[number]];
    return [contenders.map(({ name }) => name).join(", "), criteria.map(({ kind: of, target }) => `${of} ${target}`).join(", "), missing ?? ""].join("; ");
  };
  assert.equal(row("gemm", "amx"), "rlhi-native bf16, PyTorch bf16; share 0.65, ratio 2; ");
  assert.equal(row("gemm", "avx512"), "rlhi-native f32, PyTorch f32; share 0.85, ratio 1.15; ");
  assert.equal(row("train", "amx"), "rlhi-native bf16, TRL bf16, TRL f32; ratio 8, memory ratio 0.5; ");
  assert.equal(row("train-long", "avx512"), "rlhi-native bf16, rlhi-native f32, TRL f32; ratio 2.5, share 0.57, memory ratio 0.5; ");
  assert.equal(row("forward", "amx"), "rlhi-native bf16, transformers bf16; ratio 8; ");
  assert.equal(row("forward", "avx512"), "rlhi-native bf16, rlhi-native f32, transformers f32; ratio 1.6; ");
  assert.equal(row("generate-64", "avx512"), "rlhi-native bf16, transformers bf16, transformers f32; ratio 4; llama.cpp (--gguf)");
  assert.equal(row("generate-1", "amx"), "rlhi-native bf16; share 0.85; ");
  assert.equal(row("8b-layer", "avx512-bf16"), "rlhi-native bf16; share 0.75; ");
  assert.equal(row("8b-forward", "amx"), "rlhi-native bf16; share 0.55, memory 24000000000; ");
  assert.equal(row("second-core", "amx"), "2 threads, 1 thread; ratio 1.95; ");
  const products = (rowMakers["gemm"] as (typeof rowMakers)[string])(settingOf("amx")).map(({ measurement: { parts } }) => parts);
  assert.deepEqual(products.map((parts) => parts.length), [15, 15]);
  assert.ok(products[1]?.includes("llama-3.1-8b down, weight gradient, 4096 x 14336 x 512"), products[1]?.join("\n"));
});

test("instructions: the peers are held with the engine, and the engine is never held alone", () => {
  const { isas, defaultIsa } = loadAddon().systemInfo();
  assert.deepEqual(instructionsOf(undefined), { name: defaultIsa, forced: false, env: {}, withoutLlamaFor: [] });
  if (isas.includes("avx512")) {
    const { env, withoutLlamaFor } = instructionsOf("avx512");
    assert.deepEqual([env["RLHI_CPU_ISA"], env["ONEDNN_MAX_CPU_ISA"], withoutLlamaFor.includes("sapphirerapids")], ["avx512", "AVX512_CORE_VNNI", true]);
  }
  if (!isas.includes("amx")) assert.throws(() => instructionsOf("amx"), { exitCode: 2, message: /--isa: this machine does not have these instructions/ });
  process.env["RLHI_CPU_ISA"] = "portable";
  try {
    assert.throws(() => instructionsOf(undefined), { exitCode: 2, message: /RLHI_CPU_ISA: it holds our engine alone/ });
  } finally {
    delete process.env["RLHI_CPU_ISA"];
  }
  assert.equal(isHeld({ held: 50, free: 101 }), true);
  assert.equal(isHeld({ held: 51, free: 101 }), false);
});

test("arguments: defaults, and what is refused", () => {
  const kinds = ["train", "gemm"];
  const { threads, ...rest } = readArguments([], kinds);
  assert.ok(threads >= 1);
  assert.deepEqual(rest, { only: kinds, rounds: 3, isa: undefined, gguf: undefined, out: undefined, json: false, help: false });
  assert.equal(readArguments(["--gguf", packageRoot, "--isa", "avx512", "--only", "gemm"], kinds).isa, "avx512");
  const refused: [string[], RegExp][] = [
    [["--only", "train,gem"], /^--only: unknown name\n {2}expected: train, gemm\n {2}found: {4}gem$/], [["--rounds", "0"], /^--rounds: value out of range/], [["--threads", "two"], /^--threads: .*\n.*\n {2}found: {4}two/],
    [["--isa", "avx1024"], /^--isa: unknown name/], [["--gguf", join(folder, "absent.gguf")], /^--gguf: no such file/], [["--steps", "3"], /'--steps'/],
  ];
  for (const [argv, message] of refused) assert.throws(() => readArguments(argv, kinds), { exitCode: 2, message });
});

test("the commands: help is printed, wrong arguments end with 2 before anything is set up", () => {
  for (const name of ["peers", "targets"]) {
    const run = (...args: string[]): ReturnType<typeof spawnSync> => spawnSync(process.execPath, [join(packageRoot, "dist", "bench", `${name}.js`), ...args], { encoding: "utf8" });
    const help = run("--help");
    assert.equal(help.status, 0);
    assert.match(String(help.stdout), new RegExp(`npm run bench:${name} -- .*--rounds 3`, "s"));
    const wrong = run("--only", "nothing", "--out", join(folder, "never"));
    assert.deepEqual([wrong.status, wrong.stdout], [2, ""]);
    assert.match(String(wrong.stderr), /--only: unknown name/);
  }
  assert.equal(existsSync(join(folder, "never")), false);
});
