/** What a stage is given and gives back. A stage reads files of the run folder and appends or writes its own; run again, it goes on where it stopped. */
import type { ChatModel } from "../chat-models/types.js";
import type { RunConfig } from "../config.js";
import type { BusyClock } from "../engine/busy-clock.js";
import type { Progress } from "../progress.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import type { RunFolder } from "./folder.js";

export type ModelRole = "classifier" | "persona" | "rewriter" | "judge" | "policy" | "base" | "trained";

export interface StageContext {
  readonly folder: RunFolder;
  readonly config: RunConfig;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  /** Counts the embedded engine's work, of all models of the run together. */
  readonly clock: BusyClock;
  /** The policy's tokenizer, opened once. */
  readonly tokenizer: () => CheckpointTokenizer;
  /** Opens (once) the model of a role. Two roles with the same spec share one. */
  model(role: ModelRole): Promise<ChatModel>;
  /** Closes every open model: before training, so that its memory is free. */
  closeModels(): Promise<void>;
}

/** Facts of a finished stage: printed with --json, kept in manifest.json, shown in the report. */
export type StageFacts = Record<string, unknown>;

export type Stage = (context: StageContext) => Promise<StageFacts>;

export const stageNames = ["mine", "feedback", "personas", "rewrite", "reward", "pairs", "train", "eval", "report"] as const;
export type StageName = (typeof stageNames)[number];
