/** The run folder: which file is where. Files are the interface between stages (docs/formats.md). */
import { join } from "node:path";

export interface RunFolder {
  readonly dir: string;
  readonly config: string;
  readonly manifest: string;
  readonly conversations: string;
  readonly feedback: string;
  readonly personas: string;
  readonly candidates: string;
  readonly pairs: string;
  readonly filtered: string;
  readonly pairsArrow: string;
  readonly metrics: string;
  readonly checkpoints: string;
  /** The trained model: a Hugging Face folder. */
  readonly model: string;
  readonly judgements: string;
  readonly report: string;
  /** Answers of chat models, by hash of the request. */
  readonly cache: string;
}

export function runFolder(dir: string): RunFolder {
  const at = (name: string): string => join(dir, name);
  return {
    dir,
    config: at("run.yaml"),
    manifest: at("manifest.json"),
    conversations: at("conversations.parquet"),
    feedback: at("feedback.jsonl"),
    personas: at("personas.jsonl"),
    candidates: at("candidates.jsonl"),
    pairs: at("pairs.jsonl"),
    filtered: at("filtered.jsonl"),
    pairsArrow: at("pairs.arrow"),
    metrics: at("metrics.jsonl"),
    checkpoints: at("checkpoints"),
    model: at("model"),
    judgements: at("judgements.jsonl"),
    report: at("report.html"),
    cache: at("cache"),
  };
}
