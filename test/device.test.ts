/** `--device cuda`, through the library over emulated kernels that the build of the tests leaves beside the test program. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { loadAddon } from "../lib/engine/addon.js";
import type { PairBatch, StepMetrics } from "../lib/engine/addon.js";
import { freshFolder, pairBatch, randomPairs, request, trainOptions } from "./helpers/addon-fixtures.js";
import { cliJson, runCli } from "./helpers/cli.js";
import { gpuLibrary, namedLibrary, skipWithoutGpu } from "./helpers/gpu.js";
import { tinyImEnd, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-device-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;
const data = join(folder, "pairs.json");
writeFileSync(data, JSON.stringify([
  { prompt_ids: [5, 6, 7, 8], chosen_ids: [9, 10, tinyImEnd], rejected_ids: [11, tinyImEnd] },
  { prompt_ids: [20, 3], chosen_ids: [12, tinyImEnd], rejected_ids: [30, 31, 32, tinyImEnd] },
]));

const gpu = { env: { RLHI_CUDA_LIBRARY: gpuLibrary } };
const skip = skipWithoutGpu;
const skipReal = skip || (namedLibrary === undefined ? false : "expects the emulated GPU's name and count");

interface Logps { chosen_logps: number; rejected_logps: number }

const logps = (...device: string[]): Promise<Logps[]> => cliJson<Logps>(["logps", "--model", model, "--data", data, "--dtype", "f32", ...device], gpu);
const generate = (...device: string[]): Promise<{ token_ids: number[] }[]> =>
  cliJson(["generate", "--model", model, "--prompt", "other", "--temperature", "0", "--max-new-tokens", "8", "--dtype", "f32", ...device], gpu);
const refused = (device: string, env: Record<string, string> = {}): ReturnType<typeof runCli> => runCli(["logps", "--model", model, "--data", data, "--device", device, "--quiet"], { env });

async function losses(name: string, ...device: string[]): Promise<number[]> {
  const out = join(folder, name);
  const { code, stderr } = await runCli(["train", "--model", model, "--data", data, "--out", out, "--dtype", "f32", "--max-steps", "2", "--pairs-per-step", "2", "--learning-rate", "1e-3", "--warmup-steps", "0", "--quiet", ...device], gpu);
  assert.equal(code, 0, stderr);
  return readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n").map((line) => (JSON.parse(line) as { loss: number }).loss);
}

test("--device cuda gives the CPU's log-probabilities and greedy answers", { skip }, async () => {
  const [onCpu, onGpu] = [await logps(), await logps("--device", "cuda")];
  assert.equal(onGpu.length, 2);
  for (const [index, line] of onGpu.entries()) {
    assert.ok(Math.abs(line.chosen_logps - (onCpu[index]?.chosen_logps ?? 0)) < 1e-4);
    assert.ok(Math.abs(line.rejected_logps - (onCpu[index]?.rejected_logps ?? 0)) < 1e-4);
  }
  assert.deepEqual((await generate("--device", "cuda:0"))[0]?.token_ids, (await generate())[0]?.token_ids);
});

test("train --device cuda begins at ln 2 and goes where the CPU's training goes", { skip }, async () => {
  const [onGpu, onCpu] = [await losses("gpu", "--device", "cuda"), await losses("cpu")];
  assert.ok(Math.abs((onGpu[0] ?? 0) - Math.LN2) < 1e-12);
  assert.equal(onGpu.length, 2);
  assert.equal(onCpu.length, 2);
  for (const [step, loss] of onGpu.entries()) assert.ok(Math.abs(loss - (onCpu[step] ?? 0)) < 1e-4, `step ${step}: ${loss} and ${onCpu[step]}`);
});

test("steps given to a GPU before the one before has ended are the very steps one after the other; an abort ends those not begun", { skip }, async () => {
  process.env.RLHI_CUDA_LIBRARY = gpuLibrary;
  const batches = [3, 1, 4, 2].map((rows, i) => pairBatch(randomPairs(40 + i, rows)));
  const train = async (ahead: boolean): Promise<{ metrics: StepMetrics[]; bytes: Buffer }> => {
    const gpuModel = await loadAddon().loadModel({ path: model, dtype: "bf16", threads: 1, device: "cuda" });
    const trainer = await gpuModel.createTrainer(trainOptions);
    const metrics: StepMetrics[] = [];
    if (ahead) metrics.push(...await Promise.all(batches.map((batch) => trainer.step(batch))));
    else for (const batch of batches) metrics.push(await trainer.step(batch));
    assert.equal(trainer.stepsDone(), 4);
    const out = freshFolder();
    mkdirSync(out);
    await trainer.saveState(out);
    const [stop, held] = [new AbortController(), new AbortController()];
    // Tokens that nobody takes hold the engine up for as long as this does not await: none of the steps behind them begins.
    const tokens = gpuModel.generate([request([1, 2], { n: 20, maxNewTokens: 20 })], () => undefined, () => undefined, held.signal);
    const behind = batches.map((batch) => trainer.step(batch, stop.signal));
    stop.abort();
    held.abort();
    await Promise.all([tokens, ...behind].map((work) => assert.rejects(work, { code: "ERR_ABORTED" })));
    assert.equal(trainer.stepsDone(), 4);
    // Without that, those that have begun by then are done, and they are the first ones.
    const late = new AbortController();
    const some = batches.map((batch) => trainer.step(batch, late.signal));
    late.abort();
    const ends = await Promise.allSettled(some);
    const done = ends.filter((end) => end.status === "fulfilled").length;
    for (const [i, end] of ends.entries()) {
      if (i < done) assert.equal(end.status === "fulfilled" && end.value.step, 5 + i);
      else assert.ok(end.status === "rejected" && (end.reason as { code: string }).code === "ERR_ABORTED");
    }
    assert.equal((await trainer.step(batches[0] as PairBatch)).step, 5 + done);
    await gpuModel.close();
    return { metrics, bytes: readFileSync(join(out, "optimizer.safetensors")) };
  };
  const [ahead, one] = [await train(true), await train(false)];
  assert.deepEqual(ahead.metrics, one.metrics);
  assert.ok(ahead.bytes.equals(one.bytes));
});

test("a GPU that is lost in the middle of a training is told, with the last checkpoint whole; the same command goes on from there to the same bytes", { skip: skipReal }, async () => {
  const lost = join(folder, "lost");
  const args = (out: string): string[] => ["train", "--model", model, "--data", data, "--out", join(folder, out), "--dtype", "bf16", "--max-steps", "40", "--pairs-per-step", "1", "--save-steps", "2", "--warmup-steps", "0", "--quiet", "--device", "cuda"];
  const timer = setInterval(() => {
    if (existsSync(join(folder, "interrupted", "checkpoints", "step-4"))) writeFileSync(lost, "");
  }, 5);
  const failed = await runCli(args("interrupted"), { env: { ...gpu.env, RLHI_EMULATED_GPU: `lost:${lost}` } });
  clearInterval(timer);
  assert.equal(failed.code, 1, failed.stderr);
  assert.match(failed.stderr, /the GPU was lost in step \d+ of 40.*can no longer use the GPU.*checkpoint of step \d+ is whole/s);
  for (const out of ["interrupted", "undisturbed"]) {
    const { code, stderr } = await runCli(args(out), gpu);
    assert.equal(code, 0, stderr);
  }
  const weights = (out: string): Buffer => readFileSync(join(folder, out, "model.safetensors"));
  assert.ok(weights("interrupted").equals(weights("undisturbed")));
});

test("killed while a checkpoint is written beside the training, it goes on from an earlier one and ends in the same bytes", { skip }, async () => {
  const args = (name: string): string[] => ["train", "--model", model, "--data", data, "--out", join(folder, name), "--dtype", "bf16", "--max-steps", "5", "--save-steps", "1", "--pairs-per-step", "2", "--learning-rate", "1e-3", "--warmup-steps", "0", "--device", "cuda", "--quiet"];
  const checkpoints = join(folder, "killed", "checkpoints");
  let timer: NodeJS.Timeout | undefined;
  const killed = await runCli(args("killed"), {
    ...gpu,
    onStart: (child) => {
      timer = setInterval(() => {
        if (existsSync(checkpoints) && readdirSync(checkpoints).some((name) => /^step-[2-4]\.tmp$/.test(name))) child.kill("SIGKILL");
      }, 1);
    },
  }).finally(() => clearInterval(timer));
  assert.equal(killed.signal, "SIGKILL", killed.stderr);
  assert.ok(existsSync(join(checkpoints, "step-1", "trainer_state.json")));
  for (const name of ["killed", "unbroken"]) {
    const { code, stderr } = await runCli(args(name), gpu);
    assert.equal(code, 0, stderr);
    assert.deepEqual(readdirSync(join(folder, name, "checkpoints")).toSorted(), ["step-4", "step-5", "training.json"]);
  }
  for (const file of ["step-4/model.safetensors", "step-4/optimizer.safetensors", "step-5/model.safetensors", "step-5/optimizer.safetensors"]) {
    assert.ok(readFileSync(join(checkpoints, file)).equals(readFileSync(join(folder, "unbroken", "checkpoints", file))), file);
  }
});

const mounts = process.getuid?.() === 0 && process.platform === "linux" ? false : "mounting a small disk takes root on Linux";
test("a checkpoint that cannot be written beside the training ends it before its last step, with the reason", { skip: skip || mounts }, async (t) => {
  const disk = join(folder, "disk");
  mkdirSync(disk);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], { stdio: "pipe" });
  } catch (error) {
    t.skip(`no tmpfs can be mounted here: ${(error as Error).message}`);
    return;
  }
  try {
    // Room for the pairs and a part of the first checkpoint.
    writeFileSync(join(disk, "filler"), Buffer.alloc(4 * 2 ** 20 - 600_000));
    const out = join(disk, "out");
    const { code, stderr } = await runCli(["train", "--model", model, "--data", data, "--out", out, "--dtype", "f32", "--max-steps", "50", "--save-steps", "1", "--pairs-per-step", "2", "--device", "cuda", "--quiet"], gpu);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /space/i);
    const steps = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n").length;
    assert.ok(steps < 50, `${steps} steps`);
    assert.deepEqual(readdirSync(join(out, "checkpoints")), ["training.json"]);
  } finally {
    execFileSync("umount", [disk]);
  }
});

test("a GPU's moments may lie in host memory: the same bytes, and the plan says where", { skip }, async () => {
  const lossesOf = { device: await losses("moments-device", "--device", "cuda", "--moment-memory", "device"), host: await losses("moments-host", "--device", "cuda", "--moment-memory", "host") };
  assert.deepEqual(lossesOf.host, lossesOf.device);
  for (const file of ["model.safetensors", join("checkpoints", "step-2", "optimizer.safetensors")]) {
    assert.ok(readFileSync(join(folder, "moments-host", file)).equals(readFileSync(join(folder, "moments-device", file))), file);
  }
  for (const memory of ["device", "host"]) {
    const [bench] = await cliJson<Record<string, unknown>>(["bench", "train", "--model", model, "--dtype", "f32", "--steps", "1", "--device", "cuda", "--pairs", "1", "--prompt", "5", "--answer", "4", "--moment-memory", memory], gpu);
    assert.equal(bench?.["moment_memory"], memory);
    assert.equal(Number(bench?.["host_moments_bytes"]) > 0, memory === "host");
  }
});

test("a GPU that is not there, or cannot be used, is an error that says what to do", { skip: skipReal }, async () => {
  const second = await refused("cuda:1", gpu.env);
  assert.equal(second.code, 1);
  assert.match(second.stderr, /cuda:1 was asked for; this machine has only cuda:0/);
  const none = await refused("cuda", { ...gpu.env, RLHI_EMULATED_GPU: "none" });
  assert.match(none.stderr, /no NVIDIA GPU was found/);
  const absent = await refused("cuda", { RLHI_CUDA_LIBRARY: join(folder, "nowhere.so") });
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /the CUDA backend is not here.*RLHI_CUDA=on/s);
  const foreign = await refused("cuda", { RLHI_CUDA_LIBRARY: data });
  assert.match(foreign.stderr, /cannot be opened/);
  const unknown = await refused("tpu");
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /cpu, cuda or cuda:N/);
});

test("doctor says what --device cuda would find, or what is missing", { skip: skipReal }, async () => {
  const [found] = await cliJson<Record<string, unknown>>(["doctor"], gpu);
  assert.equal(found?.["cuda"], "ready: --device cuda");
  assert.deepEqual(found?.["cuda_devices"], ["emulated GPU, compute capability 9.0, 2048 MiB"]);
  const [missing] = await cliJson<Record<string, unknown>>(["doctor"], { env: { RLHI_CUDA_LIBRARY: join(folder, "nowhere.so") } });
  assert.match(String(missing?.["cuda"]), /^not usable: the CUDA backend is not here/);
});

test("bench and doctor --plan take --device cuda", { skip }, async () => {
  const common = ["--model", model, "--dtype", "f32", "--steps", "1", "--device", "cuda"];
  const [trained] = await cliJson<Record<string, number>>(["bench", "train", ...common, "--pairs", "1", "--prompt", "5", "--answer", "4"], gpu);
  assert.ok(Math.abs((trained?.["first_loss"] ?? 0) - Math.LN2) < 1e-12);
  for (const figure of ["pairs_per_s", "useful_mfu", "matrix_peak_flops", "device_memory_bytes"]) assert.ok((trained?.[figure] ?? 0) > 0, figure);
  const [generated] = await cliJson<Record<string, number>>(["bench", "generate", ...common, "--sequences", "2", "--prompt", "3", "--max-new-tokens", "2"], gpu);
  assert.ok((generated?.["read_bandwidth_bytes_per_s"] ?? 0) > 0);
  const [scored] = await cliJson<Record<string, number>>(["bench", "forward", ...common, "--sequences", "1", "--tokens", "6"], gpu);
  assert.ok((scored?.["useful_mfu"] ?? 0) > 0);
  const [layer] = await cliJson<Record<string, unknown>>(["bench", "layer", ...common, "--pairs", "1", "--prompt", "5", "--answer", "4"], gpu);
  assert.ok(Number(layer?.["share_of_peak"]) > 0 && layer?.["device"] === "cuda");
  const products = await cliJson<Record<string, unknown>>(["bench", "gemm", ...common, "--tokens", "6"], gpu);
  assert.deepEqual([...new Set(products.map((row) => row["pass"]))], ["forward", "input gradient", "weight gradient"]);
  const operations = await cliJson<Record<string, unknown>>(["bench", "ops", ...common, "--tokens", "8"], gpu);
  for (const name of ["gemm", "attention_backward", "preference_loss", "choose_tokens", "adamw", "clip_factor"]) assert.ok(operations.some((row) => row["operation"] === name && Number(row["seconds"]) > 0), name);
  const pipeline = await runCli(["bench", "pipeline", "--device", "cuda"]);
  assert.equal(pipeline.code, 2);
  assert.match(pipeline.stderr, /device/);
  const facts = await cliJson<Record<string, unknown>>(["doctor", "--plan", "smollm2-135m", "--device", "cuda"], gpu);
  const plan = facts.find((line) => line["plan"] !== undefined);
  assert.ok(Number(plan?.["available_memory_bytes"]) > 0);
  assert.ok(Number(plan?.["total_bytes"]) > 5e8);
  const planOf = async (...more: string[]): Promise<Record<string, unknown> | undefined> =>
    (await cliJson<Record<string, unknown>>(["doctor", "--plan", "smollm2-135m", "--device", "cuda", ...more], gpu)).find((line) => line["plan"] !== undefined);
  const [device, host] = [await planOf("--moment-memory", "device"), await planOf("--moment-memory", "host")];
  assert.deepEqual([device?.["moment_memory"], device?.["host_bytes"]], ["device", 0]);
  assert.equal(host?.["moment_memory"], "host");
  assert.ok(Number(host?.["host_bytes"]) > 8 * 134.5e6);
  assert.ok(Number(host?.["total_bytes"]) < Number(device?.["total_bytes"]));
  const words = await runCli(["doctor", "--plan", "smollm2-135m", "--device", "cuda", "--moment-memory", "host"], gpu);
  assert.match(words.stdout, /moments in host memory, 1\.00 GiB of .* available: as the settings say\n/);
});
