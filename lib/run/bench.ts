/** How long the engine waits in the whole method: every stage on a part of the bundled sample, in a folder that is gone afterwards. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { loadRunConfig } from "../config-file.js";
import type { RunConfigInput } from "../config.js";
import { packageRoot } from "../engine/addon.js";
import type { Dtype } from "../engine/addon.js";
import { readJsonl } from "../files.js";
import type { Progress } from "../progress.js";
import { writeRandomModel } from "./bench-model.js";
import { openRun } from "./context.js";
import { engineTogether } from "./manifest.js";
import type { EngineRecord, ManifestData } from "./manifest.js";
import { runPipeline } from "./pipeline.js";
import { stageNames } from "./stage.js";

const sample = join(packageRoot, "datasets", "sample", "conversations.jsonl");

export interface PipelineBench {
  /** A model with its tokenizer, or a shape's name: random weights with a tokenizer made for the sample. */
  model: string;
  dtype: Dtype;
  threads: number;
  progress: Progress;
  signal: AbortSignal;
}

/** Throws what the stages throw; the folder is gone then too. Needs room for two checkpoints in the system's temporary folder. */
export async function benchPipeline({ model, dtype, threads, progress, signal }: PipelineBench): Promise<Record<string, unknown>[]> {
  const dir = mkdtempSync(join(tmpdir(), "rlhi-bench-"));
  try {
    const path = existsSync(model) ? resolve(model) : join(dir, "model");
    if (!existsSync(model)) await writeRandomModel(model, await sampleTexts(), path, { dtype, threads });
    const run = openRun({ config: loadRunConfig(undefined, { ...sizes(path), dtype, threads }), dir: join(dir, "run"), progress, signal });
    try {
      await runPipeline(run);
      return rowsOf(run.manifest.data);
    } finally {
      await run.close();
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Every kind of work the method has, in about a minute with 135 million parameters on two cores. */
function sizes(model: string): RunConfigInput {
  return {
    model,
    data: { path: sample, held_out: 0.2, max_message_chars: 2000, max_users: 24, max_conversations_per_user: 4 },
    feedback: { classifier: "rules" },
    personas: { max_new_tokens: 32, max_conversations: 2, max_words: 60 },
    rewrites: { max: 16, max_new_tokens: 48 },
    rewards: { n: 4, max: 12, max_new_tokens: 32, score_without_persona: false },
    // Noise differs from noise by nothing that a filter of texts looks for.
    pairs: { max_tokens: 768, min_margin: 0, filters: ["tie"] },
    train: { pairs_per_step: 4, max_steps: 6, num_epochs: 2, save_steps: 3, max_tokens_per_micro_batch: 1536 },
    eval: { max_prompts: 8, max_new_tokens: 32, bootstrap: 200 },
  };
}

async function sampleTexts(): Promise<string[]> {
  const texts: string[] = [];
  for await (const { conversation } of readJsonl<{ conversation: { content: string }[] }>(sample)) texts.push(...conversation.map(({ content }) => content));
  return texts;
}

/** A row a stage, and one of all that used the engine. */
function rowsOf({ stages }: ManifestData): Record<string, unknown>[] {
  const rows = stageNames.flatMap((stage) => {
    const record = stages[stage];
    return record === undefined ? [] : [rowOf(stage, record.duration_s, record.engine)];
  });
  const together = engineTogether(Object.values(stages).flatMap(({ engine }) => engine ?? []));
  return together === null ? rows : [...rows, rowOf("with the engine", together.seconds, together)];
}

/** null where a stage did not use the engine. */
function rowOf(stage: string, seconds: number, engine: EngineRecord | undefined): Record<string, unknown> {
  return { stage, seconds, engine_busy_seconds: engine?.busy_seconds ?? null, engine_load_seconds: engine?.load_seconds ?? null, idle_share: engine?.idle_share ?? null };
}
