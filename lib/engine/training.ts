/**
 * A whole training: pairs and reference log-probabilities, optimizer steps, metrics, checkpoints, and going on after it
 * was stopped. Killed at any moment and started again it ends in the same bytes as if it had never stopped.
 */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RunConfig } from "../config.js";
import { RlhiError } from "../errors.js";
import { JsonlAppender, readAllJsonl, requireWritable, sha256, writeFileAtomic } from "../files.js";
import type { Progress } from "../progress.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import { openTokenizer } from "../tokens/open.js";
import { PairsFile } from "../tokens/pairs-file.js";
import { hasTokenizer } from "../tokens/source.js";
import type { Dtype, NativeTrainer, StepMetrics, TrainOptions } from "./addon.js";
import { BusyClock } from "./busy-clock.js";
import { CheckpointFolder, publishModel } from "./checkpoints.js";
import type { Checkpoint, HeldOutMetrics, TrainerState, TrainingRecord } from "./checkpoints.js";
import { Engine } from "./engine.js";
import { modelIdentity } from "./identity.js";
import { PairOrder } from "./pair-order.js";
import { makePairs, openPairs } from "./reference.js";
import type { PairSource } from "./reference.js";

export type TrainSettings = RunConfig["train"];

export interface TrainJob {
  /** Hugging Face folder, GGUF file or a shape's name. */
  model: string;
  /** The reference policy; default: the model as it is before training. */
  reference?: string | undefined;
  dtype: Dtype;
  /** "cpu" (the default), "cuda" or "cuda:N". */
  device?: string | undefined;
  threads: number;
  seed: number;
  settings: TrainSettings;
  pairs: PairSource;
  files: {
    /** Tokenised pairs with reference log-probabilities. */
    pairs: string;
    metrics: string;
    checkpoints: string;
    /** Folder of the trained model. */
    model: string;
  };
  progress: Progress;
  signal: AbortSignal;
  /** Begin again: an earlier training's checkpoints, metrics and pairs go first. */
  overwrite?: boolean | undefined;
  /** File for the first step's gradient, before clipping. */
  saveGradients?: string | undefined;
  /** File for a trace of the policy's operations (EngineOptions.trace). */
  trace?: string | undefined;
  /** Gives the model's tokenizer, whose files go into checkpoints; default: opened from its path, if it has one. */
  tokenizer?: (() => CheckpointTokenizer) | undefined;
  /** Counts the engine's work; a run's are counted together. */
  clock?: BusyClock | undefined;
}

/** A line of metrics.jsonl: TRL's names, and how fast it went. */
export interface MetricsLine extends StepMetrics {
  epoch: number;
  tokens_per_second: number;
  /** Seconds of training so far, all runs together. */
  elapsed: number;
}

export interface TrainFacts {
  model: string;
  steps: number;
  pairs: number;
  held_out_pairs: number;
  epochs: number;
  loss_first: number;
  loss_last: number;
  margin_last: number;
  held_out_before: HeldOutMetrics | null;
  held_out_after: HeldOutMetrics | null;
  num_tokens: number;
  seconds: number;
  tokens_per_second: number;
  /** Step of the checkpoint that this call went on from; 0: from the beginning. */
  resumed_from: number;
}

/** Losses that compare with the reference; the others never ask for it. */
export function needsReference(loss: TrainSettings["loss_type"]): boolean {
  return loss !== "simpo" && loss !== "sft";
}

/**
 * Trains on `job.pairs` and leaves a Hugging Face folder at `job.files.model`. Stopped or killed, the same job goes on from its
 * last checkpoint and ends in the same bytes; a finished one is not done again. Throws ERR_OTHER_TRAINING where the folder
 * holds a training of other settings, ERR_TRAINING_IN_USE where another process trains into it, ERR_OUT_OF_MEMORY before the
 * first step, ERR_ABORTED after `job.signal`.
 */
export async function train(job: TrainJob): Promise<TrainFacts> {
  for (const path of Object.values(job.files)) mkdirSync(dirname(path), { recursive: true });
  if (job.saveGradients !== undefined) requireWritable(job.saveGradients);
  const checkpoints = new CheckpointFolder(job.files.checkpoints);
  const unlock = checkpoints.lock();
  try {
    if (job.overwrite === true) forget(job, checkpoints);
    return await trainIn(checkpoints, job);
  } finally {
    unlock();
  }
}

/** The model's folder may hold files that are no training's: it is written over, not removed. */
function forget({ files }: TrainJob, checkpoints: CheckpointFolder): void {
  for (const path of [files.pairs, files.metrics]) rmSync(path, { force: true });
  checkpoints.clear();
}

async function trainIn(checkpoints: CheckpointFolder, job: TrainJob): Promise<TrainFacts> {
  checkpoints.tidy();
  const settings = recordedSettings(job);
  const identities = { model: await modelIdentity(job.model, job.seed), reference: job.reference === undefined ? "" : await modelIdentity(job.reference, job.seed), pairs: job.pairs.identity };
  const hash = sha256(JSON.stringify({ ...settings, ...identities }));
  const record = checkpoints.readRecord();
  if (record !== undefined && record.hash !== hash) throw otherSettings(job.files.checkpoints, record, settings);
  const latest = checkpoints.latest();
  if (record?.state === "finished" && latest !== undefined) {
    await publishModel(latest, job.files.model);
    return trainFacts(job, record, latest.step, await pairCounts(job.files.pairs));
  }
  const fresh: TrainingRecord = { format: 1, state: "running", hash, settings, held_out_before: null, held_out_after: null };
  const session = await Session.open(job, checkpoints, record ?? fresh, latest, identities);
  try {
    return await session.run();
  } finally {
    await session.close();
  }
}

/** Everything that decides the trained bytes, but for contents of files; how often to save and where moments lie does not. */
function recordedSettings(job: TrainJob): Record<string, unknown> {
  const { save_steps: _, moment_memory: __, ...settings } = job.settings;
  return { model: job.model, reference: job.reference ?? null, dtype: job.dtype, seed: job.seed, ...settings };
}

function otherSettings(where: string, record: TrainingRecord, now: Record<string, unknown>): RlhiError {
  const names = [...new Set([...Object.keys(record.settings), ...Object.keys(now)])].filter((name) => JSON.stringify(record.settings[name]) !== JSON.stringify(now[name]));
  const show = (settings: Record<string, unknown>): string => (names.length === 0 ? "the same settings, other contents of the model or the data" : names.map((name) => `${name} ${JSON.stringify(settings[name])}`).join(", "));
  return new RlhiError("ERR_OTHER_TRAINING", {
    what: "this folder holds another training",
    where,
    expected: show(record.settings),
    found: show(now),
    todo: "go on with its settings, choose another folder, or begin again with --overwrite",
  });
}

interface PairCounts {
  pairs: number;
  held_out_pairs: number;
}

async function pairCounts(path: string): Promise<PairCounts> {
  const pairs = await PairsFile.open(path);
  await pairs.close();
  const held_out_pairs = pairs.heldOut.filter(Boolean).length;
  return { pairs: pairs.rows - held_out_pairs, held_out_pairs };
}

async function trainFacts(job: TrainJob, record: TrainingRecord, resumedFrom: number, counts: PairCounts): Promise<TrainFacts> {
  const lines = await readAllJsonl<MetricsLine>(job.files.metrics);
  const last = lines.at(-1);
  const tokens = lines.reduce((sum, line) => sum + line.num_tokens, 0);
  const seconds = last?.elapsed ?? 0;
  return {
    model: job.files.model, steps: last?.step ?? 0, ...counts, epochs: last?.epoch ?? 0,
    loss_first: lines[0]?.loss ?? Number.NaN, loss_last: last?.loss ?? Number.NaN, margin_last: last?.["rewards/margins"] ?? Number.NaN,
    held_out_before: record.held_out_before, held_out_after: record.held_out_after, num_tokens: tokens, seconds,
    tokens_per_second: seconds > 0 ? tokens / seconds : 0, resumed_from: resumedFrom,
  };
}

/** A step that the engine was given. */
interface StepUnderWay {
  begin: number;
  result: Promise<StepMetrics>;
}

/** One process's part of a training. */
class Session {
  readonly #order: PairOrder;
  readonly #heldOut: number[];
  #trainer: NativeTrainer | undefined;
  #elapsed: number;
  #tokens: number;
  /** The newest checkpoint; it may still be written while the next steps are made. Rejected where one before it failed, too. */
  #saving: Promise<Checkpoint> | undefined;
  #savedStep = 0;
  /** Until when it held the engine up, by performance.now(): on a GPU the copying alone, else the writing too. */
  #heldUpUntil = 0;
  /** When the last step's metrics came. */
  #stepEndedAt = 0;
  /** Why a checkpoint was not written. */
  #saveFailure: { error: unknown } | undefined;

  private constructor(
    private readonly job: TrainJob,
    private readonly checkpoints: CheckpointFolder,
    private record: TrainingRecord,
    private readonly from: Checkpoint | undefined,
    private readonly engine: Engine,
    private readonly tokenizer: CheckpointTokenizer | null,
    private readonly pairs: PairsFile,
  ) {
    const { settings, seed } = job;
    const rows = pairs.heldOut.map((_, row) => row);
    this.#heldOut = rows.filter((row) => pairs.heldOut[row]);
    const training = rows.filter((row) => !pairs.heldOut[row]);
    if (training.length === 0) {
      throw new RlhiError("ERR_EMPTY", { what: "there are no pairs to train on", where: job.files.pairs, expected: "at least one pair that is not held out", found: `${rows.length} pairs, ${this.#heldOut.length} held out` });
    }
    this.#order = new PairOrder(training, { ...settings, seed });
    this.#elapsed = from?.state.elapsed ?? 0;
    this.#tokens = from?.state.num_tokens ?? 0;
    if (from !== undefined) this.#saving = Promise.resolve(from);
    this.#savedStep = from?.step ?? 0;
  }

  /** Pairs first, so that a reference other than the policy is in memory alone; then the policy, from the newest checkpoint. */
  static async open(job: TrainJob, checkpoints: CheckpointFolder, record: TrainingRecord, from: Checkpoint | undefined, identities: { model: string; reference: string; pairs: string }): Promise<Session> {
    const { dtype, device = "cpu", threads, seed, clock = new BusyClock() } = job;
    // A training has ids alone.
    const load = (path: string, trace?: string): Promise<Engine> => Engine.open({ path, dtype, device, threads, seed, trace, tokenizer: null, clock });
    const tokenizer = existsSync(job.model) && hasTokenizer(job.model) ? (job.tokenizer?.() ?? openTokenizer(job.model)) : null;
    // A GPU sums in another order than a CPU: the first loss is ln 2 exactly where the reference was scored as the policy is.
    const arithmetic = device === "cpu" ? [] : ["cuda"];
    const metadata = {
      tokens: tokenizer?.fingerprint ?? "",
      source: job.pairs.identity,
      reference: needsReference(job.settings.loss_type) ? sha256(JSON.stringify([identities.reference === "" ? identities.model : identities.reference, dtype, ...arithmetic])) : "",
    };
    let pairs = await openPairs(job.files.pairs, metadata);
    let engine: Engine | undefined;
    try {
      if (pairs === undefined) {
        const other = needsReference(job.settings.loss_type) ? job.reference : undefined;
        const vocabulary = other === undefined ? undefined : await vocabularyOf(load, job.model);
        const scorer = await load(other ?? job.model, other === undefined && from === undefined ? job.trace : undefined);
        // The reference of a fresh training is the policy itself: loaded once.
        if (other === undefined && from === undefined) engine = scorer;
        try {
          if (vocabulary !== undefined) requireVocabulary(scorer, job.model, vocabulary);
          pairs = await makePairs(job.files.pairs, job.pairs, metadata, scorer, job.progress, job.signal);
        } finally {
          if (scorer !== engine) await scorer.close();
        }
      }
      engine ??= await load(from?.path ?? job.model, job.trace);
      return new Session(job, checkpoints, record, from, engine, tokenizer, pairs);
    } catch (error) {
      await engine?.close();
      await pairs?.close();
      throw error;
    }
  }

  async run(): Promise<TrainFacts> {
    const { job, from } = this;
    const trainer = await this.engine.createTrainer(this.#options());
    this.#trainer = trainer;
    if (from !== undefined) await trainer.loadState(from.path);
    const done = from?.step ?? 0;
    await cutMetrics(job.files.metrics, done);
    this.#writeRecord({});
    if (this.#heldOut.length > 0 && this.record.held_out_before === null && done === 0) this.#writeRecord({ held_out_before: await this.#measureHeldOut(trainer, "held-out pairs before training") });
    if (job.saveGradients !== undefined && done === 0) await this.#saveGradients(trainer, job.saveGradients);
    await this.#steps(trainer, done);
    // The last checkpoint is completed and copied while held-out pairs are measured. Neither goes on when the other's failure is told.
    for (const end of await Promise.allSettled([this.#publishLast(), this.#measureAfter(trainer)])) if (end.status === "rejected") throw end.reason;
    this.#writeRecord({ state: "finished" });
    return trainFacts(job, this.record, done, { pairs: this.pairs.rows - this.#heldOut.length, held_out_pairs: this.#heldOut.length });
  }

  #options(): TrainOptions {
    const { settings } = this.job;
    return {
      lossType: settings.loss_type, beta: settings.beta, labelSmoothing: settings.label_smoothing, simpoGamma: settings.simpo_gamma, rpoAlpha: settings.rpo_alpha,
      learningRate: settings.learning_rate, adamBeta1: settings.adam_beta1, adamBeta2: settings.adam_beta2, adamEpsilon: settings.adam_epsilon,
      weightDecay: settings.weight_decay, gradients: settings.gradients, moments: settings.moments, momentMemory: settings.moment_memory, maxGradNorm: settings.max_grad_norm, lrSchedulerType: settings.lr_scheduler_type, warmupSteps: settings.warmup_steps,
      totalSteps: this.#order.totalSteps, maxTokensPerMicroBatch: settings.max_tokens_per_micro_batch,
      maxPairTokens: this.pairs.tokens.reduce((longest, tokens) => Math.max(longest, tokens), 0), memoryLimitBytes: 0, recompute: settings.recompute,
    };
  }

  #writeRecord(change: Partial<TrainingRecord>): void {
    this.record = { ...this.record, ...change };
    this.checkpoints.writeRecord(this.record);
  }

  async #publishLast(): Promise<void> {
    await publishModel(await this.#saving as Checkpoint, this.job.files.model);
  }

  async #measureAfter(trainer: NativeTrainer): Promise<void> {
    if (this.#heldOut.length > 0) this.#writeRecord({ held_out_after: await this.#measureHeldOut(trainer, "held-out pairs after training") });
  }

  /** All steps after `done`; the last one's checkpoint is under way when they are made. */
  async #steps(trainer: NativeTrainer, done: number): Promise<void> {
    const { job } = this;
    const total = this.#order.totalSteps;
    if (done >= total) return;
    const metrics = new JsonlAppender(job.files.metrics);
    job.progress.start("training", total, done);
    try {
      const underWay: StepUnderWay[] = [];
      let begun = done;
      let next = this.pairs.batch(this.#order.rowsOf(done + 1));
      for (let step = done + 1; step <= total; step += 1) {
        // The engine has the step after this one before it has done this one, but where this one's weights are to be kept.
        while (begun < step || (begun === step && begun < total && !this.#isKept(step))) {
          const batch = await next;
          begun += 1;
          // Read ahead while the engine works; the last batch is read for nothing, cheaply.
          next = this.pairs.batch(this.#order.rowsOf(begun + 1));
          underWay.push(this.#begin(trainer, batch));
        }
        const { result, seconds } = await this.#end(trainer, underWay.shift() as StepUnderWay, step);
        // Training ends here where a checkpoint before this step failed; one that is still being written is not waited for.
        if (this.#saveFailure !== undefined) throw this.#saveFailure.error;
        this.#elapsed += seconds;
        this.#tokens += result.num_tokens;
        const line: MetricsLine = { ...result, epoch: this.#order.epochAfter(step), tokens_per_second: result.num_tokens / seconds, elapsed: this.#elapsed };
        metrics.append(line);
        job.progress.advance(1, `loss ${result.loss.toFixed(4)}, ${Math.round(line.tokens_per_second)} tokens/s`);
        if (this.#isKept(step)) this.#save(trainer, step);
      }
    } finally {
      metrics.close();
      job.progress.stop();
    }
  }

  #isKept(step: number): boolean {
    const { save_steps } = this.job.settings;
    return step === this.#order.totalSteps || (save_steps > 0 && step % save_steps === 0);
  }

  #begin(trainer: NativeTrainer, batch: Parameters<NativeTrainer["step"]>[0]): StepUnderWay {
    const underWay = { begin: performance.now(), result: trainer.step(batch, this.job.signal) };
    // Told where it is awaited, maybe a step later.
    underWay.result.catch(() => undefined);
    return underWay;
  }

  /** An interrupted step leaves the weights as they were: what is done until then is saved before the error goes on. */
  async #end(trainer: NativeTrainer, underWay: StepUnderWay, step: number): Promise<{ result: StepMetrics; seconds: number }> {
    try {
      const result = await underWay.result;
      const end = performance.now();
      const seconds = (end - Math.max(underWay.begin, this.#stepEndedAt, this.#heldUpUntil)) / 1000;
      this.#stepEndedAt = end;
      return { result, seconds };
    } catch (error) {
      if ((error as { code?: unknown }).code === "ERR_DEVICE_LOST") throw this.#deviceLost(error as Error, step);
      if (!this.job.signal.aborted) throw error;
      const finished = step - 1;
      if (finished > this.#savedStep) this.#save(trainer, finished);
      await this.#saving;
      throw new RlhiError("ERR_ABORTED", {
        what: finished > 0 ? `training stopped after step ${finished} of ${this.#order.totalSteps}` : "training stopped before its first step",
        where: this.job.files.checkpoints,
        todo: "run the same command again: it goes on from there",
        cause: error,
      });
    }
  }

  #deviceLost(error: Error, step: number): RlhiError {
    const kept = this.checkpoints.latest();
    return new RlhiError("ERR_DEVICE_LOST", {
      what: `the GPU was lost in step ${step} of ${this.#order.totalSteps}`, where: this.job.files.checkpoints, found: error.message,
      todo: `${kept === undefined ? "no checkpoint was written yet" : `the checkpoint of step ${kept.step} is whole`}: see what nvidia-smi and the system's log say of the GPU, then run the same command again: it goes on from there`,
      cause: error,
    });
  }

  /**
   * Begins a checkpoint of the weights as they are: the engine takes them before anything it is given later, and where it writes them
   * meanwhile, it takes the next ones when these are written. Checkpoints become whole in order.
   */
  #save(trainer: NativeTrainer, step: number): void {
    const state: TrainerState = { global_step: step, epoch: this.#order.epochAfter(step), elapsed: this.#elapsed, num_tokens: this.#tokens, hash: this.record.hash };
    const before = this.#saving;
    const taken = (): void => { this.#heldUpUntil = performance.now(); };
    this.#savedStep = step;
    this.#saving = this.checkpoints.save(state, async (dir) => {
      const writing = [this.engine.native.save(dir, this.job.dtype, taken), trainer.saveState(dir, taken)];
      this.tokenizer?.save(dir);
      for (const end of await Promise.allSettled(writing)) if (end.status === "rejected") throw end.reason;
      await before;
    });
    // Told after a step, or where the last one is awaited.
    this.#saving.catch((error: unknown) => { this.#saveFailure ??= { error }; });
  }

  async #saveGradients(trainer: NativeTrainer, path: string): Promise<void> {
    await trainer.accumulate(await this.pairs.batch(this.#order.rowsOf(1)), this.job.signal);
    await trainer.saveGradients(path);
  }

  /** Mean loss and reward margins over the held-out pairs, by the same forward and loss as training, without an update. */
  async #measureHeldOut(trainer: NativeTrainer, label: string): Promise<HeldOutMetrics> {
    const rows = this.#heldOut;
    const size = this.job.settings.pairs_per_step;
    const sums = { loss: 0, "rewards/margins": 0, "rewards/accuracies": 0 };
    this.job.progress.start(label, rows.length);
    for (let begin = 0; begin < rows.length; begin += size) {
      const group = rows.slice(begin, begin + size);
      const metrics = await trainer.evaluate(await this.pairs.batch(group), this.job.signal);
      for (const name of ["loss", "rewards/margins", "rewards/accuracies"] as const) sums[name] += metrics[name] * group.length;
      this.job.progress.advance(group.length);
    }
    this.job.progress.stop();
    return { pairs: rows.length, loss: sums.loss / rows.length, "rewards/margins": sums["rewards/margins"] / rows.length, "rewards/accuracies": sums["rewards/accuracies"] / rows.length };
  }

  async close(): Promise<void> {
    await this.#saving?.catch(() => undefined);
    await this.#trainer?.close();
    await this.engine.close();
    await this.pairs.close();
  }
}

/** Loaded and closed again: reference and policy are never in memory together. */
async function vocabularyOf(load: (path: string) => Promise<Engine>, path: string): Promise<number> {
  const engine = await load(path);
  await engine.close();
  return engine.info.vocabSize;
}

/** The same ids are other text to a model of another vocabulary: its log-probabilities would be of nothing. */
function requireVocabulary(reference: Engine, model: string, size: number): void {
  const { vocabSize } = reference.info;
  if (vocabSize === size) return;
  throw new RlhiError("ERR_OTHER_VOCABULARY", {
    what: "the reference has another vocabulary than the model", where: reference.path, expected: `${size} tokens, as ${model} has`, found: `${vocabSize} tokens`,
    todo: "give a reference of the same family and tokenizer, or none: then it is the model as it is before training",
  });
}

/** Lines of steps that no checkpoint holds are made again: they go. */
async function cutMetrics(path: string, lastStep: number): Promise<void> {
  if (!existsSync(path)) return;
  const lines = (await readAllJsonl<MetricsLine>(path)).filter((line) => line.step <= lastStep);
  if (lines.length === 0) rmSync(path);
  else writeFileAtomic(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
}

/** The files of a training that has a folder to itself. */
export function trainFilesIn(dir: string): TrainJob["files"] {
  return { pairs: join(dir, "pairs.arrow"), metrics: join(dir, "metrics.jsonl"), checkpoints: join(dir, "checkpoints"), model: dir };
}
