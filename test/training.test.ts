import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { MetricsLine, TrainFacts } from "../lib/engine/training.js";
import { sha256 } from "../lib/files.js";
import { seededRandom } from "../lib/random.js";
import { lockCheckpoints } from "../lib/run/lock.js";
import { cliJson, runCli } from "./helpers/cli.js";
import type { CliResult } from "./helpers/cli.js";
import { readSafetensors } from "./helpers/safetensors.js";
import { shared } from "./helpers/shared.js";
import { tinyImEnd, tinyVocabSize, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-training-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;

interface IdPair { prompt_ids: number[]; chosen_ids: number[]; rejected_ids: number[]; held_out?: boolean }

function randomPairs(count: number, seed: number, longest = 40): IdPair[] {
  const random = seededRandom(seed);
  const ids = (): number[] => Array.from({ length: 1 + Math.floor(random() * longest) }, () => Math.floor(random() * tinyVocabSize));
  return Array.from({ length: count }, () => ({ prompt_ids: ids(), chosen_ids: [...ids(), tinyImEnd], rejected_ids: [...ids(), tinyImEnd] }));
}

function json(name: string, value: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(value));
  return path;
}

const data = json("pairs.json", randomPairs(20, 1));
const out = (name: string): string => join(folder, "out", name);
const flags = (name: string, ...more: string[]): string[] => ["train", "--model", model, "--data", data, "--learning-rate", "1e-3", "--pairs-per-step", "4", "--num-epochs", "3", "--save-steps", "2", "--out", out(name), ...more];
const metricsOf = (name: string): MetricsLine[] => readFileSync(join(out(name), "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as MetricsLine);
const weightsOf = (name: string): string => sha256(readFileSync(join(out(name), "model.safetensors")));
/** Metrics without what the clock says. */
const values = (name: string): unknown[] => metricsOf(name).map((line) => ({ ...line, tokens_per_second: 0, elapsed: 0 }));

for (const dtype of ["f32", "bf16"]) {
  test(`${dtype}: with the policy as reference the first loss is ln 2; TRL's names; a Hugging Face folder at the end`, async () => {
    const name = `first-${dtype}`;
    const [facts] = await cliJson<TrainFacts>(flags(name, "--dtype", dtype));
    const lines = metricsOf(name);
    assert.ok(Math.abs((lines[0]?.loss ?? 0) - Math.LN2) < 1e-6, String(lines[0]?.loss));
    assert.deepEqual(Object.keys(lines[0] ?? {}).toSorted(), [
      "elapsed", "epoch", "grad_norm", "learning_rate", "logps/chosen", "logps/rejected", "loss", "num_tokens", "rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected", "step", "tokens_per_second",
    ]);
    assert.deepEqual(lines.map((line) => line.step), Array.from({ length: 15 }, (_, index) => index + 1));
    assert.equal(lines.at(-1)?.epoch, 3);
    assert.ok((lines.at(-1)?.loss ?? 1) < 0.9 * Math.LN2, "it learns the pairs by heart");
    assert.equal(facts?.steps, 15);
    assert.equal(facts?.loss_last, lines.at(-1)?.loss);
    for (const file of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]) assert.ok(existsSync(join(out(name), file)), file);
    assert.deepEqual(readdirSync(join(out(name), "checkpoints")).toSorted(), ["step-14", "step-15", "training.json"]);
    // The folder is a model: it gives the last pairs' answers other probabilities than before.
    const before = await cliJson<{ chosen_logps: number }>(["logps", "--model", model, "--data", data, "--dtype", dtype]);
    const after = await cliJson<{ chosen_logps: number }>(["logps", "--model", out(name), "--data", data, "--dtype", dtype]);
    assert.notEqual(before[0]?.chosen_logps, after[0]?.chosen_logps);
  });
}

test("the same seed gives the same bytes, another order other bytes", async () => {
  await cliJson(flags("same", "--dtype", "f32"));
  assert.equal(weightsOf("same"), weightsOf("first-f32"));
  assert.deepEqual(values("same"), values("first-f32"));
  await cliJson(flags("seed", "--dtype", "f32", "--seed", "1"));
  assert.notEqual(weightsOf("seed"), weightsOf("first-f32"));
});

test("held-out pairs are measured before and after, never trained on", async () => {
  const rows = randomPairs(20, 1);
  const marked = json("held-out.json", rows.map((pair, index) => ({ ...pair, held_out: index >= 14 })));
  const only = json("kept.json", rows.slice(0, 14));
  const [facts] = await cliJson<TrainFacts>(flags("held-out", "--dtype", "f32", "--data", marked));
  await cliJson(flags("kept", "--dtype", "f32", "--data", only));
  assert.equal(weightsOf("held-out"), weightsOf("kept"));
  assert.deepEqual([facts?.pairs, facts?.held_out_pairs, facts?.held_out_before?.pairs], [14, 6, 6]);
  assert.ok(Math.abs((facts?.held_out_before?.loss ?? 0) - Math.LN2) < 1e-6);
  assert.ok(Math.abs((facts?.held_out_after?.loss ?? 0) - Math.LN2) > 1e-4);
});

/** Runs a training and kills it (-9) as soon as `when` holds, looking every few milliseconds. */
function killed(name: string, when: () => boolean, signal: NodeJS.Signals, ...more: string[]): Promise<CliResult> {
  let timer: NodeJS.Timeout | undefined;
  const running = runCli([...flags(name, ...more), "--quiet"], {
    onStart: (child) => {
      timer = setInterval(() => {
        if (!when()) return;
        child.kill(signal);
        clearInterval(timer);
      }, 2);
    },
  });
  return running.finally(() => clearInterval(timer));
}

const linesIn = (name: string): number => (existsSync(join(out(name), "metrics.jsonl")) ? readFileSync(join(out(name), "metrics.jsonl"), "utf8").split("\n").length - 1 : 0);
const inCheckpoints = (name: string, pattern: RegExp): boolean => existsSync(join(out(name), "checkpoints")) && readdirSync(join(out(name), "checkpoints")).some((entry) => pattern.test(entry));
const slow = json("slow.json", randomPairs(24, 2, 120));

/** Weights of the same training never stopped; made by the first test that asks. */
async function unbroken(dtype: string): Promise<string> {
  const name = `unbroken-${dtype}`;
  if (!existsSync(join(out(name), "model.safetensors"))) await cliJson(flags(name, "--dtype", dtype, "--data", slow));
  return weightsOf(name);
}

const moments: [string, (name: string) => boolean][] = [
  ["while the reference is computed", (name) => existsSync(out(name)) && readdirSync(out(name)).some((entry) => entry.startsWith("pairs.arrow"))],
  ["after its first step", (name) => linesIn(name) >= 1],
  ["while a checkpoint is written", (name) => inCheckpoints(name, /\.tmp$/)],
  ["after its first checkpoint", (name) => inCheckpoints(name, /^step-\d+$/)],
  ["in the middle", (name) => linesIn(name) >= 9],
  ["as it ends", (name) => existsSync(join(out(name), "config.json.tmp")) || existsSync(join(out(name), "model.safetensors.tmp")) || inCheckpoints(name, /^step-18$/)],
];
test("killed at any moment and started again, a training ends in the bytes of an unbroken one", async () => {
  for (const dtype of ["f32", "bf16"]) {
    const options = ["--dtype", dtype, "--data", slow];
    const expected = await unbroken(dtype);
    for (const [index, [moment, when]] of moments.entries()) {
      // What the types differ in is what a checkpoint holds: one moment shows it.
      if (dtype === "bf16" && moment !== "after its first checkpoint") continue;
      const name = `killed-${dtype}-${index}`;
      const first = await killed(name, () => when(name), "SIGKILL", ...options);
      assert.ok(first.signal === "SIGKILL" || first.code === 0, `${moment}: ${first.stderr}`);
      const [facts] = await cliJson<TrainFacts>(flags(name, ...options));
      assert.equal(weightsOf(name), expected, moment);
      assert.deepEqual(values(name), values(`unbroken-${dtype}`), moment);
      assert.equal(facts?.steps, 18);
      assert.deepEqual(readdirSync(join(out(name), "checkpoints")).toSorted(), ["step-16", "step-18", "training.json"], moment);
      assert.deepEqual(readdirSync(out(name)).filter((entry) => entry.endsWith(".tmp")), [], moment);
    }
  }
});

test("Ctrl-C saves what is done, says how to go on, ends with 130; going on ends in the same bytes", async () => {
  const options = ["--dtype", "f32", "--data", slow, "--save-steps", "0"];
  const stopped = await killed("stopped", () => linesIn("stopped") >= 4, "SIGINT", ...options);
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(stopped.stderr, /stopped after step \d+ of 18.*run the same command again/s);
  const checkpoint = readdirSync(join(out("stopped"), "checkpoints")).find((entry) => entry.startsWith("step-"));
  const step = Number(checkpoint?.slice("step-".length));
  assert.ok(step >= 4 && step < 18, checkpoint);
  assert.equal(linesIn("stopped"), step);
  const [facts] = await cliJson<TrainFacts>(flags("stopped", ...options));
  assert.equal(facts?.resumed_from, step);
  assert.equal(weightsOf("stopped"), await unbroken("f32"));
});

test("a second training into the same folder is refused at once, --overwrite or not; the first ends as if alone", async () => {
  const options = ["--dtype", "f32", "--data", slow];
  const run = { ended: false };
  const first = cliJson<TrainFacts>(flags("contended", ...options)).finally(() => {
    run.ended = true;
  });
  while (linesIn("contended") < 1 && !run.ended) await new Promise((resolve) => setTimeout(resolve, 5));
  for (const more of [[], ["--overwrite"]]) {
    const { code, stderr } = await runCli([...flags("contended", ...options, ...more), "--quiet"]);
    // One that is slow to start may find the first one done.
    if (run.ended) break;
    assert.equal(code, 1, stderr);
    assert.match(stderr, /another process trains into this folder of checkpoints.*\n {2}found: {4}process \d+ in .*\.lock\n.*--out DIR/s);
  }
  await first;
  assert.equal(weightsOf("contended"), await unbroken("f32"));
  assert.ok(!existsSync(join(out("contended"), "checkpoints", ".lock")));
});

test("a lock left by a process that is gone keeps nobody out; one that is held does, before anything is removed", async () => {
  const options = ["--dtype", "f32", "--max-steps", "2"];
  await cliJson(flags("locked", ...options));
  const unlock = lockCheckpoints(join(out("locked"), "checkpoints"));
  const before = readdirSync(out("locked"));
  const refused = await runCli([...flags("locked", ...options, "--overwrite"), "--json", "--quiet"]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /"code":"ERR_TRAINING_IN_USE"/);
  assert.deepEqual(readdirSync(out("locked")), before);
  unlock();
  writeFileSync(join(out("locked"), "checkpoints", ".lock"), "999999999 1 token\n");
  const [facts] = await cliJson<TrainFacts>(flags("locked", ...options, "--overwrite"));
  assert.deepEqual([facts?.resumed_from, facts?.steps], [0, 2]);
  assert.deepEqual(readdirSync(join(out("locked"), "checkpoints")).toSorted(), ["step-2", "training.json"]);
});

test("a finished training is not done again", async () => {
  const before = statSync(join(out("first-f32"), "metrics.jsonl")).mtimeMs;
  rmSync(join(out("first-f32"), "model.safetensors"));
  const [facts] = await cliJson<TrainFacts>(flags("first-f32", "--dtype", "f32"));
  assert.equal(facts?.steps, 15);
  assert.equal(statSync(join(out("first-f32"), "metrics.jsonl")).mtimeMs, before);
  // What was lost of the model is put back from the last checkpoint.
  assert.equal(weightsOf("first-f32"), weightsOf("same"));
});

test("other settings, other data and folders of others are refused; --overwrite begins again", async () => {
  const other = await runCli([...flags("same", "--dtype", "f32", "--beta", "0.2"), "--quiet"]);
  assert.equal(other.code, 1);
  assert.match(other.stderr, /another training.*beta 0\.1.*beta 0\.2.*--overwrite/s);
  const changed = await runCli([...flags("same", "--dtype", "f32", "--data", slow), "--quiet"]);
  assert.match(changed.stderr, /same settings, other contents/);
  assert.equal(weightsOf("same"), weightsOf("first-f32"));
  // Where moments lie changes no bit: it is no other training.
  const [elsewhere] = await cliJson<TrainFacts>(flags("same", "--dtype", "f32", "--moment-memory", "host"));
  assert.equal(elsewhere?.steps, 15);
  const self = await runCli([...flags("x", "--dtype", "f32"), "--out", model, "--quiet"]);
  assert.equal(self.code, 2);
  assert.match(self.stderr, /folder of a model that is read/);
  const foreign = writeTinyModel(join(folder, "foreign"), { seed: 4 }).path;
  const refused = await runCli([...flags("x", "--dtype", "f32"), "--out", foreign, "--quiet"]);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /--overwrite to replace/);
  await cliJson(flags("same", "--dtype", "f32", "--beta", "0.2", "--overwrite"));
  assert.notEqual(weightsOf("same"), weightsOf("first-f32"));
});

test("bad pairs are told before any work: nothing is written", async () => {
  const bad = json("bad.json", [...randomPairs(3, 1), { prompt_ids: [1], chosen_ids: [2] }]);
  const { code, stderr } = await runCli([...flags("bad", "--data", bad), "--quiet"]);
  assert.equal(code, 1);
  assert.match(stderr, /row 4.*rejected/s);
  assert.deepEqual(readdirSync(out("bad")), []);
  const long = await runCli([...flags("long", "--data", data, "--max-length", "20"), "--quiet"]);
  assert.match(long.stderr, /row \d+.*too long.*--max-length/s);
});

test("a gradient that could not be saved is told before any work", async () => {
  for (const path of [join(folder, "nowhere", "gradient.safetensors"), folder]) {
    const { code, stderr } = await runCli([...flags("no-gradient", "--save-gradients", path), "--quiet"]);
    assert.equal(code, 1);
    assert.ok(stderr.startsWith(`error: ${path}: cannot write: E`), stderr);
    assert.match(stderr, /to do: {4}check that the folder exists and is writable/);
    assert.deepEqual(readdirSync(out("no-gradient")), []);
  }
  const path = join(folder, "gradient.safetensors");
  await cliJson(flags("gradient", "--dtype", "f32", "--max-steps", "1", "--save-gradients", path));
  assert.ok(readSafetensors(path).has("model.norm.weight"));
});

test("a reference with another vocabulary is refused before it scores anything", async () => {
  const other = writeTinyModel(join(folder, "wider"), { vocabSize: tinyVocabSize + 8 }).path;
  for (let attempt = 0; attempt < 2; attempt += 1) {
    const { code, stderr } = await runCli([...flags("wider", "--ref", other), "--quiet"]);
    assert.equal(code, 1);
    const facts = [`expected: ${tinyVocabSize} tokens, as ${model} has`, `found:    ${tinyVocabSize + 8} tokens`].map((line) => `  ${line}\n`).join("");
    assert.ok(stderr.startsWith(`error: ${other}: the reference has another vocabulary than the model\n${facts}`), stderr);
    assert.ok(!existsSync(join(out("wider"), "pairs.arrow")));
  }
});

test("losses that need no reference ask for none", async () => {
  for (const loss of ["simpo", "sft"]) {
    const [facts] = await cliJson<TrainFacts>(flags(loss, "--dtype", "f32", "--loss-type", loss, "--ref", join(folder, "there-is-none"), "--max-steps", "3").filter((flag) => !["--ref", join(folder, "there-is-none")].includes(flag)));
    assert.equal(facts?.steps, 3);
    assert.ok(Number.isFinite(facts?.loss_last));
  }
});

const root = process.getuid?.() === 0 && process.platform === "linux";
test("a full disk is an error that says so; with room again the same command ends in the same bytes", { skip: root ? false : "mounting a small disk takes root on Linux" }, async (t) => {
  const disk = join(folder, "disk");
  mkdirSync(disk);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], { stdio: "pipe" });
  } catch (error) {
    t.skip(`no tmpfs can be mounted here: ${(error as Error).message}`);
    return;
  }
  try {
    const args = [...flags("x", "--dtype", "f32", "--data", slow), "--out", join(disk, "out"), "--quiet"];
    // Room for the pairs and a part of the first checkpoint.
    writeFileSync(join(disk, "filler"), Buffer.alloc(24 * 2 ** 20 - 600_000));
    const full = await runCli(args);
    assert.equal(full.code, 1, full.stderr);
    assert.match(full.stderr, /space/i);
    assert.doesNotMatch(full.stderr, /\n\s+at /);
    rmSync(join(disk, "filler"));
    const again = await runCli(args);
    assert.equal(again.code, 0, again.stderr);
    assert.equal(sha256(readFileSync(join(disk, "out", "model.safetensors"))), await unbroken("f32"));
  } finally {
    execFileSync("umount", [disk]);
  }
});

for (const name of ["llama", "qwen2"]) {
  const oracle = shared("oracles", "dpo", name);
  test(`${name}: gradient and six AdamW steps are PyTorch's`, { skip: oracle.skip }, async () => {
    const expected = JSON.parse(readFileSync(join(oracle.path, "expected.json"), "utf8")) as { adamw: { history: { loss: number; grad_norm: number; lr: number; "rewards/margins": number }[] } };
    const gradients = join(folder, `${name}-gradients.safetensors`);
    await cliJson([
      "train", "--model", join(oracle.path, "policy"), "--ref", join(oracle.path, "ref"), "--data", join(oracle.path, "pairs.json"), "--dtype", "f32", "--loss-type", "sigmoid", "--beta", "0.1",
      "--learning-rate", "1e-3", "--adam-beta1", "0.9", "--adam-beta2", "0.95", "--adam-epsilon", "1e-8", "--weight-decay", "0.1", "--max-grad-norm", "1", "--warmup-steps", "2",
      "--lr-scheduler-type", "constant_with_warmup", "--pairs-per-step", "6", "--max-steps", "6", "--no-shuffle", "--out", out(name), "--save-gradients", gradients,
    ]);
    expected.adamw.history.forEach((step, index) => {
      const line = metricsOf(name)[index] as MetricsLine;
      for (const [found, wanted] of [[line.loss, step.loss], [line.grad_norm, step.grad_norm], [line.learning_rate, step.lr]] as const) assert.ok(Math.abs(found - wanted) <= 1e-4 * Math.abs(wanted), `${found} ${wanted}`);
      assert.ok(Math.abs(line["rewards/margins"] - step["rewards/margins"]) < 1e-4);
    });
    const wanted = readSafetensors(join(oracle.path, "grads.safetensors"));
    const found = readSafetensors(gradients);
    assert.deepEqual([...found.keys()].toSorted(), [...wanted.keys()].toSorted());
    for (const [tensor, reference] of wanted) {
      const own = found.get(tensor) as Float32Array;
      const norm = Math.hypot(...reference);
      assert.ok(Math.sqrt(reference.reduce((sum, value, index) => sum + (value - (own[index] as number)) ** 2, 0)) < 1e-4 * norm, tensor);
    }
    const trained = readSafetensors(join(out(name), "model.safetensors"));
    for (const [tensor, reference] of readSafetensors(join(oracle.path, "trained.safetensors"))) {
      const own = trained.get(tensor) as Float32Array;
      const gradient = wanted.get(tensor) as Float32Array;
      reference.forEach((value, index) => {
        // Where the gradient is near Adam's epsilon of 1e-8 its seventh digit shows in the weight (native/test/oracle_test.cc).
        const tolerance = Math.abs(gradient[index] as number) < 1e-7 ? 4e-5 : 1e-5;
        assert.ok(Math.abs(value - (own[index] as number)) < tolerance, `${tensor}[${index}]: ${own[index]}, expected ${value} within ${tolerance}`);
      });
    }
  });
}
