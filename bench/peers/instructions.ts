/** Instructions that every contender is held to, so that a machine with better ones can stand for one without. */
import { loadAddon } from "../../lib/engine/addon.js";
import { RlhiError, UsageError } from "../../lib/errors.js";
import { pythonPeer } from "./environment.js";

export const isaNames = ["amx", "avx512-bf16", "avx512"] as const;
export type IsaName = (typeof isaNames)[number];

export interface Instructions {
  /** The path that our engine takes: one of `isaNames` where it was forced, else the machine's best. */
  name: string;
  forced: boolean;
  /** For the processes of all contenders: ours, then oneDNN's, MKL's and PyTorch's own. */
  env: Readonly<Record<string, string>>;
  /** Processors whose libraries llama.cpp must do without. */
  withoutLlamaFor: readonly string[];
}

const held: Record<IsaName, Pick<Instructions, "env" | "withoutLlamaFor">> = {
  "amx": { env: {}, withoutLlamaFor: [] },
  "avx512-bf16": {
    env: { ONEDNN_MAX_CPU_ISA: "AVX512_CORE_BF16", MKL_ENABLE_INSTRUCTIONS: "AVX512", ATEN_CPU_CAPABILITY: "avx512" },
    withoutLlamaFor: ["sapphirerapids"],
  },
  "avx512": {
    env: { ONEDNN_MAX_CPU_ISA: "AVX512_CORE_VNNI", MKL_ENABLE_INSTRUCTIONS: "AVX512", ATEN_CPU_CAPABILITY: "avx512" },
    withoutLlamaFor: ["sapphirerapids", "cooperlake", "zen4"],
  },
};

/** What the machine has, or the given path's. Throws where this machine cannot run it, and where the environment names one. */
export function instructionsOf(isa: IsaName | undefined): Instructions {
  const variable = process.env["RLHI_CPU_ISA"];
  if (variable !== undefined) {
    const todo = `unset it; --isa ${variable} holds the peers too`;
    throw new UsageError({ what: "it holds our engine alone", where: "RLHI_CPU_ISA", found: variable, todo });
  }
  const { isas, defaultIsa } = loadAddon().systemInfo();
  if (isa === undefined) return { name: defaultIsa, forced: false, env: {}, withoutLlamaFor: [] };
  if (!isas.includes(isa)) {
    const expected = `one of ${isaNames.filter((name) => isas.includes(name)).join(", ")}`;
    throw new UsageError({ what: "this machine does not have these instructions", where: "--isa", expected, found: isa });
  }
  return { name: isa, forced: true, env: { RLHI_CPU_ISA: isa, ...held[isa].env }, withoutLlamaFor: held[isa].withoutLlamaFor };
}

/** FLOP/s of PyTorch's bf16 product, held and not. */
export interface HoldCheck {
  held: number;
  free: number;
}

/** True where the held speed is plainly not that of AMX. */
export function isHeld({ held: slow, free }: HoldCheck): boolean {
  return slow < free / 2;
}

/**
 * Proof that the limits reach PyTorch: on a machine with AMX its bf16 product must lose at least half its speed under them.
 * Undefined where there is nothing to hold. Throws where they do not.
 */
export async function checkHeld({ name, forced, env }: Instructions, threads: number): Promise<HoldCheck | undefined> {
  if (!forced || name === "amx" || !loadAddon().systemInfo().features.includes("amx_bf16")) return undefined;
  const product = "nt:2048,2048,2048";
  const flops = async (limits: Readonly<Record<string, string>>): Promise<number> =>
    (await pythonPeer("torch_gemm.py", limits, "bf16", 3, threads, product))[product] as number;
  const check = { held: await flops(env), free: await flops({}) };
  if (isHeld(check)) return check;
  throw new RlhiError("ERR_NOT_HELD", {
    what: "the limits do not reach PyTorch, so the comparison would not be even", where: `--isa ${name}`,
    expected: `under half of ${check.free.toExponential(2)} FLOP/s, its bf16 product without limits`, found: check.held.toExponential(2),
  });
}
