import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../lib/engine/addon.js";
import { createOutput, formatBytes, formatNumber, formatSeconds } from "../lib/cli/output.js";
import { createProgress } from "../lib/cli/progress.js";
import { printable } from "../lib/text/printable.js";
import { cliJson, cliPath, runCli } from "./helpers/cli.js";
import { writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-cli-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;
const pairs = join(folder, "pairs.json");
writeFileSync(pairs, JSON.stringify([{ prompt_ids: [5, 6, 7], chosen_ids: [8, 2], rejected_ids: [9, 10, 2] }]));

const common = ["help", "version", "json", "quiet"];
const compute = ["dtype", "threads"];
const onDevice = [...compute, "device"];
const sampling = ["max-new-tokens", "temperature", "top-p", "top-k", "min-p", "seed"];
/** Other programs call these: a flag may be added here, never renamed. */
const frozen: Record<string, string[]> = {
  logps: [...common, ...onDevice, "model", "data", "per-token", "max-length", "max-tokens-per-micro-batch"],
  generate: [...common, ...onDevice, ...sampling, "model", "chats", "prompt", "system", "num-return-sequences", "stop", "ignore-eos", "max-sequences", "trace"],
  chat: [...common, ...onDevice, ...sampling, "model", "system", "persona"],
  train: [
    ...common, ...onDevice, "run", "force", "model", "ref", "data", "out", "overwrite", "seed", "max-length", "save-gradients", "trace", "loss-type", "beta", "label-smoothing", "simpo-gamma", "rpo-alpha",
    "learning-rate", "adam-beta1", "adam-beta2", "adam-epsilon", "weight-decay", "gradients", "moments", "moment-memory", "max-grad-norm", "lr-scheduler-type", "warmup-steps", "pairs-per-step", "num-epochs", "num-train-epochs", "max-steps",
    "max-tokens-per-micro-batch", "recompute", "save-steps", "shuffle",
  ],
  bench: [...common, ...onDevice, "model", "steps", "pairs", "prompt", "answer", "gradients", "moments", "moment-memory", "recompute", "sequences", "tokens", "shape", "form", "max-new-tokens", "max-tokens-per-micro-batch"],
  doctor: [...common, "plan", "device", "dtype", "gradients", "moments", "moment-memory", "recompute", "max-tokens-per-micro-batch", "max-pair-tokens"],
};
for (const [command, flags] of Object.entries(frozen)) {
  test(`${command}: the flags are these`, async () => {
    const { code, stdout } = await runCli([command, "--help"]);
    assert.equal(code, 0);
    const options = stdout.slice(0, stdout.indexOf("Examples:"));
    // A flag's name stands at the beginning of its line, after its short form or before its alias.
    const shown = [...options.matchAll(/^\s+(?:-\w, )?--([a-z0-9-]+)(?:, --([a-z0-9-]+))?/gm)].flatMap(([, name, alias]) => (alias === undefined ? [name] : [name, alias]));
    assert.deepEqual(new Set(shown), new Set(flags));
    assert.match(stdout, /Examples:/);
  });
}

test("--help lists the commands, --version says the package's version", async () => {
  const help = await runCli(["--help"]);
  for (const command of Object.keys(frozen)) assert.match(help.stdout, new RegExp(`rlhi-native ${command}`));
  const version = await runCli(["--version"]);
  assert.equal(version.stdout.trim(), (JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as { version: string }).version);
});

const usage: [string, string[], RegExp][] = [
  ["no command", [], /say which command/],
  ["an unknown command", ["trian"], /Did you mean train/],
  ["an unknown flag", ["logps", "--model", model, "--data", pairs, "--beta", "1"], /Unknown argument: beta/],
  ["a flag that is missing", ["logps", "--data", pairs], /Missing required argument: model/],
  ["a value that is no number", ["generate", "--model", model, "--prompt", "x", "--temperature", "hot"], /--temperature: not a number/],
  ["a value that is not offered", ["logps", "--model", model, "--data", pairs, "--dtype", "f64"], /dtype.*f64/s],
  ["a value out of range", ["generate", "--model", model, "--prompt", "x", "--top-p", "0"], /--top-p: value out of range/],
  ["a training setting out of range", ["train", "--model", model, "--data", pairs, "--out", join(folder, "never"), "--beta", "-1"], /--beta/],
  ["an empty number", ["train", "--model", model, "--data", pairs, "--out", join(folder, "never"), "--learning-rate", ""], /--learning-rate: not a number\n.*\n {2}found: {4}nothing/],
  ["an empty number after =", ["generate", "--model", model, "--prompt", "x", "--temperature="], /--temperature: not a number/],
  ["fewer threads than none", ["logps", "--model", model, "--data", pairs, "--threads", "-1"], /--threads: value out of range\n {2}expected: a whole number from 0\n {2}found: {4}-1/],
  ["half a thread", ["train", "--model", model, "--data", pairs, "--out", join(folder, "never"), "--threads", "1.5"], /--threads: value out of range/],
  ["a loss with what belongs to another", ["train", "--model", model, "--data", pairs, "--out", join(folder, "never"), "--loss-type", "ipo", "--label-smoothing", "0.1"],
    /--label-smoothing: expected 0 unless loss_type is sigmoid.*found 0\.1/],
  ["nothing to answer", ["generate", "--model", model], /--chats FILE or --prompt TEXT/],
  ["a half-told training", ["train", "--model", model], /--data, --out missing/],
  ["a training flag beside a run folder", ["train", "run.yaml", "--learning-rate", "0.5"], /--learning-rate does not go with a run folder\n.*put it into run\.yaml, as train\.learning_rate/],
  ["the same at its default", ["train", "run.yaml", "--num-train-epochs=1"], /--num-train-epochs does not go with a run folder\n.*train\.num_epochs/],
  ["a training flag of no setting beside a run folder", ["train", "--run", folder, "--out", "x"], /--out does not go with a run folder\n.*leave it out/],
  ["a switch turned off beside a run folder", ["train", "run.yaml", "--no-shuffle"], /--shuffle does not go with a run folder/],
  ["--force without a run folder", ["train", "--model", model, "--data", pairs, "--out", folder, "--force"], /--force does not go with --model, --data and --out/],
  ["a mining flag beside a run folder", ["mine", "run.yaml", "--max-users", "3"], /--max-users does not go with a run folder\n.*data\.max_users/],
  ["several mining flags beside a run folder", ["mine", "--run", folder, "--languages", "English", "--source", "auto"], /--languages does not go with a run folder\n.*data\.languages/],
  ["another mining source beside a run folder", ["mine", "run.yaml", "--source", "auto", "--include-flagged", "--min-conversations", "1"], /--source does not go with a run folder\n.*data\.source/],
  ["--out beside a run folder", ["mine", "run.yaml", "--out", "x"], /--out does not go with a run folder/],
  ["nothing to mine", ["mine"], /give either a run\.yaml \(or --run DIR\), or --data FILE --out DIR/],
  ["a mining without a place", ["mine", "--data", "x.jsonl"], /--data needs --out/],
  ["a stage's flag without a run folder", ["mine", "--data", "x.jsonl", "--out", folder, "--no-feedback"], /--feedback does not go with --data/],
  ["a mining setting out of range", ["mine", "--data", "x.jsonl", "--out", folder, "--min-conversations", "0"], /--min-conversations: expected at least 1 \(users with fewer are dropped\); found 0/],
  ["a folder that is no run's", ["mine", "--run", folder], /not a run folder/],
  ["a classifier beside a run folder", ["feedback", "run.yaml", "--classifier", "model"], /--classifier does not go with a run folder\n.*feedback\.classifier/],
  ["a model of the labels beside a run folder", ["feedback", "--run", folder, "--model", "native:x"], /--model does not go with a run folder\n.*models\.classifier/],
  ["--force beside --evaluate", ["feedback", "--evaluate", "--force"], /--force does not go with --evaluate/],
  ["a share out of range", ["feedback", "--evaluate", "--abstain-below", "5"], /a setting is wrong\n {2}- --abstain-below: expected at most 1 .*; found 5\n/],
  ["a bench without a token to decode", ["bench", "generate", "--model", model, "--max-new-tokens", "1"], /--max-new-tokens: nothing to decode\n.*2 or more/],
  ["a flag of training beside another bench", ["bench", "generate", "--model", model, "--pairs", "2"], /--pairs does not go with bench generate\n.*leave it out/],
  ["the same at its default", ["bench", "forward", "--prompt", "256"], /--prompt does not go with bench forward/],
  ["a flag of generation beside bench train", ["bench", "train", "--sequences", "4"], /--sequences does not go with bench train/],
  ["a length of sequences beside bench gemm", ["bench", "gemm", "--max-new-tokens", "4"], /--max-new-tokens does not go with bench gemm/],
  ["a model beside one product", ["bench", "gemm", "--shape", "8,8,8", "--model", model], /--model does not go with --shape/],
  ["a length of sequences beside bench ops", ["bench", "ops", "--prompt", "4"], /--prompt does not go with bench ops/],
  ["a form without its product", ["bench", "gemm", "--form", "tn"], /--form does not go with bench gemm/],
  ["a length of sequences beside bench layer", ["bench", "layer", "--tokens", "64"], /--tokens does not go with bench layer/],
  ["repetitions of bench pipeline", ["bench", "pipeline", "--steps", "2"], /--steps does not go with bench pipeline/],
];
for (const [name, args, message] of usage) {
  test(`${name}: exit code 2, on stderr`, async () => {
    const { code, stdout, stderr } = await runCli(args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
    assert.equal(stdout, "");
  });
}

test("a failure has exit code 1; with --json its code and message are also one JSON line on stderr", async () => {
  const { code, stderr } = await runCli(["logps", "--model", join(folder, "nowhere"), "--data", pairs, "--json", "--quiet"]);
  assert.equal(code, 1);
  const last = JSON.parse(stderr.trim().split("\n").at(-1) ?? "") as { error: { code: string; message: string } };
  assert.ok(last.error.code.startsWith("ERR_"), last.error.code);
  assert.match(last.error.message, /nowhere/);
});

test("control sequences in what an error quotes are shown, not sent to the terminal", async () => {
  const data = join(folder, "control.jsonl");
  writeFileSync(data, "\u001b[31m\u0007\u009b2J\r{}");
  const { code, stderr } = await runCli(["logps", "--model", model, "--data", data, "--quiet"]);
  assert.equal(code, 1);
  assert.match(stderr, /\\x1b/);
  // oxlint-disable-next-line no-control-regex
  assert.doesNotMatch(stderr, /[\0-\x08\x0b-\x1f\x7f-\x9f]/);
  assert.equal(printable("a\tb\nc\r\u001b]0;t\u0007\u009b é日\u{1F600}"), "a\tb\nc\\x0d\\x1b]0;t\\x07\\x9b é日\u{1F600}");
});

test("bad models are refused with exit code 1 and a reason", async () => {
  const cut = writeTinyModel(join(folder, "cut")).path;
  truncateSync(join(cut, "model.safetensors"), 5000);
  const other = writeTinyModel(join(folder, "other")).path;
  const config = JSON.parse(readFileSync(join(other, "config.json"), "utf8")) as object;
  writeFileSync(join(other, "config.json"), JSON.stringify({ ...config, model_type: "gpt_neox", architectures: ["GPTNeoXForCausalLM"] }));
  const gguf = join(folder, "cut.gguf");
  writeFileSync(gguf, "GGUF\u0003\u0000\u0000\u0000");
  for (const [path, message] of [[cut, /model\.safetensors/], [other, /gpt_neox|GPTNeoX/], [gguf, /cut\.gguf/]] as const) {
    const { code, stderr } = await runCli(["logps", "--model", path, "--data", pairs, "--quiet"]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /\n\s+at /, "no stack trace");
  }
});

test("a reader that goes away is no error", async () => {
  const many = join(folder, "many.json");
  writeFileSync(many, JSON.stringify(Array.from({ length: 2000 }, () => ({ prompt_ids: [5, 6, 7], chosen_ids: [8, 2], rejected_ids: [9, 2] }))));
  const code = await new Promise<number | null>((resolve) => {
    const child = spawn(process.execPath, [cliPath, "logps", "--model", model, "--data", many, "--json", "--quiet", "--dtype", "f32"]);
    child.stdout.once("data", () => child.stdout.destroy());
    child.on("close", resolve);
  });
  assert.equal(code, 0);
});

test("doctor tells machine, binary and why; a plan on request", async () => {
  const [facts, plan] = await cliJson<Record<string, unknown>>(["doctor", "--plan", model, "--dtype", "f32", "--max-pair-tokens", "64"]);
  assert.equal(facts?.["node"], `${process.version} ${process.platform}-${process.arch}`);
  assert.match(String(facts?.["binary"]), /rlhi_native.*\.node$/);
  assert.match(String(facts?.["cuda"]), /^(?:ready: |not usable: )/);
  assert.ok(((facts?.["paths"] ?? []) as string[]).includes(String(facts?.["path_used"])));
  const entries = plan?.["entries"] as { bytes: number }[];
  assert.equal(entries.reduce((sum, entry) => sum + entry.bytes, 0), plan?.["total_bytes"]);
  assert.equal(plan?.["fits"], true);
});

test("doctor ends with 1 and says what to do where there is no binary", async () => {
  const { code, stderr } = await runCli(["doctor"], { env: { PREBUILDS_ONLY: "1", npm_config_arch: "riscv64" } });
  assert.equal(code, 1);
  assert.match(stderr, /not built for this machine.*npm run build:native/s);
});

test("numbers, bytes and times as people read them", () => {
  assert.deepEqual([0, 1234567, 0.123456, 1e-9, -2.5, Number.NaN].map(formatNumber), ["0", "1,234,567", "0.1235", "1.000e-9", "-2.5", "NaN"]);
  assert.deepEqual([0, 1023, 1024, 1.5 * 2 ** 30].map(formatBytes), ["0 B", "1023 B", "1.00 KiB", "1.50 GiB"]);
  assert.deepEqual([0.04, 12.4, 65, 3661, Number.POSITIVE_INFINITY].map(formatSeconds), ["0.0 s", "12 s", "1 min 05 s", "1 h 01 min", "unknown"]);
});

test("facts are an outline for people and a line for programs", () => {
  let text = "";
  const write = (piece: string): void => {
    text += piece;
  };
  createOutput({ json: false, write }).facts({ name: "x", n: 1200, inner: { a: [1, 2], none: null } }, "title");
  assert.equal(text, "title\n  name  x\n  n     1,200\n  inner\n    a     1, 2\n    none  -\n");
  text = "";
  createOutput({ json: true, write }).facts({ n: 1 }, "title");
  createOutput({ json: true, write }).text("for people");
  assert.equal(text, '{"n":1}\n');
  text = "";
  createOutput({ json: false, write }).table([{ name: "a", n: 5 }, { name: "long", n: 1000 }]);
  assert.equal(text, "name      n\na         5\nlong  1,000\n");
});

test("without a terminal, progress is a line every ten seconds with percent and time left", () => {
  const lines: string[] = [];
  let now = 0;
  const stream = { isTTY: false, write: (line: string) => lines.push(line.trim()) } as unknown as NodeJS.WritableStream;
  const progress = createProgress({ stream, now: () => now });
  progress.start("work", 100, 20);
  for (let step = 0; step < 40; step += 1) {
    now += 500;
    progress.advance(1, `step ${step}`);
  }
  progress.stop();
  assert.deepEqual(lines, ["work: going on at 20 of 100", "work: 40% (40/100), 30 s left, step 19", "work: 60% (60/100), 20 s left, step 39", "work: 60 of 100 in 20 s, step 39"]);
});
