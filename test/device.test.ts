/** `--device cuda`, through the library over emulated kernels that the build of the tests leaves beside the test program. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../lib/engine/addon.js";
import { cliJson, runCli } from "./helpers/cli.js";
import { tinyImEnd, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-device-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;
const data = join(folder, "pairs.json");
writeFileSync(data, JSON.stringify([
  { prompt_ids: [5, 6, 7, 8], chosen_ids: [9, 10, tinyImEnd], rejected_ids: [11, tinyImEnd] },
  { prompt_ids: [20, 3], chosen_ids: [12, tinyImEnd], rejected_ids: [30, 31, 32, tinyImEnd] },
]));

const named = process.env.RLHI_CUDA_LIBRARY;       // the real one, on a machine with a GPU
const library = named ?? join(packageRoot, "build", "librlhi_cuda_emulated.so");
const gpu = { env: { RLHI_CUDA_LIBRARY: library } };
const skip = existsSync(library) ? false : `${library} is not built (RLHI_BUILD_TESTS)`;
const skipReal = skip || (named === undefined ? false : "expects the emulated GPU's name and count");

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
  const layer = await runCli(["bench", "layer", "--device", "cuda"]);
  assert.equal(layer.code, 2);
  assert.match(layer.stderr, /device/);
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
