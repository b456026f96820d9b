/** The few numbers of a finished run that stand at the end of `run` and quickstart. */
import type { RunFolder } from "../run/folder.js";
import type { RunConfig } from "../config.js";
import { reportData } from "./data.js";
import type { ReportData } from "./types.js";

export async function headline(folder: RunFolder, config: RunConfig): Promise<Record<string, unknown>> {
  return headlineOf(await reportData(folder, config));
}

const key = (name: string): string => name.replace(/[ -]/g, "_");

export function headlineOf(data: ReportData): Record<string, unknown> {
  const { rate: overall, preference } = data.win_rates.find(({ criterion, kind }) => criterion === "overall" && kind === "all") ?? {};
  const interval = overall?.interval ?? null;
  return {
    conversations: data.mined?.conversations ?? 0,
    users: data.mined?.users ?? 0,
    held_out_users: data.mined?.held_out_users ?? 0,
    follow_ups: Object.fromEntries(data.labels.map(({ name, count }) => [key(name), count])),
    pairs: Object.fromEntries(data.methods.map(({ method, pairs }) => [method, pairs])),
    filtered: Object.fromEntries(data.filtered.map(({ name, count }) => [key(name), count])),
    steps: data.metrics.length,
    loss_first: data.metrics[0]?.loss ?? null,
    loss_last: data.metrics.at(-1)?.loss ?? null,
    held_out_pairs: data.held_out?.after.pairs ?? 0,
    held_out_margin_before: data.held_out?.before?.["rewards/margins"] ?? null,
    held_out_margin_after: data.held_out?.after["rewards/margins"] ?? null,
    win_rate: overall?.rate ?? null,
    win_rate_interval: interval === null ? null : [interval.low, interval.high],
    mean_preference: preference?.mean ?? null,
    order_disagreement: data.order_disagreement,
    seconds_by_stage: Object.fromEntries(data.times.map(({ name, seconds }) => [name, seconds])),
    ...engineFacts(data),
  };
}

/** How long the engine waited; nothing where no stage used it. */
function engineFacts({ engine, times }: ReportData): Record<string, unknown> {
  if (engine === null) return {};
  const { idle_share, busy_seconds, load_seconds } = engine;
  return {
    engine_idle_share: idle_share, engine_busy_seconds: busy_seconds, engine_load_seconds: load_seconds,
    engine_idle_share_by_stage: Object.fromEntries(times.flatMap(({ name, engine: ofStage }) => (ofStage === null ? [] : [[name, ofStage.idle_share]]))),
  };
}
