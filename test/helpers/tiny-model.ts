/**
 * Tiny Hugging Face model folders with seeded random weights and a real byte-level BPE tokenizer, so that tests run the whole
 * pipeline without downloading anything. The text such a model writes is noise; everything else about it is real.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type TinyArchitecture = "llama" | "qwen2" | "qwen3" | "mistral";

export interface TinyModelOptions {
  architecture?: TinyArchitecture;
  seed?: number;
  hiddenSize?: number;
  intermediateSize?: number;
  layers?: number;
  heads?: number;
  kvHeads?: number;
  headDim?: number;
  maxPosition?: number;
  /** Rows of the embedding; at least tinyVocabSize, and that by default. */
  vocabSize?: number;
  tied?: boolean;
  dtype?: "F32" | "BF16";
  /** mistral only; default 16. */
  slidingWindow?: number;
}

export interface TinyModel {
  path: string;
  vocabSize: number;
  parameters: number;
  /** Every tensor's values as f32, by Hugging Face name (already rounded when dtype is BF16). */
  tensors: Map<string, Float32Array>;
}

export const tinySpecialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;
export const tinyEndOfText = 0;
export const tinyImStart = 1;
export const tinyImEnd = 2;

/** ChatML, with the system message where there is one; the same text transformers would render. */
export const tinyChatTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// GPT-2's reversible map from bytes to printable characters.
const byteChars: string[] = (() => {
  const chars: string[] = [];
  let next = 256;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    chars.push(String.fromCodePoint(printable ? b : next++));
  }
  return chars;
})();

// Common English pairs, "Ġ" being the space; each line's parts exist by then.
const merges = [
  "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o", "e n", "Ġ c", "i t", "i s", "a n", "o r", "e s", "Ġ b",
  "e d", "Ġ f", "in g", "Ġ p", "o u", "Ġa n", "a l", "a r", "Ġt o", "Ġ m", "Ġo f", "Ġ in", "Ġ d", "Ġ h", "Ġan d", "i c", "a s", "l e", "Ġt h", "i on",
  "o m", "l l", "en t", "Ġ n", "Ġ l", "s t", "Ġ re", "v e", "Ġ e", "r o", "l y", "Ġb e", "Ġ g", "Ġ I", "Ġ is", "y ou",
];

function vocabulary(): Map<string, number> {
  const ids = new Map<string, number>();
  for (const token of tinySpecialTokens) ids.set(token, ids.size);
  for (const char of byteChars) ids.set(char, ids.size);
  for (const merge of merges) ids.set(merge.replace(" ", ""), ids.size);
  return ids;
}

/** Tokens of the tiny tokenizer: three special ones, 256 bytes, the merges. */
export const tinyVocabSize = vocabulary().size;

/** Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into the existing folder `dir`. */
export function writeTinyTokenizer(dir: string): void {
  const special = tinySpecialTokens.map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const json = (name: string, value: unknown): void => writeFileSync(join(dir, name), JSON.stringify(value, null, 1));
  json("tokenizer.json", {
    version: "1.0", truncation: null, padding: null, added_tokens: special, normalizer: null, pre_tokenizer: byteLevel, post_processor: null, decoder: byteLevel,
    model: {
      type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
      vocab: Object.fromEntries(vocabulary()), merges,
    },
  });
  json("tokenizer_config.json", {
    added_tokens_decoder: Object.fromEntries(special.map(({ id, ...rest }) => [id, rest])), add_prefix_space: false, clean_up_tokenization_spaces: false,
    bos_token: "<|im_start|>", eos_token: "<|im_end|>", pad_token: "<|im_end|>", unk_token: "<|endoftext|>", model_max_length: 1024,
    tokenizer_class: "GPT2Tokenizer", chat_template: tinyChatTemplate,
  });
  json("special_tokens_map.json", { bos_token: "<|im_start|>", eos_token: "<|im_end|>", pad_token: "<|im_end|>", unk_token: "<|endoftext|>" });
}

/** Uniform numbers in [0, 1) from a 32-bit state (mulberry32): the same everywhere. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** The upper half of a float32, rounded to nearest even. */
function bf16Bits(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

interface TensorSpec { name: string; shape: number[] }
type Shape = Required<Omit<TinyModelOptions, "seed" | "dtype">>;

function tensorSpecs(s: Shape): TensorSpec[] {
  const specs: TensorSpec[] = [{ name: "model.embed_tokens.weight", shape: [s.vocabSize, s.hiddenSize] }];
  for (let i = 0; i < s.layers; i++) {
    const add = (name: string, ...shape: number[]): number => specs.push({ name: `model.layers.${i}.${name}`, shape });
    const q = s.heads * s.headDim, kv = s.kvHeads * s.headDim;
    add("input_layernorm.weight", s.hiddenSize);
    for (const [name, width] of [["q", q], ["k", kv], ["v", kv]] as const) {
      add(`self_attn.${name}_proj.weight`, width, s.hiddenSize);
      if (s.architecture === "qwen2") add(`self_attn.${name}_proj.bias`, width);
    }
    add("self_attn.o_proj.weight", s.hiddenSize, q);
    if (s.architecture === "qwen3") {
      add("self_attn.q_norm.weight", s.headDim);
      add("self_attn.k_norm.weight", s.headDim);
    }
    add("post_attention_layernorm.weight", s.hiddenSize);
    add("mlp.gate_proj.weight", s.intermediateSize, s.hiddenSize);
    add("mlp.up_proj.weight", s.intermediateSize, s.hiddenSize);
    add("mlp.down_proj.weight", s.hiddenSize, s.intermediateSize);
  }
  specs.push({ name: "model.norm.weight", shape: [s.hiddenSize] });
  if (!s.tied) specs.push({ name: "lm_head.weight", shape: [s.vocabSize, s.hiddenSize] });
  return specs;
}

function configJson(s: Shape, dtype: "F32" | "BF16"): Record<string, unknown> {
  const className = { llama: "Llama", qwen2: "Qwen2", qwen3: "Qwen3", mistral: "Mistral" }[s.architecture];
  return {
    architectures: [`${className}ForCausalLM`], model_type: s.architecture, vocab_size: s.vocabSize, hidden_size: s.hiddenSize,
    intermediate_size: s.intermediateSize, num_hidden_layers: s.layers, num_attention_heads: s.heads, num_key_value_heads: s.kvHeads,
    head_dim: s.headDim, max_position_embeddings: s.maxPosition, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu", tie_word_embeddings: s.tied,
    bos_token_id: tinyImStart, eos_token_id: tinyImEnd, torch_dtype: dtype === "F32" ? "float32" : "bfloat16",
    ...(s.architecture === "llama" ? { attention_bias: false, mlp_bias: false } : {}),
    ...(s.architecture === "mistral" ? { sliding_window: s.slidingWindow } : {}),
    ...(s.architecture === "qwen2" || s.architecture === "qwen3" ? { use_sliding_window: false, sliding_window: null } : {}),
  };
}

/** Writes tensors as a safetensors file; values are rounded to `dtype` by the caller. */
export function writeSafetensors(path: string, tensors: { name: string; shape: number[]; values: Float32Array }[], dtype: "F32" | "BF16" = "F32"): void {
  const size = dtype === "F32" ? 4 : 2;
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let offset = 0;
  for (const t of tensors) {
    header[t.name] = { dtype, shape: t.shape, data_offsets: [offset, offset + t.values.length * size] };
    offset += t.values.length * size;
  }
  const unpadded = JSON.stringify(header);
  const text = unpadded.padEnd(Math.ceil(unpadded.length / 8) * 8, " ");
  const file = Buffer.alloc(8 + text.length + offset);
  file.writeBigUInt64LE(BigInt(text.length), 0);
  file.write(text, 8, "latin1");
  let at = 8 + text.length;
  for (const t of tensors) {
    for (const value of t.values) {
      if (dtype === "F32") file.writeFloatLE(value, at);
      else file.writeUInt16LE(bf16Bits(value), at);
      at += size;
    }
  }
  writeFileSync(path, file);
}

/** Makes `dir` (parents too) a complete Hugging Face folder: config, weights, tokenizer, chat template, generation config. */
export function writeTinyModel(dir: string, options: TinyModelOptions = {}): TinyModel {
  const architecture = options.architecture ?? "llama";
  const shape: Shape = {
    architecture, hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, kvHeads: 2, headDim: architecture === "qwen3" ? 32 : 16, maxPosition: 1024,
    vocabSize: tinyVocabSize, tied: architecture !== "qwen2", slidingWindow: 16,
    ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)),
  };
  const dtype = options.dtype ?? "F32";
  const random = seededRandom(options.seed ?? 0);
  const scratch = new Float32Array(1), scratchBits = new Uint32Array(scratch.buffer);
  const round = (value: number): number => {
    if (dtype === "F32") return value;
    scratchBits[0] = bf16Bits(value) << 16;
    return scratch[0] ?? 0;
  };
  const tensors = tensorSpecs(shape).map((spec) => {
    const values = new Float32Array(spec.shape.reduce((a, b) => a * b, 1));
    const mean = spec.name.endsWith("norm.weight") ? 1 : 0;
    for (let i = 0; i < values.length; i++) values[i] = round(mean + 0.1 * normal(random));
    return { ...spec, values };
  });
  mkdirSync(dir, { recursive: true });
  writeSafetensors(join(dir, "model.safetensors"), tensors, dtype);
  writeFileSync(join(dir, "config.json"), JSON.stringify(configJson(shape, dtype), null, 2));
  writeFileSync(join(dir, "generation_config.json"), JSON.stringify({ bos_token_id: tinyImStart, eos_token_id: [tinyImEnd] }, null, 2));
  writeTinyTokenizer(dir);
  return {
    path: dir, vocabSize: shape.vocabSize, parameters: tensors.reduce((sum, t) => sum + t.values.length, 0),
    tensors: new Map(tensors.map((t) => [t.name, t.values])),
  };
}
