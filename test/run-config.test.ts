import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { configYaml, loadRunConfig } from "../lib/config-file.js";
import { UsageError } from "../lib/errors.js";
import { temporaryFolder } from "./helpers/conversations.js";

function mistakes(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof UsageError);
    assert.equal(error.exitCode, 2);
    return error.message;
  }
  throw new assert.AssertionError({ message: "nothing was wrong" });
}

describe("run.yaml", () => {
  it("is filled with defaults, its paths taken from its own folder", (t) => {
    const dir = temporaryFolder(t);
    mkdirSync(join(dir, "sub"));
    const path = join(dir, "sub", "run.yaml");
    writeFileSync(path, "model: ../models/m.gguf\ndata:\n  path: [a.parquet, /abs/b.jsonl]\nmodels:\n  judge: native:./judge\n  rewriter: openai:http://h/v1#m\n");
    const config = loadRunConfig(path);
    assert.equal(config.model, join(dir, "models", "m.gguf"));
    assert.deepEqual(config.data.path, [join(dir, "sub", "a.parquet"), "/abs/b.jsonl"]);
    assert.equal(config.models.judge, `native:${join(dir, "sub", "judge")}`);
    assert.equal(config.models.rewriter, "openai:http://h/v1#m");
    assert.equal(config.train.beta, 0.1);
    assert.equal(config.rewards.n, 8);
  });

  it("gives way to settings of the command line, whose paths are the caller's", (t) => {
    const path = join(temporaryFolder(t), "run.yaml");
    writeFileSync(path, "model: smollm2-135m\ndata: { path: d.jsonl }\ntrain: { beta: 0.5, warmup_steps: 3 }\n");
    const config = loadRunConfig(path, { train: { beta: 0.2, max_steps: undefined }, data: { path: "other.jsonl" } });
    assert.equal(config.train.beta, 0.2);
    assert.equal(config.train.warmup_steps, 3);
    assert.equal(config.model, "smollm2-135m", "the name of a shape is no path");
    assert.equal(config.data.path, join(process.cwd(), "other.jsonl"));
  });

  it("is refused with every mistake at once: key, expected, found and the key that was meant", (t) => {
    const path = join(temporaryFolder(t), "run.yaml");
    writeFileSync(path, "data:\n  path: 7\n  held_out: 2\n  min_conversation: 3\ntrain:\n  loss_typ: ipo\n  beta: big\nbeta: 1\nmodels:\n  judge: gpt-4\nrewards: { n: 1.5 }\npairs: { filters: [ties] }\npersona: {}\n");
    const message = mistakes(() => loadRunConfig(path));
    for (const pattern of [
      /model: expected a string .*found nothing/, /data\.path: expected a string, or a list .*found 7/, /data\.held_out: expected at most 1 .*found 2/, /data\.min_conversation: unknown setting; did you mean data\.min_conversations\?/,
      /train\.loss_typ: unknown setting; did you mean train\.loss_type\?/, /train\.beta: expected a number.*found "big"/, /beta: unknown setting; did you mean train\.beta\?/,
      /models\.judge: expected native:PATH or openai:URL#model .*found "gpt-4"/, /rewards\.n: expected a whole number .*found 1\.5/, /pairs\.filters\.0: expected one of "empty_answer".*found "ties"/, /persona: unknown setting; did you mean personas or models.persona\?|persona: unknown setting; did you mean models\.persona\?/,
    ]) assert.match(message, pattern);
    assert.match(message, /11 settings are wrong/);
    assert.ok(message.startsWith(path));
  });

  it("is refused where a loss is given what belongs to another", (t) => {
    const path = join(temporaryFolder(t), "run.yaml");
    for (const loss of ["ipo", "hinge", "simpo", "sft"]) {
      writeFileSync(path, `model: a\ndata: { path: d }\ntrain: { loss_type: ${loss}, label_smoothing: 0.1 }\n`);
      const message = mistakes(() => loadRunConfig(path));
      assert.match(message, /- train\.label_smoothing: expected 0 unless loss_type is sigmoid, the one loss it belongs to \(share of pairs .*\); found 0\.1/);
    }
    writeFileSync(path, "model: a\ndata: { path: d }\ntrain: { label_smoothing: 0.1 }\n");
    assert.equal(loadRunConfig(path).train.label_smoothing, 0.1);
  });

  it("is refused with the line where it is no YAML, and by name where it is not there", (t) => {
    const dir = temporaryFolder(t);
    const path = join(dir, "run.yaml");
    writeFileSync(path, "model: a\ndata: { path: [\n");
    assert.match(mistakes(() => loadRunConfig(path)), /run\.yaml:\d+: the configuration is not YAML/);
    writeFileSync(path, "model: &a [*a]\n");
    const circular = mistakes(() => loadRunConfig(path));
    assert.match(circular, /run\.yaml: an alias of the configuration cannot be followed\n {2}expected: aliases .*\n {2}found: {4}Converting circular structure to JSON\n {2}to do:/);
    writeFileSync(path, "model: *nowhere\n");
    assert.match(mistakes(() => loadRunConfig(path)), /cannot be followed[\s\S]*nowhere/);
    const doubled = Array.from({ length: 9 }, (_, i) => `k${i + 1}: &a${i + 1} [*a${i}, *a${i}]\n`).join("");
    writeFileSync(path, `k0: &a0 [x, x]\n${doubled}`);
    assert.match(mistakes(() => loadRunConfig(path)), /cannot be followed[\s\S]*Excessive alias count/);
    writeFileSync(path, "- a\n");
    assert.match(mistakes(() => loadRunConfig(path)), /not a list of settings/);
    assert.match(mistakes(() => loadRunConfig(join(dir, "none.yaml"))), /none\.yaml: cannot read/);
  });

  it("written as used, reads back the same", (t) => {
    const dir = temporaryFolder(t);
    const config = loadRunConfig(undefined, { model: "./m: {a}.gguf", data: { path: ["x #1.jsonl"] } });
    const path = join(dir, "run.yaml");
    writeFileSync(path, configYaml(config));
    assert.deepEqual(loadRunConfig(path), config);
  });
});
