/**
 * npm run bench:targets: every CPU performance target in one command. The contenders of a row run in turns, each as a process of
 * its own; a row's verdict comes from the medians over the rounds. docs/benchmarks.md tells how to read it.
 */
import { loadavg } from "node:os";
import { basename } from "node:path";
import { createOutput } from "../lib/cli/output.js";
import { createProgress } from "../lib/cli/progress.js";
import { addonPath, loadAddon } from "../lib/engine/addon.js";
import { sha256File } from "../lib/files.js";
import { runCommand } from "./peers/command.js";
import { setUp } from "./peers/environment.js";
import { checkHeld, instructionsOf } from "./peers/instructions.js";
import type { HoldCheck, Instructions } from "./peers/instructions.js";
import { savePicture } from "./peers/picture.js";
import { measureRows } from "./targets/measure.js";
import { TargetsRecord } from "./targets/record.js";
import type { Settings } from "./targets/record.js";
import { rowMakers } from "./targets/rows.js";
import type { Row } from "./targets/rows.js";
import { lineOf } from "./targets/verdicts.js";

const usage = `npm run bench:targets -- [--isa amx|avx512-bf16|avx512] [--only ${Object.keys(rowMakers).join(",")}]
                            [--rounds 3] [--threads N] [--gguf MODEL.gguf] [--out DIR] [--json]

Measures the CPU performance targets against PyTorch, transformers, TRL and, with --gguf, llama.cpp (set up in .cache/peers), and prints a
table: target, measured, met or missed by how much. --isa holds every contender to those instructions and picks the targets that go with them.
--out keeps each finished row in DIR/targets.json and writes pictures beside it: the same command goes on from there, and measures again what another build, machine or
setting would change.`;

const giga = (flops: number): string => `${(flops / 1e9).toFixed(0)} GFLOP/s`;

function machine(instructions: Instructions, threads: number, held: HoldCheck | undefined): Record<string, unknown> {
  return {
    cpu: loadAddon().systemInfo().cpuModel, threads, instructions: instructions.name, "load when it began": loadavg()[0],
    "all are held by": instructions.forced ? Object.entries(instructions.env).map(([name, value]) => `${name}=${value}`).join(" ") : undefined,
    "PyTorch's bf16 product": held === undefined ? undefined : `${giga(held.held)} under these limits, ${giga(held.free)} without`,
  };
}

await runCommand(usage, Object.keys(rowMakers), async ({ only, rounds, threads, isa, gguf, out: folder, json }) => {
  const instructions = instructionsOf(isa);
  const record = new TargetsRecord(folder);
  setUp({ llama: gguf !== undefined }, instructions);
  const out = createOutput({ json });
  out.facts(machine(instructions, threads, await checkHeld(instructions, threads)), "this machine");

  const rows = only.flatMap((name) => (rowMakers[name] as (typeof rowMakers)[string])({ threads, gguf, instructions }));
  const base = { instructions: instructions.name, threads, rounds, cpu: loadAddon().systemInfo().cpuModel, addon: await sha256File(addonPath()) };
  const settingsOf = ({ measurement }: Row): Settings =>
    ({ ...base, gguf: gguf !== undefined && measurement.contenders.some(({ name }) => name.startsWith("llama.cpp")) ? basename(gguf) : null });
  const { verdicts, single, failures } = await measureRows(rows, rounds, settingsOf, record, createProgress());
  out.table(verdicts.map((verdict) => (json ? { ...verdict } : lineOf(verdict))), "targets");
  for (const line of failures) out.text(line);
  if (folder !== undefined) for (const result of single) await savePicture(folder, result);
});
