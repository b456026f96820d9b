/** Aborts, closing, garbage, several models at once, and workers that are terminated in the middle of it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { getEventListeners, once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { GenerateResult } from "../lib/engine/addon.js";
import { addonPath, loadAddon } from "../lib/engine/addon.js";
import { listColumn } from "../lib/engine/columns.js";
import { loadTiny, pairBatch, randomPairs, request, tinyModelFolder, trainOptions } from "./helpers/addon-fixtures.js";
import type { WorkerJob } from "./helpers/addon-worker.js";
import { processorTime } from "./helpers/processor-time.js";

const addon = loadAddon();
const endless = request([1, 2, 3], { n: 8, maxNewTokens: 1000 });
const ignore = (): void => undefined;
const noListeners = (signal: AbortSignal): void => assert.equal(getEventListeners(signal, "abort").length, 0);

// ---- abort -------------------------------------------------------------------------------------------------------------
test("abort: a signal that is aborted already rejects at once, with its reason as cause", async () => {
  const model = await loadTiny();
  const signal = AbortSignal.abort(new Error("changed my mind"));
  let called = false;
  await assert.rejects(model.generate([endless], () => { called = true; }, undefined, signal), (error: Error & { code: string }) => {
    assert.equal(error.code, "ERR_ABORTED");
    assert.equal((error.cause as Error).message, "changed my mind");
    return true;
  });
  assert.equal(called, false);
  noListeners(signal);
  await model.close();
});

test("abort: a signal of the caller's own making that throws leaves no promise open", async () => {
  const model = await loadTiny();
  const signal = { aborted: false, addEventListener: ignore, removeEventListener: () => { throw new Error("not mine"); } } as unknown as AbortSignal;
  let ended = 0;
  await model.generate([request([9], { maxNewTokens: 2 })], () => { ended += 1; }, undefined, signal);
  assert.equal(ended, 1);
  await model.close();
});

test("abort: generation stops within a forward, what was told stays, and the model goes on", async () => {
  const model = await loadTiny();
  const abort = new AbortController();
  const results: GenerateResult[] = [];
  let after = 0;
  const work = model.generate([request([9], { maxNewTokens: 2 }), endless], (r) => results.push(r), () => {
    if (abort.signal.aborted) after++;
    else if (results.length === 1) abort.abort();
  }, abort.signal);
  await assert.rejects(work, { code: "ERR_ABORTED" });
  assert.equal(results.length, 1);
  assert.ok(after <= 256 + 9, `${after} tokens after the abort`);  // those under way: the credits and one forward
  noListeners(abort.signal);
  await model.generate([request([9], { maxNewTokens: 2 })], (r) => results.push(r));
  assert.deepEqual(results[1], results[0]);
  await model.close();
});

test("abort: a step stops before its next micro-batch, weights and step count as before", async () => {
  const model = await loadTiny({ layers: 4, hiddenSize: 128, intermediateSize: 512 });
  const trainer = await model.createTrainer({ ...trainOptions, maxTokensPerMicroBatch: 64, maxPairTokens: 96 });
  const before = model.info().fingerprint;
  const abort = new AbortController();
  const whole = pairBatch(randomPairs(1, 320));
  const step = trainer.step(whole, abort.signal);
  const aborted = processorTime(() => assert.rejects(step, { code: "ERR_ABORTED" }));
  while (model.info().fingerprint !== "") await sleep(1);
  await sleep(30);  // under way, some micro-batches in
  abort.abort();
  const part = await aborted;
  assert.equal(model.info().fingerprint, before);
  assert.equal(trainer.stepsDone(), 0);
  noListeners(abort.signal);
  const all = await processorTime(async () => assert.equal((await trainer.step(whole)).step, 1));
  assert.ok(part < all / 2, `${part} of ${all} ms of work in a step that was aborted`);
  await model.close();
});

test("abort: scoring stops, and work that waits in the queue is rejected without waiting", async () => {
  const model = await loadTiny();
  const score = (rows: number, signal: AbortSignal): Promise<unknown> => {
    const texts = listColumn(Array.from({ length: rows }, () => [1, 2, 3, 4]));
    return model.score({ rows, prompt: texts, continuations: texts, parents: Int32Array.from({ length: rows }, (_, i) => i) }, 8, signal);
  };
  const running = new AbortController(), waiting = new AbortController();
  const first = model.generate([endless], ignore, ignore, running.signal);
  const second = score(1, waiting.signal);
  waiting.abort();
  await assert.rejects(second, { code: "ERR_ABORTED" });
  noListeners(waiting.signal);
  running.abort();
  await assert.rejects(first, { code: "ERR_ABORTED" });
  const third = new AbortController();
  const scoring = score(100_000, third.signal);  // seconds of micro-batches
  await sleep(5);
  third.abort();
  await assert.rejects(scoring, { code: "ERR_ABORTED" });
  await model.close();
});

test("abort: what waits behind work of the same signal does not begin while that work ends", async () => {
  const model = await loadTiny();
  const trainer = await model.createTrainer(trainOptions);
  const before = model.info().fingerprint;
  const abort = new AbortController();
  // More tokens than may be under way to a caller who takes none: it ends with the abort, and not before.
  const running = model.generate([endless], ignore, ignore, abort.signal);
  abort.signal.addEventListener("abort", () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300));
  const batch = pairBatch(randomPairs(1, 1));
  const behind = [trainer.step(batch, abort.signal), trainer.step(batch, abort.signal)];
  abort.abort();
  await Promise.all([running, ...behind].map((work) => assert.rejects(work, { code: "ERR_ABORTED" })));
  assert.equal(trainer.stepsDone(), 0);
  assert.equal((await trainer.step(batch)).step, 1);
  assert.notEqual(model.info().fingerprint, before);
  await model.close();
});

// ---- callbacks ---------------------------------------------------------------------------------------------------------
test("a callback that throws stops the work and rejects with what it threw", async () => {
  const model = await loadTiny();
  const thrown = new Error("from the callback");
  let calls = 0;
  await assert.rejects(model.generate([endless], ignore, () => { calls++; throw thrown; }), (error) => error === thrown);
  assert.equal(calls, 1);
  await assert.rejects(model.generate([request([1], { maxNewTokens: 1 })], () => { throw thrown; }), (error) => error === thrown);
  await model.close();
});

test("a slow caller slows generation down and loses no token", async () => {
  const model = await loadTiny();
  const tokens: number[] = [];
  let result: GenerateResult | undefined;
  await model.generate([request([1, 2], { maxNewTokens: 900 })], (r) => { result = r; }, ({ token }) => {
    if (tokens.push(token) % 300 === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  });
  assert.equal(tokens.length, 900);  // more than three times the credits
  assert.deepEqual(tokens, [...(result?.tokenIds ?? [])]);
  await model.close();
});

// ---- closing -----------------------------------------------------------------------------------------------------------
test("close waits for work under way; everything later is refused with ERR_CLOSED", async () => {
  const model = await loadTiny();
  const trainer = await model.createTrainer(trainOptions);
  const order: string[] = [];
  const work = model.generate([request([1, 2], { n: 4, maxNewTokens: 100 })], ignore).then(() => order.push("work"));
  await Promise.all([model.close().then(() => order.push("close")), model.close(), work]);
  assert.deepEqual(order, ["work", "close"]);
  const closed = { code: "ERR_CLOSED" };
  assert.throws(() => model.info(), closed);
  assert.throws(() => model.setTokenBytes(new Int32Array(1), new Uint8Array(1)), closed);
  await assert.rejects(model.generate([endless], ignore), closed);
  await assert.rejects(model.score({ rows: 0, prompt: listColumn([]), continuations: listColumn([]), parents: new Int32Array() }, 8), closed);
  await assert.rejects(model.save("anywhere", "f32"), closed);
  await assert.rejects(model.createTrainer(trainOptions), closed);
  await assert.rejects(trainer.step(pairBatch(randomPairs(1, 1))), closed);
  await assert.rejects(trainer.saveState("anywhere"), closed);
  await trainer.close();
  await model.close();
});

/** Runs a script in a process of its own; `path` is a tiny model. */
function script(body: string, ...flags: string[]): { status: number | null; stdout: string; stderr: string; signal: string | null } {
  const text = `const addon = require(${JSON.stringify(addonPath())}); const path = ${JSON.stringify(tinyModelFolder())};
    const request = () => ({ prompt: Int32Array.of(1), n: 1, maxNewTokens: 500, temperature: 1, topP: 1, topK: 0, minP: 0, seeds: new BigUint64Array(1), stopTokens: new Int32Array(), stopStrings: [] });
    (async () => { ${body} })();`;
  const { status, stdout, stderr, signal } = spawnSync(process.execPath, [...flags, "-e", text], { encoding: "utf8", timeout: 60_000 });
  return { status, stdout, stderr, signal };
}

test("an idle model does not keep the process alive", () => {
  const run = script("globalThis.model = await addon.loadModel({ path, dtype: 'f32', threads: 2 }); console.log('loaded');");
  assert.deepEqual(run, { status: 0, stdout: "loaded\n", stderr: "", signal: null });
});

test("work under way keeps the process alive until its end", () => {
  const run = script("const model = await addon.loadModel({ path, dtype: 'f32', threads: 2 }); model.generate([request()], (r) => console.log(r.tokenIds.length));");
  assert.deepEqual(run, { status: 0, stdout: "500\n", stderr: "", signal: null });
});

test("process.exit in the middle of work ends the process in order", () => {
  const run = script("const model = await addon.loadModel({ path, dtype: 'f32', threads: 2 }); model.generate([request()], () => undefined, () => process.exit(7));");
  assert.deepEqual(run, { status: 7, stdout: "", stderr: "", signal: null });
});

test("models and trainers that are dropped without close are collected, threads included", { skip: process.platform !== "linux" && "counts threads in /proc" }, () => {
  const run = script(`
    const threads = () => require("node:fs").readdirSync("/proc/self/task").length;
    const options = ${JSON.stringify(trainOptions)};
    const before = threads();
    let most = 0;
    const drop = async (i) => {
      const model = await addon.loadModel({ path, dtype: "f32", threads: 2 });
      if (i % 2) await model.createTrainer(options);
      await model.generate([request()], () => undefined);
      most = Math.max(most, threads());
    };
    for (let i = 0; i < 12; i++) await drop(i);
    for (let i = 0; i < 20 && threads() > before; i++) { gc(); await new Promise((done) => setTimeout(done, 20)); }
    console.log(most > before, threads() <= before);`, "--expose-gc");
  assert.deepEqual(run, { status: 0, stdout: "true true\n", stderr: "", signal: null });
});

// ---- several at once ---------------------------------------------------------------------------------------------------
test("two models at once, in one thread, do not disturb each other", async () => {
  const options = [{ architecture: "llama", seed: 1 }, { architecture: "qwen3", seed: 2 }] as const;
  const run = async (which: (typeof options)[number]): Promise<unknown[]> => {
    const model = await loadTiny(which);
    const results: GenerateResult[] = [];
    await model.generate([request([1, 2, 3], { n: 3, maxNewTokens: 40 })], (r) => results.push(r));
    const trainer = await model.createTrainer(trainOptions);
    const metrics = [await trainer.step(pairBatch(randomPairs(1, 5))), await trainer.step(pairBatch(randomPairs(2, 5)))];
    const { fingerprint } = model.info();
    await model.close();
    return [results.toSorted((a, b) => a.sample - b.sample), metrics, fingerprint];
  };
  const alone = [await run(options[0]), await run(options[1])];
  assert.deepEqual(await Promise.all(options.map(run)), alone);
});

function startWorker(job: WorkerJob["job"], path: string, rounds: number): Worker {
  return new Worker(new URL("./helpers/addon-worker.js", import.meta.url), { workerData: { job, path, rounds } satisfies WorkerJob });
}

/** The worker's messages until it ends by itself. */
async function finished(worker: Worker): Promise<string[]> {
  const messages: string[] = [];
  worker.on("message", (message: string) => messages.push(message));
  const [code] = (await once(worker, "exit")) as [number];
  assert.equal(code, 0);
  return messages;
}

test("two models in two worker threads train to the same bits as one alone", async () => {
  const path = tinyModelFolder();
  const alone = await finished(startWorker("step", path, 3));
  const [a, b] = await Promise.all([finished(startWorker("step", path, 3)), finished(startWorker("step", path, 3))]);
  assert.match(alone[1] ?? "", /^[0-9a-f]{16}$/);
  assert.deepEqual(a, alone);
  assert.deepEqual(b, alone);
});

for (const job of ["load", "generate", "stream", "step", "idle"] as const) {
  test(`a worker terminated during ${job} takes nothing down`, async () => {
    const path = tinyModelFolder();
    for (let round = 0; round < 8; round++) {
      const worker = startWorker(job, path, 1_000_000);
      await once(worker, "message");
      await sleep(round * 7);
      assert.equal(await worker.terminate(), 1);
    }
    // This thread's engine still works.
    const model = await addon.loadModel({ path, dtype: "f32", threads: 1 });
    let tokens = 0;
    await model.generate([request([1], { maxNewTokens: 5 })], (r) => { tokens = r.tokenIds.length; });
    assert.equal(tokens, 5);
    await model.close();
  });
}
