/** The one schema of run.yaml: defaults, ranges and what each setting means. `describe` texts are what --help and errors show. */
import { z } from "zod";
import { feedbackLabels } from "./conversations/types.js";
import { devicePattern } from "./engine/device.js";
import { classifierKinds } from "./feedback/types.js";
import { pairFilters } from "./pairs/types.js";

const count = (text: string) => z.number().int().min(0).describe(text);
const positive = (text: string) => z.number().int().min(1).describe(text);
const share = (text: string) => z.number().min(0).max(1).describe(text);
const spec = (text: string) => z.string().regex(/^(native:.+|openai:https?:\/\/.+#.+)$/, "expected native:PATH or openai:URL#model").describe(text);

const sampling = (temperature: number, topP: number) => ({
  temperature: z.number().min(0).default(temperature).describe("sampling temperature; 0 is greedy"),
  top_p: z.number().gt(0).max(1).default(topP).describe("nucleus sampling"),
  top_k: count("keep the k most likely tokens; 0: all").default(0),
  min_p: z.number().min(0).lt(1).default(0).describe("drop tokens below this share of the most likely one"),
});

/** `train`: also the flags of the command of that name. */
export const trainSettingsSchema = z.strictObject({
  loss_type: z.enum(["sigmoid", "ipo", "hinge", "simpo", "sft"]).default("sigmoid").describe("sft: supervised fine-tuning on the chosen answers (comparison)"),
  beta: z.number().gt(0).default(0.1).describe("how strongly the model is held to the reference; simpo: scale of the rewards"),
  label_smoothing: z.number().min(0).lt(0.5).default(0).describe("share of pairs assumed to be the wrong way round"),
  simpo_gamma: z.number().min(0).default(0.5).describe("simpo: margin the chosen answer should win by"),
  rpo_alpha: z.number().min(0).default(0).describe("weight of the added SFT term on the chosen answer"),
  learning_rate: z.number().gt(0).default(1e-6).describe("step size of AdamW"),
  adam_beta1: z.number().min(0).lt(1).default(0.9).describe("decay of the gradient's running mean"),
  adam_beta2: z.number().min(0).lt(1).default(0.95).describe("decay of the squared gradient's running mean"),
  adam_epsilon: z.number().gt(0).default(1e-8).describe("keeps AdamW's division finite"),
  weight_decay: z.number().min(0).default(0).describe("of matrices, not of norms and biases"),
  gradients: z.enum(["f32", "bf16"]).default("f32").describe("storage of the matrices' gradients; bf16 (a micro-batch's sum is rounded once) takes half the memory"),
  moments: z.enum(["f32", "bf16", "8bit"]).default("f32").describe("storage of AdamW's two moments; bf16 and 8bit (rounded up or down at random) take a half and a quarter of the memory"),
  moment_memory: z.enum(["auto", "device", "host"]).default("auto").describe("where a GPU's moments lie: host: in the host's memory, and each update brings them to the GPU and back, to the same bits; auto: device, or host where that does not fit"),
  max_grad_norm: z.number().gt(0).default(1).describe("longer gradients are scaled down to this norm"),
  lr_scheduler_type: z.enum(["constant", "constant_with_warmup", "linear", "cosine"]).default("constant_with_warmup").describe("how the learning rate goes on after the warm-up"),
  warmup_steps: count("steps over which the learning rate grows from 0").default(10),
  pairs_per_step: positive("pairs of one optimizer step").default(16),
  num_epochs: positive("passes over the pairs").default(1),
  max_steps: count("0: as the epochs give").default(0),
  max_tokens_per_micro_batch: positive("token budget of one forward and backward").default(2048),
  recompute: z.enum(["auto", "none", "norms", "layers"]).default("auto").describe("what the backward computes again instead of keeping it, from most to least memory; auto: norms, or layers where norms do not fit, on a GPU not even with moments in host memory"),
  save_steps: count("steps between checkpoints; 0: only the last").default(50),
  shuffle: z.boolean().default(true).describe("a new order of the pairs in every epoch, by the seed"),
}).refine(({ loss_type, label_smoothing }) => loss_type === "sigmoid" || label_smoothing === 0, {
  // As the engine does, which is asked only when the pairs are made.
  path: ["label_smoothing"], message: "expected 0 unless loss_type is sigmoid, the one loss it belongs to",
});

export const runConfigSchema = z.strictObject({
  seed: count("seed of everything random").default(0),
  model: z.string().describe("PATH of the policy to train: a Hugging Face folder or a GGUF file"),
  reference: z.string().optional().describe("PATH of the reference policy; default: the model as it is before training"),
  dtype: z.enum(["f32", "bf16"]).default("bf16").describe("storage of weights and kept activations"),
  device: z.string().regex(devicePattern, "expected cpu, cuda or cuda:N").default("cpu").describe("where models run: cpu, cuda (the first GPU) or cuda:N"),
  threads: count("CPU threads; 0: all").default(0),

  data: z.strictObject({
    path: z.union([z.string(), z.array(z.string()).min(1)]).describe("conversation files: Parquet, JSON or JSONL"),
    source: z.enum(["auto", "wildchat", "oasst", "sharegpt", "messages"]).default("auto").describe("the files' schema"),
    languages: z.array(z.string()).default([]).describe("keep only these (English names); empty: all"),
    include_flagged: z.boolean().default(false).describe("keep conversations the source flagged as toxic or moderated"),
    min_conversations: positive("users with fewer are dropped").default(3),
    max_conversations_per_user: count("the most recent n of each user; 0: all").default(0),
    max_users: count("stop after n users, in the order of a hash of their ids; 0: all").default(0),
    min_message_chars: count("drop conversations whose first request is shorter").default(2),
    max_message_chars: positive("drop conversations with a longer message").default(16000),
    max_messages: positive("cut conversations after this many messages").default(40),
    held_out: share("share of users kept for evaluation, by a hash of the user id").default(0.1),
  }),

  models: z.strictObject({
    classifier: spec("labels follow-ups").optional(),
    persona: spec("infers personas").optional(),
    rewriter: spec("rewrites answers by feedback").optional(),
    judge: spec("scores answers").optional(),
  }).prefault({}).describe("language model of each role; default native:<model>"),
  endpoint: z.strictObject({
    concurrency: positive("requests under way at once").default(8),
    requests_per_minute: count("0: no limit").default(0),
    max_retries: count("of one request, with growing waits").default(5),
    timeout_s: z.number().gt(0).default(120).describe("of one request"),
    api_key_env: z.string().default("OPENAI_API_KEY").describe("environment variable that holds the key"),
  }).prefault({}),

  feedback: z.strictObject({
    classifier: z.enum(classifierKinds).default("both").describe("rules, a chat model, or both: rules where they are sure, the model for the rest"),
    rules_threshold: share("rules decide alone from this confidence on").default(0.8),
    abstain_below: share("below this confidence the label is left open").default(0.4),
    use: z.array(z.enum(feedbackLabels)).default(["reattempt_with_feedback"]).describe("labels whose follow-ups make rewrites"),
  }).prefault({}),

  personas: z.strictObject({
    enabled: z.boolean().default(true).describe("false: no persona anywhere (comparison)"),
    at: z.enum(["train_and_inference", "inference_only"]).default("train_and_inference").describe("inference_only: personas in evaluation but not in training (comparison)"),
    max_words: positive("of the rendered persona").default(200),
    max_conversations: positive("most recent earlier conversations shown to the model").default(12),
    max_new_tokens: positive("of the persona's JSON").default(256),
    ...sampling(0, 1),
  }).prefault({}),

  rewrites: z.strictObject({
    enabled: z.boolean().default(true),
    from_scratch: z.boolean().default(false).describe("do not show the feedback to the rewriter (comparison)"),
    rejected: z.enum(["policy", "logged"]).default("policy").describe("the rejected answer: the policy's own, or the logged one"),
    max: count("rewrites made, taken evenly over users; 0: all").default(0),
    max_new_tokens: positive("of an answer").default(512),
    ...sampling(0.6, 0.9),
  }).prefault({}),

  rewards: z.strictObject({
    enabled: z.boolean().default(true),
    n: z.number().int().min(2).default(8).describe("answers sampled a request"),
    user_agnostic: z.boolean().default(false).describe("choose by the reward that does not see the persona (comparison)"),
    score_without_persona: z.boolean().default(true).describe("also record the score without the persona"),
    max: count("requests used, taken evenly over users; 0: all").default(0),
    max_new_tokens: positive("of an answer").default(512),
    ...sampling(1, 1),
  }).prefault({}),

  pairs: z.strictObject({
    persona_dropout: share("share of pairs without their persona").default(0.1),
    min_margin: z.number().min(0).default(0.1).describe("least difference of judge scores (scale 1 to 9)"),
    judge_rewrites: z.boolean().default(true).describe("rewrites must win under a judge that sees persona and feedback"),
    max_per_user: count("0: no limit").default(0),
    max_length_ratio: z.number().min(1).default(4).describe("longer answer over shorter, in characters"),
    max_similarity: share("answers more alike than this are near-duplicates").default(0.95),
    max_tokens: positive("context: prompt plus the longer answer; the oldest turns go first").default(2048),
    filters: z.array(z.enum(pairFilters)).optional().describe("names of the filters to run; default: all"),
  }).prefault({}),

  train: trainSettingsSchema.prefault({}),

  eval: z.strictObject({
    enabled: z.boolean().default(true),
    max_prompts: count("requests of held-out users judged; 0: all").default(0),
    max_new_tokens: positive("of an answer").default(512),
    bootstrap: positive("resamples of the intervals").default(1000),
    ...sampling(0.6, 0.9),
  }).prefault({}),
});

export type RunConfig = z.infer<typeof runConfigSchema>;
export type RunConfigInput = z.input<typeof runConfigSchema>;
