import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Message } from "../lib/conversations/types.js";
import { median } from "../lib/engine/bench.js";
import { writeWordTokenizer } from "../lib/run/bench-model.js";
import { openTokenizer } from "../lib/tokens/open.js";
import { cliJson, runCli } from "./helpers/cli.js";
import { shared, skipUnless, smollm2 } from "./helpers/shared.js";
import { tinyImEnd, tinyVocabSize, writeTinyModel } from "./helpers/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "rlhi-commands-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const model = writeTinyModel(join(folder, "model")).path;
const tokenizer = openTokenizer(model);

function json(name: string, value: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(value));
  return path;
}

interface LogpsLine { index: number; chosen_logps: number; rejected_logps: number; chosen_token_logps: number[]; rejected_token_logps: number[] }
interface GenerateLine { index: number; sample?: number; prompt_ids: number[]; token_ids: number[]; text: string; logps: number[]; finish_reason: string }

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const chat: Message[] = [{ role: "system", content: "Be brief." }, { role: "user", content: "the other thing?" }];
const pairs = [
  { prompt_ids: [5, 6, 7, 8], chosen_ids: [9, 10, tinyImEnd], rejected_ids: [11, tinyImEnd] },
  { prompt: chat, chosen: [{ role: "assistant", content: "and so on" }], rejected: "no" },
  { prompt_ids: [20], chosen_ids: [tinyImEnd], rejected_ids: Array.from({ length: 60 }, (_, index) => 30 + index) },
];

test("logps: a line a pair in file order; sums are the tokens' sums; the same from every kind of file", async () => {
  const lines = await cliJson<LogpsLine>(["logps", "--model", model, "--data", json("pairs.json", pairs), "--dtype", "f32", "--per-token"]);
  assert.deepEqual(lines.map((line) => line.index), [0, 1, 2]);
  assert.deepEqual(lines.map((line) => [line.chosen_token_logps.length, line.rejected_token_logps.length]), [[3, 2], [tokenizer.encodeAnswer("and so on").length, tokenizer.encodeAnswer("no").length], [1, 60]]);
  for (const line of lines) {
    assert.ok(Math.abs(line.chosen_logps - sum(line.chosen_token_logps)) < 1e-9);
    assert.ok(line.chosen_token_logps.every((logp) => logp < 0));
  }
  const path = join(folder, "pairs.jsonl");
  writeFileSync(path, pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
  assert.deepEqual(await cliJson(["logps", "--model", model, "--data", path, "--dtype", "f32", "--per-token"]), lines);
});

test("logps: a pair has the same bits alone and among others, in both types", async () => {
  for (const dtype of ["f32", "bf16"]) {
    const together = await cliJson<LogpsLine>(["logps", "--model", model, "--data", json("together.json", pairs), "--dtype", dtype]);
    for (const [index, pair] of pairs.entries()) {
      const [alone] = await cliJson<LogpsLine>(["logps", "--model", model, "--data", json("alone.json", [pair]), "--dtype", dtype]);
      assert.deepEqual([alone?.chosen_logps, alone?.rejected_logps], [together[index]?.chosen_logps, together[index]?.rejected_logps]);
    }
  }
});

test("logps: without --json a table for people; --max-length cuts turns, never answers", async () => {
  const path = json("table.json", pairs.slice(0, 1));
  const { code, stdout } = await runCli(["logps", "--model", model, "--data", path, "--quiet"]);
  assert.equal(code, 0);
  assert.match(stdout, /index\s+chosen_logps\s+rejected_logps\n\s+0\s+-\d+\.\d+\s+-\d+\.\d+\n/);
  const long = await runCli(["logps", "--model", model, "--data", json("long.json", pairs), "--max-length", "20", "--quiet"]);
  assert.equal(long.code, 1);
  assert.match(long.stderr, /row 2.*too long/s);
});

test("a model with weights that are no numbers is an error that names it and the pair, in logps and as a reference", async () => {
  const broken = writeTinyModel(join(folder, "broken"));
  const weights = join(broken.path, "model.safetensors");
  const bytes = readFileSync(weights);
  bytes.writeFloatLE(Number.NaN, bytes.length - 4);
  writeFileSync(weights, bytes);
  const path = json("broken.json", pairs);
  const scored = await runCli(["logps", "--model", broken.path, "--data", path, "--json", "--quiet"]);
  assert.equal(scored.code, 1);
  assert.equal(scored.stdout, "");
  assert.ok(scored.stderr.startsWith(`error: ${broken.path}: the model gives no finite log-probability to the chosen answer of ${path} row 1\n`), scored.stderr);
  assert.match(scored.stderr, /found: {4}NaN/);
  const trained = await runCli(["train", "--model", model, "--ref", broken.path, "--data", path, "--out", join(folder, "trained"), "--dtype", "f32", "--quiet"]);
  assert.equal(trained.code, 1);
  assert.ok(trained.stderr.startsWith(`error: ${broken.path}: the model gives no finite log-probability to the chosen answer of pair row 1 (id "0")\n`), trained.stderr);
});

test("generate: greedy answers are the most likely ones, with the log-probabilities that logps gives", async () => {
  const chats = json("chats.json", [chat, [5, 6, 7], [9]]);
  const lines = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", chats, "--max-new-tokens", "12", "--temperature", "0", "--dtype", "f32"]);
  assert.deepEqual(lines.map((line) => line.index), [0, 1, 2]);
  assert.deepEqual(lines[0]?.prompt_ids, tokenizer.encodeChat(chat));
  assert.deepEqual(lines[1]?.prompt_ids, [5, 6, 7]);
  for (const line of lines) {
    assert.ok(line.token_ids.length <= 12 && line.token_ids.length === line.logps.length);
    assert.equal(line.text, tokenizer.decode(line.token_ids, true));
    const rivals = Array.from({ length: 40 }, (_, index) => (index * 7) % tinyVocabSize);
    const scored = await cliJson<LogpsLine>(["logps", "--model", model, "--dtype", "f32", "--per-token", "--data", json("rivals.json", rivals.map((rival) => ({ prompt_ids: line.prompt_ids, chosen_ids: line.token_ids, rejected_ids: [rival] })))]);
    for (const [index, logp] of line.logps.entries()) assert.ok(Math.abs(logp - (scored[0]?.chosen_token_logps[index] ?? 0)) < 1e-5);
    for (const [index, score] of scored.entries()) assert.ok(rivals[index] === line.token_ids[0] || score.rejected_logps <= (line.logps[0] ?? 0) + 1e-6);
  }
});

test("generate: the end of text ends it, --ignore-eos goes on, stop strings cut before themselves", async () => {
  const chats = json("one.json", [[5, 6, 7]]);
  const [free] = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", chats, "--max-new-tokens", "20", "--temperature", "0", "--dtype", "f32", "--ignore-eos"]);
  assert.equal(free?.token_ids.length, 20);
  assert.equal(free?.finish_reason, "length");
  const stops = writeTinyModel(join(folder, "stops")).path;
  const end = free?.token_ids[3] ?? 0;
  writeFileSync(join(stops, "generation_config.json"), JSON.stringify({ eos_token_id: [end] }));
  const [ended] = await cliJson<GenerateLine>(["generate", "--model", stops, "--chats", chats, "--max-new-tokens", "20", "--temperature", "0", "--dtype", "f32"]);
  assert.deepEqual(ended?.token_ids, free?.token_ids.slice(0, (free.token_ids.indexOf(end)) + 1));
  assert.equal(ended?.finish_reason, "stop");
  const stop = free?.text.slice(4, 6) ?? "";
  const [cut] = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", chats, "--max-new-tokens", "20", "--temperature", "0", "--dtype", "f32", "--ignore-eos", "--stop", stop]);
  assert.equal(cut?.text, free?.text.slice(0, free.text.indexOf(stop)));
  assert.equal(cut?.finish_reason, "stop");
});

test("generate: the same seed gives the same samples, which differ from each other, in any company", async () => {
  const flags = ["--max-new-tokens", "10", "--temperature", "1", "--top-p", "1", "--seed", "3", "--dtype", "f32", "--ignore-eos"];
  const several = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", json("two.json", [[5, 6], [7]]), "--num-return-sequences", "3", ...flags]);
  assert.deepEqual(several.map((line) => [line.index, line.sample]), [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]);
  assert.equal(new Set(several.map((line) => line.token_ids.join())).size, 6);
  const [alone] = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", json("single.json", [[5, 6]]), ...flags, "--max-sequences", "1"]);
  assert.deepEqual(alone?.token_ids, several[0]?.token_ids);
});

interface TraceEvent { ph: string; tid: number; name: string; ts?: number; dur?: number; args?: { name?: string; flops?: number; bytes?: number } }

test("generate and train: --trace writes the operations, their arithmetic, and what each thread did", async () => {
  const [generated, trained] = [join(folder, "generate.trace.json"), join(folder, "train.trace.json")];
  await cliJson(["generate", "--model", model, "--prompt", "go on", "--max-new-tokens", "3", "--threads", "2", "--trace", generated]);
  await cliJson(["train", "--model", model, "--data", json("trace-pairs.json", pairs), "--out", join(folder, "traced"), "--max-steps", "1", "--threads", "2", "--trace", trained]);
  for (const [path, names] of [[generated, ["gemm", "attention", "rms_norm", "rope"]], [trained, ["gemm", "attention_backward", "linear_logprob_backward", "adamw"]]] as const) {
    const { traceEvents } = JSON.parse(readFileSync(path, "utf8")) as { traceEvents: TraceEvent[] };
    const operations = traceEvents.filter(({ ph, tid }) => ph === "X" && tid === 0);
    for (const name of names) assert.ok(operations.some((event) => event.name === name), `${path}: ${name}`);
    for (const { name, ts, dur, args } of operations) {
      assert.ok((ts ?? -1) >= 0 && (dur ?? -1) >= 0);
      if (name === "gemm") assert.ok((args?.flops ?? 0) > 0 && (args?.bytes ?? 0) > 0);
    }
    assert.ok(traceEvents.some(({ ph, tid }) => ph === "X" && tid === 1), "the calling thread's lane");
    assert.ok(traceEvents.some(({ ph, args }) => ph === "M" && args?.name === "operations"));
  }
});

test("--trace: a file that cannot be written is told before the model is loaded", async () => {
  const { code, stderr } = await runCli(["generate", "--model", model, "--prompt", "x", "--trace", join(folder, "missing", "trace.json")]);
  assert.equal(code, 1);
  assert.match(stderr, /missing.trace\.json: cannot write/);
});

test("generate: one request by --prompt, for people", async () => {
  const { code, stdout } = await runCli(["generate", "--model", model, "--prompt", "Hi", "--system", "Be brief.", "--max-new-tokens", "4", "--quiet"]);
  assert.equal(code, 0);
  assert.match(stdout, /^--- 0 \(\d tokens?s?, /);
});

test("generate: a chat that does not fit, and an id outside the vocabulary, name their row", async () => {
  const long = await runCli(["generate", "--model", model, "--chats", json("long-chat.json", [[5], Array.from({ length: 1000 }, () => 5)]), "--max-new-tokens", "100", "--quiet"]);
  assert.equal(long.code, 1);
  assert.match(long.stderr, /row 2.*do not fit/s);
  const outside = await runCli(["generate", "--model", model, "--chats", json("outside.json", [[5, tinyVocabSize]]), "--quiet"]);
  assert.equal(outside.code, 1);
  assert.match(outside.stderr, new RegExp(`row 1.*below the model's ${tinyVocabSize}`, "s"));
});

test("a model without a tokenizer takes ids, and says what text needs", async () => {
  const bare = writeTinyModel(join(folder, "bare")).path;
  for (const name of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]) rmSync(join(bare, name));
  assert.equal((await cliJson<LogpsLine>(["logps", "--model", bare, "--data", json("ids.json", pairs.slice(0, 1))])).length, 1);
  const { code, stderr } = await runCli(["generate", "--model", bare, "--prompt", "Hi", "--quiet"]);
  assert.equal(code, 1);
  assert.match(stderr, /no tokenizer/);
});

test("chat: lines from a pipe, commands, and a saved conversation", async () => {
  const saved = join(folder, "saved.json");
  const stdin = `Hello\u2028you\n\n/system You are terse.\r\nWho?\n/save ${saved}\n/reset\n/nonsense\n`;
  const { code, stdout, stderr } = await runCli(["chat", "--model", model, "--max-new-tokens", "6", "--dtype", "f32", "--temperature", "0", "--quiet", "--json"], { stdin });
  assert.equal(code, 0, stderr);
  const answers = stdout.trim().split("\n").map((line) => JSON.parse(line) as { role: string; content: string; tokens: number });
  assert.equal(answers.length, 2);
  const messages = JSON.parse(readFileSync(saved, "utf8")) as Message[];
  assert.deepEqual(messages, [{ role: "system", content: "You are terse." }, { role: "user", content: "Who?" }, { role: "assistant", content: answers[1]?.content }]);
  assert.match(stderr, /3 messages written.*no command \/nonsense/s);
  // What chat answers is what generate answers to the same messages.
  const [expected] = await cliJson<GenerateLine>(["generate", "--model", model, "--chats", json("same.json", [messages.slice(0, 2)]), "--max-new-tokens", "6", "--temperature", "0", "--dtype", "f32"]);
  assert.equal(answers[1]?.content, expected?.text);
});

test("chat: a persona file is the system message; one that is not there is an error", async () => {
  const persona = join(folder, "persona.txt");
  writeFileSync(persona, "Likes tea.\n");
  const saved = join(folder, "persona.json");
  const { code } = await runCli(["chat", "--model", model, "--persona", persona, "--max-new-tokens", "2", "--quiet"], { stdin: `Hi\n/save ${saved}\n` });
  assert.equal(code, 0);
  assert.deepEqual((JSON.parse(readFileSync(saved, "utf8")) as Message[])[0], { role: "system", content: "Likes tea." });
  const missing = await runCli(["chat", "--model", model, "--persona", join(folder, "nobody.txt"), "--quiet"]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /nobody\.txt/);
});

test("bench: each kind prints what it measured", async () => {
  const small = ["--model", model, "--dtype", "f32", "--steps", "2"];
  const [train] = await cliJson<Record<string, number>>(["bench", "train", ...small, "--pairs", "2", "--prompt", "16", "--answer", "8"]);
  for (const name of ["pairs_per_s", "tokens_per_s", "useful_mfu", "matrix_peak_flops", "peak_memory_bytes", "plan_bytes", "step_seconds_median"]) assert.ok((train?.[name] ?? 0) > 0, name);
  assert.ok(Math.abs((train?.["tokens_per_s"] ?? 0) / (train?.["pairs_per_s"] ?? 1) - 32) < 1e-9);
  assert.ok(Math.abs((train?.["first_loss"] ?? 0) - Math.LN2) < 1e-6);
  const [generated] = await cliJson<Record<string, number>>(["bench", "generate", ...small, "--sequences", "3", "--prompt", "8", "--max-new-tokens", "8"]);
  assert.ok((generated?.["tokens_per_s"] ?? 0) > 0 && (generated?.["read_bandwidth_bytes_per_s"] ?? 0) > 0);
  const [forward] = await cliJson<Record<string, number>>(["bench", "forward", ...small, "--sequences", "2", "--tokens", "32"]);
  assert.ok((forward?.["tokens_per_s"] ?? 0) > 0 && (forward?.["useful_mfu"] ?? 0) > 0);
  const products = await cliJson<Record<string, unknown>>(["bench", "gemm", ...small, "--tokens", "32"]);
  const forms = (name: string): unknown[] => products.filter((row) => row["name"] === name).map(({ pass, form, m, n, k, out, accumulate, packed }) => [pass, form, m, n, k, out, accumulate, packed]);
  assert.deepEqual([...new Set(products.map((row) => row["name"]))], ["qkv", "attention_out", "gate_up", "down", "head"]);
  assert.deepEqual(forms("down"), [
    ["forward", "nt", 32, 64, 128, "f32", true, false], ["forward, packed", "nt", 32, 64, 128, "f32", true, true],
    ["input gradient", "nn", 32, 128, 64, "f32", false, false], ["weight gradient", "tn", 64, 128, 32, "f32", true, false],
  ]);
  for (const row of products) assert.ok((row["flops_lowest"] as number) <= (row["flops"] as number) && (row["flops"] as number) <= (row["flops_highest"] as number));
  const [given] = await cliJson<Record<string, unknown>>(["bench", "gemm", "--shape", "24,40,56", "--form", "tn", "--dtype", "f32", "--steps", "2"]);
  assert.deepEqual([given?.["form"], given?.["m"], given?.["n"], given?.["k"]], ["tn", 24, 40, 56]);
  const [layer] = await cliJson<Record<string, number>>(["bench", "layer", ...small, "--pairs", "2", "--prompt", "16", "--answer", "8"]);
  // Of two numbers of tokens and pairs: products of 2 x 36,864 weights in 32 rows, attention of 64 columns over 16²/2 + 2 (16 x 8 + 8²/2) keys.
  const flops = 2 * (2 * 36_864 * 32 + 4 * 64 * 448);
  assert.ok(Math.abs((layer?.["forward_flops"] ?? 0) * median(layer?.["forward_seconds"] as unknown as number[]) / flops - 1) < 1e-9);
  assert.equal(layer?.["tokens"], 64);
});

test("bench ops: every operation, as shares of the bandwidth and of the peak", async () => {
  const rows = await cliJson<Record<string, number | null> & { operation: string; part: string; shape: string }>(["bench", "ops", "--model", model, "--dtype", "f32", "--steps", "2", "--tokens", "32"]);
  assert.deepEqual([...new Set(rows.map(({ operation }) => operation))].toSorted(), [
    "adamw", "add", "attention", "attention_backward", "choose_tokens", "clip_factor", "column_sum", "copy", "embedding", "gather_rows", "gemm", "linear_logprob", "linear_logprob_backward",
    "pack_weight", "preference_loss", "rms_norm", "rms_norm_backward", "rope", "scatter_add_rows", "scatter_rows", "sum_of_squares", "swiglu", "swiglu_backward", "zero",
  ]);
  for (const { operation, ...row } of rows) {
    const [seconds, bytes, flops] = [row["seconds"] ?? 0, row["bytes"] ?? 0, row["flops"] ?? 0];
    assert.ok(Math.abs((row["share_of_bandwidth"] ?? 0) / (bytes / seconds / (row["read_bandwidth_bytes_per_s"] ?? 0)) - 1) < 1e-9, operation);
    if (flops === 0) assert.equal(row["share_of_peak"], null, operation);
    else assert.ok(Math.abs((row["share_of_peak"] ?? 0) / (flops / seconds / (row["matrix_peak_flops"] ?? 0)) - 1) < 1e-9, operation);
  }
});

test("bench pipeline: each stage's time and the engine's part of it, and nothing left behind", async () => {
  const temporary = mkdtempSync(join(folder, "tmp-"));
  const rows = await cliJson<Record<string, number | null> & { stage: string }>(["bench", "pipeline", "--model", model, "--dtype", "f32"], { env: { TMPDIR: temporary } });
  assert.deepEqual(rows.map(({ stage }) => stage), ["mine", "feedback", "personas", "rewrite", "reward", "pairs", "train", "eval", "report", "with the engine"]);
  for (const { stage, ...row } of rows) assert.deepEqual(Object.keys(row), ["seconds", "engine_busy_seconds", "engine_load_seconds", "idle_share"], stage);
  const [worked, idle] = [rows.filter((row) => row["idle_share"] !== null), rows.filter((row) => row["idle_share"] === null)];
  assert.deepEqual(idle.map(({ stage }) => stage), ["mine", "feedback", "report"]);
  for (const { stage, seconds, engine_busy_seconds: busy, engine_load_seconds: load, idle_share: share } of worked) {
    assert.ok(Math.abs((share ?? 0) - (1 - (busy ?? 0) / ((seconds ?? 0) - (load ?? 0)))) < 1e-3, stage);
  }
  const total = (name: string): number => sum(worked.slice(0, -1).map((row) => row[name] ?? 0));
  for (const name of ["seconds", "engine_busy_seconds", "engine_load_seconds"]) assert.ok(Math.abs(total(name) - (worked.at(-1)?.[name] ?? 0)) < 1e-6, name);
  assert.deepEqual(readdirSync(temporary), []);
});

test("a model of random weights has a tokenizer of the commonest words", () => {
  const dir = mkdtempSync(join(folder, "words-"));
  writeFileSync(join(dir, "config.json"), JSON.stringify({ eos_token_id: 2 }));
  writeWordTokenizer(dir, ["the cat and the dog", "the naïve 猫 and the cat"], 270);
  const words = openTokenizer(dir);
  assert.equal(words.encode(" the").length, 1);
  assert.ok(words.encode(" naïve").length > 1, "there was no room for rare words");
  const text = "the dog, the 猫\n  and a naïve cat!";
  assert.equal(words.decode(words.encode(text)), text);
  assert.ok(words.vocab_size <= 270);
  assert.deepEqual(words.encodeChat([{ role: "user", content: "the cat" }]).filter((id) => id < 3), [1, 2, 1]);
});

for (const name of ["llama", "qwen2"]) {
  const oracle = shared("oracles", "dpo", name);
  test(`${name}: log-probabilities and greedy continuations are PyTorch's`, { skip: oracle.skip }, async () => {
    const expected = JSON.parse(readFileSync(join(oracle.path, "expected.json"), "utf8")) as {
      pairs: { policy_chosen_logp: number; policy_rejected_logp: number; policy_chosen_token_logps: number[] }[];
      greedy_24: number[][];
    };
    const data = join(oracle.path, "pairs.json");
    const lines = await cliJson<LogpsLine>(["logps", "--model", join(oracle.path, "policy"), "--data", data, "--dtype", "f32", "--per-token"]);
    expected.pairs.forEach((pair, index) => {
      const line = lines[index] as LogpsLine;
      assert.ok(Math.abs(line.chosen_logps - pair.policy_chosen_logp) < 1e-4 && Math.abs(line.rejected_logps - pair.policy_rejected_logp) < 1e-4);
      pair.policy_chosen_token_logps.forEach((logp, token) => assert.ok(Math.abs(logp - (line.chosen_token_logps[token] ?? 0)) < 1e-4));
    });
    const prompts = (JSON.parse(readFileSync(data, "utf8")) as { prompt: number[] }[]).slice(0, expected.greedy_24.length).map((pair) => pair.prompt);
    const written = await cliJson<GenerateLine>(["generate", "--model", join(oracle.path, "policy"), "--chats", json(`${name}-chats.json`, prompts), "--max-new-tokens", "24", "--temperature", "0", "--dtype", "f32", "--ignore-eos"]);
    assert.deepEqual(written.map((line) => line.token_ids), expected.greedy_24.map((ids) => ids.slice(-24)));
  });
}

test("SmolLM2 from its GGUF: greedy answers and log-probabilities are transformers'", { skip: skipUnless(smollm2(), shared("oracles", "smollm2")) }, async () => {
  const expected = JSON.parse(readFileSync(shared("oracles", "smollm2", "expected.json").path, "utf8")) as {
    chats: { messages: Message[]; greedy_ids: number[]; greedy_text: string; greedy_logps: number[] }[];
    pairs: { prompt: Message[]; chosen: string; rejected: string; chosen_logp: number; rejected_logp: number }[];
  };
  const answers = await cliJson<GenerateLine>(["generate", "--model", smollm2().path, "--chats", json("smol-chats.json", expected.chats.map((one) => one.messages)), "--max-new-tokens", "64", "--temperature", "0", "--dtype", "f32"]);
  expected.chats.forEach((one, index) => {
    const answer = answers[index] as GenerateLine;
    assert.deepEqual(answer.token_ids, one.greedy_ids);
    assert.equal(answer.text, one.greedy_text);
    one.greedy_logps.forEach((logp, token) => assert.ok(Math.abs(logp - (answer.logps[token] ?? 0)) < 1e-3));
  });
  const scored = await cliJson<LogpsLine>(["logps", "--model", smollm2().path, "--data", json("smol-pairs.json", expected.pairs.map(({ prompt, chosen, rejected }) => ({ prompt, chosen, rejected }))), "--dtype", "f32"]);
  expected.pairs.forEach((pair, index) => {
    assert.ok(Math.abs(pair.chosen_logp - (scored[index]?.chosen_logps ?? 0)) < 1e-3 && Math.abs(pair.rejected_logp - (scored[index]?.rejected_logps ?? 0)) < 1e-3);
  });
});
