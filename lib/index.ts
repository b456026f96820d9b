/**
 * The public API: everything the command line does, callable. What starts long work takes a `Progress` (`silent` shows nothing)
 * and an `AbortSignal`; what fails throws `RlhiError` with a `code` and, for mistakes of the caller, its kind `UsageError`.
 *
 *     const context = openRun({ config: loadRunConfig("run.yaml"), dir: "runs/mine", progress: silent, signal });
 *     try { await runPipeline(context); } finally { await context.close(); }
 *
 *     const engine = await Engine.open({ path: "./SmolLM2-135M-Instruct", dtype: "bf16" });
 *     const prompt = engine.requireTokenizer().encodeChat([{ role: "user", content: "Hello" }]);
 *     const [[answer]] = await engine.generate([{ prompt, max_new_tokens: 64, temperature: 0 }]);
 */
export { RlhiError, UsageError } from "./errors.js";
export type { ErrorFacts } from "./errors.js";
export { silent } from "./progress.js";
export type { Progress } from "./progress.js";

// ---- a run: every stage, or one, in a run folder that can be gone on with
export { configYaml, loadRunConfig } from "./config-file.js";
export { runConfigSchema, trainSettingsSchema } from "./config.js";
export type { RunConfig, RunConfigInput } from "./config.js";
export { defaultRunDir, openRun } from "./run/context.js";
export type { RunContext, RunOptions } from "./run/context.js";
export type { RunFolder } from "./run/folder.js";
export { runPipeline, runStageNamed } from "./run/pipeline.js";
export type { PipelineOptions, StageNote } from "./run/pipeline.js";
export type { StageOutcome } from "./run/run-stage.js";
export { stageNames } from "./run/stage.js";
export type { StageFacts, StageName } from "./run/stage.js";
export { headline } from "./report/headline.js";

// ---- conversations
export { conversationFacts, followUpTurns, isHeldOut, mine, miningFilters, readConversations, userTurns, writeConversations } from "./conversations/index.js";
export type { Conversation, DataSettings, FeedbackLabel, LoggedMessage, Message, MiningFacts, MiningFilter, Role } from "./conversations/index.js";
export { openSources, readSources } from "./conversations/sources/index.js";
export { sourceNames } from "./conversations/sources/source.js";
export type { SourceName } from "./conversations/sources/source.js";

// ---- the method, part by part
export { createClassifier } from "./feedback/classifier.js";
export type { Classifier, ClassifyOptions, FeedbackSettings, Verdict } from "./feedback/classifier.js";
export { evaluate } from "./feedback/evaluate.js";
export type { Evaluation, Labelled, LabelScore } from "./feedback/evaluate.js";
export { evaluateClassifier, labelledFollowUps } from "./feedback/labelled.js";
export { classifyByRules, followUpAt } from "./feedback/rules.js";
export type { FollowUp, RuleVerdict } from "./feedback/rules.js";
export type { FeedbackRecord } from "./feedback/types.js";
export { inferPersonas } from "./personas/infer.js";
export type { InferOptions, PersonaTask } from "./personas/infer.js";
export { renderPersona, withPersona } from "./personas/render.js";
export type { Persona, PersonaRecord } from "./personas/types.js";
export { buildPair } from "./pairs/build.js";
export { firstObjection } from "./pairs/filters.js";
export { pairFilters } from "./pairs/types.js";
export type { CandidateRecord, FilteredRecord, PairFilter, PairRecord } from "./pairs/types.js";
export { bootstrapMean, combineOrders, winRate } from "./eval/statistics.js";
export type { Interval, Outcome, WinRate } from "./eval/statistics.js";

// ---- chat models: the embedded engine or an OpenAI-compatible endpoint
export { openChatModel } from "./chat-models/open.js";
export type { OpenOptions } from "./chat-models/open.js";
export type { ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest, Sampling, Score, ScoreRequest } from "./chat-models/types.js";

// ---- tokens and pairs in files
export { CheckpointTokenizer } from "./tokens/chat-tokenizer.js";
export { openTokenizer } from "./tokens/open.js";
export { pairRow, readChats, readPairs } from "./tokens/data-files.js";
export type { DataChat, DataPair, TokenLimits } from "./tokens/data-files.js";
export type { PairRow } from "./tokens/arrow.js";
export { PairsFile } from "./tokens/pairs-file.js";
export { filePairs } from "./tokens/pair-source.js";

// ---- the engine
export { addonPath, loadAddon } from "./engine/addon.js";
export type { Dtype, MemoryPlan, ModelInfo, NativeAddon, StepMetrics, SystemInfo, TrainOptions } from "./engine/addon.js";
export { Engine } from "./engine/engine.js";
export type { ContinuationScore, EngineOptions, Generated, GenerateOptions, GenerationItem, ScoreItem } from "./engine/engine.js";
export { train, trainFilesIn } from "./engine/training.js";
export type { MetricsLine, TrainFacts, TrainJob, TrainSettings } from "./engine/training.js";
export { benchForward, benchGenerate, benchTrain } from "./engine/bench.js";
export { benchGemm, benchLayer } from "./engine/bench-parts.js";
export { benchOperations } from "./engine/bench-ops.js";
