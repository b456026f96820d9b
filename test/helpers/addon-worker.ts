/** A worker thread that runs the native engine until it is done or terminated. workerData: { job, path, rounds, dir }. */
import { parentPort, workerData } from "node:worker_threads";
import { loadAddon } from "../../lib/engine/addon.js";
import { pairBatch, randomPairs, request, trainOptions } from "./addon-fixtures.js";

export interface WorkerJob {
  job: "load" | "generate" | "step" | "stream" | "idle" | "save";
  path: string;
  /** Where "save" saves to, from a GPU; else the CPU works. */
  dir?: string;
  /** Rounds of the job, then the worker posts the fingerprint and closes. */
  rounds: number;
}

const { job, path, rounds, dir } = workerData as WorkerJob;
const addon = loadAddon();
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
const say = (message: string): void => parentPort?.postMessage(message);

if (job === "load") {
  say("begun");
  for (let i = 0; i < rounds; i++) await (await addon.loadModel({ path, dtype: "f32", threads: 1, onProgress: () => undefined })).close();
} else {
  const model = await addon.loadModel({ path, dtype: "f32", threads: 1, device: dir === undefined ? "cpu" : "cuda" });
  const trainer = job === "step" || job === "save" ? await model.createTrainer(trainOptions) : undefined;
  say("begun");
  for (let i = 0; i < rounds; i++) {
    if (trainer && dir !== undefined) await Promise.all([model.save(dir, "f32"), trainer.saveState(dir)]);
    else if (trainer) await trainer.step(pairBatch(randomPairs(i, 8)));
    else if (job === "generate") await model.generate([request([1, 2, 3], { n: 4, maxNewTokens: 400 })], () => undefined);
    else if (job === "stream") await model.generate([request([1, 2, 3], { n: 16, maxNewTokens: 400 })], () => undefined, () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1));
  }
  if (job === "idle") setInterval(() => undefined, 1000);
  else {
    say(model.info().fingerprint);
    await model.close();
  }
}
