/** The addon against its contract: what it exports, and that its work is right. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Dtype, GenerateResult } from "../lib/engine/addon.js";
import { addonAbi, loadAddon, nativeMembers } from "../lib/engine/addon.js";
import { listColumn } from "../lib/engine/columns.js";
import { freshFolder, loadTiny, pairBatch, randomIds, randomPairs, request, scorePairs, tinyModelFolder, trainOptions } from "./helpers/addon-fixtures.js";
import { tinyImEnd, tinyVocabSize, writeTinyModel } from "./helpers/tiny-model.js";
import type { TinyArchitecture } from "./helpers/tiny-model.js";

const addon = loadAddon();
const architectures: TinyArchitecture[] = ["llama", "qwen2", "qwen3", "mistral"];
const memberNames = (object: object): string[] => Object.getOwnPropertyNames(Object.getPrototypeOf(object)).filter((name) => name !== "constructor").sort();

test("the addon exports exactly what the contract names", async () => {
  assert.equal(addon.abi, addonAbi);
  assert.deepEqual(Object.keys(addon).sort(), Object.keys(nativeMembers.addon).sort());
  const model = await loadTiny();
  assert.deepEqual(memberNames(model), Object.keys(nativeMembers.model).sort());
  const trainer = await model.createTrainer(trainOptions);
  assert.deepEqual(memberNames(trainer), Object.keys(nativeMembers.trainer).sort());
  await model.close();
});

for (const architecture of architectures) {
  test(`${architecture}: info says what the folder holds`, async () => {
    const folder = writeTinyModel(freshFolder(), { architecture });
    const fractions: number[] = [];
    const model = await addon.loadModel({ path: folder.path, dtype: "f32", threads: 1, onProgress: (fraction) => fractions.push(fraction) });
    const { fingerprint, backend, ...info } = model.info();
    assert.deepEqual(info, {
      architecture, dtype: "f32", threads: 1, parameters: folder.parameters, hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, kvHeads: 2,
      headDim: architecture === "qwen3" ? 32 : 16, vocabSize: tinyVocabSize, maxPosition: 1024, tiedEmbeddings: architecture !== "qwen2", bosTokenId: 1,
      eosTokenIds: [tinyImEnd], weightBytes: info.weightBytes,
    });
    assert.ok(info.weightBytes >= 4 * folder.parameters);
    assert.match(fingerprint, /^[0-9a-f]{16}$/);
    assert.match(backend, /^cpu\//);
    assert.equal(fractions.at(-1), 1);
    assert.deepEqual(fractions, fractions.toSorted((a, b) => a - b));
    await model.close();
  });

  for (const dtype of ["f32", "bf16"] as Dtype[]) {
    test(`${architecture}, ${dtype}: with the policy as reference the first loss is ln 2 exactly, also after generation`, async () => {
      const model = await loadTiny({ architecture }, { dtype });
      await model.generate([request([1, 2, 3])], () => undefined);
      const pairs = randomPairs(9, 5);
      const refs = await scorePairs(model, pairs);
      const trainer = await model.createTrainer(trainOptions);
      const metrics = await trainer.accumulate(pairBatch(pairs.map((pair, i) => ({ ...pair, refs: refs[i] as [number, number] }))));
      assert.ok(Math.abs(metrics.loss - Math.LN2) < 1e-6, `${metrics.loss}`);
      assert.ok(Math.abs(metrics["rewards/margins"]) < 1e-5);
      await model.close();
    });
  }
}

test("a score is the same bits alone and among others, with any token budget", async () => {
  const model = await loadTiny();
  const pairs = randomPairs(2, 7);
  const together = await scorePairs(model, pairs);
  for (const [i, pair] of pairs.entries()) assert.deepEqual((await scorePairs(model, [pair]))[0], together[i]);
  assert.deepEqual(await scorePairs(model, pairs, 40), together);
  const { tokenLogps, logps } = await model.score({ rows: 1, prompt: listColumn([[1, 2]]), continuations: listColumn([[3, 4, 5], [6]]), parents: Int32Array.of(0, 0) }, 64);
  assert.equal(tokenLogps.length, 4);
  assert.equal(logps[0], (tokenLogps[0] as number) + (tokenLogps[1] as number) + (tokenLogps[2] as number));
  assert.equal(logps[1], tokenLogps[3]);
  const none = await model.score({ rows: 1, prompt: listColumn([[1]]), continuations: listColumn([]), parents: new Int32Array() }, 64);
  assert.equal(none.logps.length, 0);
  await model.close();
});

test("generated tokens carry the log-probabilities that scoring gives them", async () => {
  const model = await loadTiny({ architecture: "qwen3" });
  const prompts = [randomIds(1, 5), randomIds(2, 90), [7]];
  const results: GenerateResult[] = [];
  await model.generate(prompts.map((prompt, i) => request(prompt, { n: 3, temperature: i === 0 ? 0 : 0.8, topP: 0.9, maxNewTokens: 12 })), (r) => results.push(r));
  assert.deepEqual(results.map((r) => `${r.request}/${r.sample}`).sort(), ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2", "2/0", "2/1", "2/2"]);
  results.sort((a, b) => a.request - b.request);
  const scored = await model.score({
    rows: 3, prompt: listColumn(prompts), continuations: listColumn(results.map((r) => r.tokenIds)), parents: Int32Array.from(results, (r) => r.request),
  }, 512);
  const generated = results.flatMap((r) => [...r.logps]);
  generated.forEach((logp, i) => assert.ok(Math.abs(logp - (scored.tokenLogps[i] as number)) < 1e-4));
  assert.deepEqual(results[0]?.tokenIds, results[1]?.tokenIds);  // greedy samples are equal
  assert.notDeepEqual(results[3]?.tokenIds, results[4]?.tokenIds);
  await model.close();
});

test("stop strings end an answer once token bytes are set", async () => {
  const model = await loadTiny();
  const texts = Array.from({ length: tinyVocabSize }, (_, id) => `<${id}>`);
  const offsets = new Int32Array(tinyVocabSize + 1);
  texts.forEach((text, i) => { offsets[i + 1] = (offsets[i] as number) + text.length; });
  assert.throws(() => model.setTokenBytes(offsets.subarray(1), new Uint8Array(9)), { code: "ERR_INVALID_ARGUMENT", message: /expected 316 offsets, found 315/ });
  assert.throws(() => model.setTokenBytes(offsets, new Uint8Array(9)), { code: "ERR_INVALID_ARGUMENT", message: /within 9 bytes/ });
  model.setTokenBytes(offsets, Buffer.from(texts.join("")));
  const run = async (stopStrings: string[]): Promise<GenerateResult> => {
    let result: GenerateResult | undefined;
    await model.generate([request([4, 5], { stopStrings })], (r) => { result = r; });
    assert.ok(result);
    return result;
  };
  const free = await run([]);
  assert.equal(free.finishReason, "length");
  const stopped = await run([`${(free.tokenIds[6] as number) % 10}><${free.tokenIds[7]}>`]);
  assert.equal(stopped.finishReason, "stop_string");
  assert.deepEqual(stopped.tokenIds, free.tokenIds.slice(0, 8));
  await model.close();
});

test("training: steps change the weights, accumulate does not, and the state resumes to the same bits", async () => {
  const folder = tinyModelFolder();
  const batches = [1, 2, 3, 4].map((seed) => pairBatch(randomPairs(seed, 6)));
  const load = async (path: string) => addon.loadModel({ path, dtype: "bf16", threads: 0 });  // as many as the plan counts with
  const model = await load(folder);
  const before = model.info().fingerprint;
  const trainer = await model.createTrainer(trainOptions);
  assert.deepEqual(trainer.plan(), addon.planTraining(folder, "bf16", trainOptions, "cpu"));
  await trainer.accumulate(batches[0] as never);
  assert.equal(model.info().fingerprint, before);
  assert.equal(trainer.stepsDone(), 0);
  const first = await trainer.step(batches[0] as never);
  assert.equal(first.step, 1);
  assert.notEqual(model.info().fingerprint, before);
  await trainer.step(batches[1] as never);
  const checkpoint = freshFolder();
  mkdirSync(checkpoint);
  await model.save(checkpoint, "bf16");
  await trainer.saveState(checkpoint);
  const straight = [await trainer.step(batches[2] as never), await trainer.step(batches[3] as never)];
  const resumedModel = await load(checkpoint);
  const resumed = await resumedModel.createTrainer(trainOptions);
  await resumed.loadState(checkpoint);
  assert.equal(resumed.stepsDone(), 2);
  assert.deepEqual([await resumed.step(batches[2] as never), await resumed.step(batches[3] as never)], straight);
  assert.equal(resumedModel.info().fingerprint, model.info().fingerprint);
  assert.equal(straight[1]?.step, 4);
  await Promise.all([model.close(), resumedModel.close()]);
});

test("training: one trainer a model, and a closed one is refused", async () => {
  const model = await loadTiny();
  const trainer = await model.createTrainer(trainOptions);
  await assert.rejects(model.createTrainer(trainOptions), { code: "ERR_INVALID_ARGUMENT", message: /without an open trainer/ });
  await trainer.close();
  await trainer.close();
  await assert.rejects(trainer.step(pairBatch(randomPairs(1, 1))), { code: "ERR_CLOSED", message: "the trainer was closed" });
  await assert.rejects(model.createTrainer({ ...trainOptions, memoryLimitBytes: 1000 }), { code: "ERR_OUT_OF_MEMORY" });
  await assert.rejects(model.createTrainer({ ...trainOptions, lossType: "dpo" as never }), { code: "ERR_INVALID_ARGUMENT", message: /dpo/ });
  const again = await model.createTrainer({ ...trainOptions, lossType: "simpo", beta: 2 });
  const { refChosen: _, refRejected: __, ...withoutReferences } = pairBatch(randomPairs(1, 2));
  assert.ok((await again.step(withoutReferences)).loss > 0);
  await model.close();
});

test("gradients are saved under Hugging Face names, as f32, with the norm that the step reported", async () => {
  const model = await loadTiny({ architecture: "qwen2" });
  const trainer = await model.createTrainer({ ...trainOptions, maxGradNorm: 1e9 });
  const { grad_norm } = await trainer.accumulate(pairBatch(randomPairs(3, 4)));
  const path = `${freshFolder()}.safetensors`;
  await trainer.saveGradients(path);
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerBytes)) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  delete header["__metadata__"];
  const expected = writeTinyModel(freshFolder(), { architecture: "qwen2" }).tensors;
  assert.deepEqual(Object.keys(header).sort(), [...expected.keys()].sort());
  let squares = 0;
  for (const { dtype, data_offsets: [begin, end] } of Object.values(header)) {
    assert.equal(dtype, "F32");
    for (let at = begin; at < end; at += 4) squares += file.readFloatLE(8 + headerBytes + at) ** 2;
  }
  assert.ok(Math.abs(Math.sqrt(squares) - grad_norm) < 1e-4 * grad_norm, `${Math.sqrt(squares)} against ${grad_norm}`);
  await model.close();
});

test("save writes a folder that loads to the same weights and keeps the source's other settings", async () => {
  const folder = tinyModelFolder({ architecture: "mistral" });
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, my_note: "kept" }));
  const model = await addon.loadModel({ path: folder, dtype: "f32", threads: 1 });
  const out = freshFolder();
  await assert.rejects(model.save(out, "f32"), { code: "ERR_IO" });
  mkdirSync(out);
  await model.save(out, "f32");
  assert.equal((JSON.parse(readFileSync(join(out, "config.json"), "utf8")) as Record<string, unknown>)["my_note"], "kept");
  const copy = await addon.loadModel({ path: out, dtype: "f32", threads: 1 });
  assert.equal(copy.info().fingerprint, model.info().fingerprint);
  await Promise.all([model.close(), copy.close()]);
});

test("random weights by a shape's name: planned without loading, refused with the known names", async () => {
  const plan = addon.planTraining("smollm2-135m", "bf16", trainOptions, "cpu");
  assert.equal(plan.total, plan.entries.reduce((sum, entry) => sum + entry.bytes, 0));
  assert.ok(plan.total > 134.5e6 * 2);
  await assert.rejects(addon.loadModel({ path: "no-such-model", dtype: "f32", threads: 1 }), { message: /no-such-model/ });
});

test("files that cannot be read are errors with a code", async () => {
  const folder = tinyModelFolder();
  truncateSync(join(folder, "model.safetensors"), 5000);
  await assert.rejects(addon.loadModel({ path: folder, dtype: "f32", threads: 1 }), { code: "ERR_INVALID_FILE", message: /model\.safetensors/ });
  writeFileSync(join(folder, "config.json"), JSON.stringify({ model_type: "bert", architectures: ["BertModel"] }));
  await assert.rejects(addon.loadModel({ path: folder, dtype: "f32", threads: 1 }), { code: "ERR_UNSUPPORTED", message: /bert/i });
  assert.throws(() => addon.ggufMetadata(join(folder, "config.json")), { code: "ERR_INVALID_FILE" });
  assert.throws(() => addon.ggufMetadata(join(folder, "absent.gguf")), { code: "ERR_IO" });
  assert.throws(() => addon.ggufMetadata(7 as never), { code: "ERR_INVALID_ARGUMENT", message: "path: expected a string, found 7" });
  await assert.rejects(addon.loadModel({ path: folder, dtype: "f16" as never, threads: 1 }), { code: "ERR_INVALID_ARGUMENT", message: 'dtype: expected "f32" or "bf16", found "f16"' });
  await assert.rejects(addon.loadModel({ path: folder, dtype: "f32", threads: -1 }), { code: "ERR_INVALID_ARGUMENT", message: /^threads: / });
});

test("the machine is described and measured", async () => {
  const info = addon.systemInfo();
  assert.ok(info.logicalCores >= 1 && info.memoryBytes > info.availableMemoryBytes && info.availableMemoryBytes > 0);
  assert.equal(info.isas[0], "portable");
  assert.ok(info.isas.includes(info.defaultIsa));
  const [flops, bandwidth] = [await addon.measurePeakFlops(1, "bf16"), await addon.measureReadBandwidth(1)];
  assert.ok(flops > 1e8 && bandwidth > 1e8);
});

test("products and a layer are measured as often as asked, and named wrongly they are refused", async () => {
  const product = { form: "tn", m: 64, n: 96, k: 128, dtype: "bf16", out: "f32", accumulate: true, packed: false } as const;
  const seconds = await addon.measureGemm(product, "cpu", 1, 3);
  assert.ok(seconds.length === 3 && seconds.every((time) => time > 0));
  await assert.rejects(addon.measureGemm({ ...product, m: 0 }, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: /^product\.m: / });
  await assert.rejects(addon.measureGemm({ ...product, form: "tt" as never }, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: 'product.form: expected "nt", "nn" or "tn", found "tt"' });
  await assert.rejects(addon.measureGemm({ ...product, packed: true }, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: /packed/ });
  const folder = tinyModelFolder();
  const layer = await addon.measureLayer(folder, "f32", { count: 2, prompt: 9, answer: 5 }, "cpu", 1, 2);
  assert.ok(layer.forwardSeconds.length === 2 && layer.backwardSeconds.every((time) => time > 0) && layer.gradientNorm > 0);
  assert.equal((await addon.measureLayer(folder, "f32", { count: 2, prompt: 9, answer: 5 }, "cpu", 2, 1)).gradientNorm, layer.gradientNorm);
  await assert.rejects(addon.measureLayer(folder, "f32", { count: 1, prompt: 1000, answer: 25 }, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: /context of 1024/ });
  assert.deepEqual(addon.modelShape(folder), { hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocabSize: tinyVocabSize });
});

test("every operation is measured at a model's shapes", async () => {
  const speeds = await addon.measureOperations("smollm2-135m", "bf16", 8, "cpu", 1, 1);
  for (const { operation, part, shape, seconds, flops, bytes } of speeds) assert.ok(seconds > 0 && flops >= 0 && bytes > 0 && part !== "" && shape !== "", operation);
  const gateUp = speeds.find(({ operation, part }) => operation === "gemm" && part === "gate_up");
  // A row's product with the packed weight: the weight, eight rows read and eight written.
  assert.deepEqual([gateUp?.shape, gateUp?.flops, gateUp?.bytes], ["8 x 3072 x 576", 2 * 8 * 3072 * 576, 2 * (3072 * 576 + 8 * 576 + 8 * 3072)]);
  await assert.rejects(addon.measureOperations("smollm2-135m", "bf16", 3, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: /^tokens: / });
  await assert.rejects(addon.measureOperations("smollm2-135m", "bf16", 8193, "cpu", 1, 1), { code: "ERR_INVALID_ARGUMENT", message: "tokens: expected at most the model's context of 8192, found 8193" });
});

test("objects of the addon cannot be forged", async () => {
  const model = await loadTiny();
  const trainer = await model.createTrainer(trainOptions);
  assert.throws(() => Reflect.construct(model.constructor as new () => object, []), { code: "ERR_INVALID_ARGUMENT" });
  assert.throws(() => (model.info as unknown as (this: unknown) => void).call(trainer), TypeError);
  assert.throws(() => (model.info as unknown as (this: unknown) => void).call({}), TypeError);
  await model.close();
});
