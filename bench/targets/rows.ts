/** The CPU performance targets: what each row measures, and what its figures must reach. */
import type { Dtype } from "../../lib/engine/addon.js";
import { decoding, forward, generation, largeForward, largeLayer, products, secondCore, training } from "../peers/measurements.js";
import type { Dtypes, Setting } from "../peers/measurements.js";
import type { Measurement } from "../peers/rounds.js";

export interface Criterion {
  /**
   * share: of the machine's limit, measured in the same run; ratio: to the fastest peer; both at least `target`.
   * memory ratio: our fastest's peak memory to the fastest peer's; memory: our fastest's, in bytes; both at most `target`.
   */
  kind: "share" | "ratio" | "memory ratio" | "memory";
  target: number;
}

export interface Row {
  measurement: Measurement;
  /** Of every part of it. */
  criteria: readonly Criterion[];
}

const share = (target: number): Criterion => ({ kind: "share", target });
const ratio = (target: number): Criterion => ({ kind: "ratio", target });
const memory = (target: number): Criterion => ({ kind: "memory", target });
const halfTheMemory: Criterion = { kind: "memory ratio", target: 0.5 };

/** With AMX, bf16 is the type to compute in; without, it is a way to store and f32 the type of the FMA peak. */
function columnOf(isa: string): { amx: boolean; tiles: boolean } {
  return { amx: isa === "amx", tiles: isa === "amx" || isa === "avx512-bf16" };
}

type RowMaker = (setting: Setting) => Row[];

/** By the names that --only takes. */
export const rowMakers: Readonly<Record<string, RowMaker>> = {
  "gemm": (setting) => {
    const { amx, tiles } = columnOf(setting.instructions.name);
    const dtypes: Dtypes = tiles ? { ours: ["bf16"], peers: amx ? ["bf16"] : ["bf16", "f32"] } : { ours: ["f32"], peers: ["f32"] };
    const criteria = amx ? [share(0.65), ratio(2)] : [share(0.85), ratio(1.15)];
    return (["small", "large"] as const).map((size) => ({ measurement: products(size, dtypes, setting), criteria }));
  },
  "train": (setting) => trainingRow(256, 256, ["bf16", "f32"], setting),
  // Without AMX TRL's bf16 takes more than twice the time of its f32, as the row before shows, and here many minutes.
  "train-long": (setting) => trainingRow(700, 300, columnOf(setting.instructions.name).amx ? ["bf16", "f32"] : ["f32"], setting),
  "forward": (setting) => {
    const { amx } = columnOf(setting.instructions.name);
    const dtypes: Dtypes = amx ? { ours: ["bf16"], peers: ["bf16"] } : { ours: ["bf16", "f32"], peers: ["f32"] };
    return [{ measurement: forward(dtypes, setting), criteria: [ratio(amx ? 8 : 1.6)] }];
  },
  "generate-16": (setting) => generationRow(16, setting),
  "generate-64": (setting) => generationRow(64, setting),
  "generate-1": (setting) => [{ measurement: decoding(setting), criteria: [share(0.85)] }],
  "8b-layer": (setting) => [{ measurement: largeLayer(setting), criteria: [share(largeShare(setting))] }],
  "8b-forward": (setting) => [{ measurement: largeForward(setting), criteria: [share(largeShare(setting)), memory(24e9)] }],
  "second-core": (setting) => [{ measurement: secondCore(setting), criteria: [ratio(1.95)] }],
};

function trainingRow(prompt: number, answer: number, peers: readonly Dtype[], setting: Setting): Row[] {
  const { amx } = columnOf(setting.instructions.name);
  const measurement = training({ prompt, answer }, { ours: amx ? ["bf16"] : ["bf16", "f32"], peers }, setting);
  return [{ measurement, criteria: [...(amx ? [ratio(8)] : [ratio(2.5), share(0.57)]), halfTheMemory] }];
}

function generationRow(sequences: number, setting: Setting): Row[] {
  return [{ measurement: generation(sequences, { ours: ["bf16"], peers: ["bf16", "f32"] }, setting), criteria: [ratio(4)] }];
}

/** As the products' share, less ten points for what is not a product. */
function largeShare(setting: Setting): number {
  return columnOf(setting.instructions.name).amx ? 0.55 : 0.75;
}
