/** The few numbers of a finished run that stand at the end of `run` and quickstart. */
import type { RunFolder } from "../run/folder.js";
import type { RunConfig } from "../config.js";
import { reportData } from "./data.js";

export async function headline(folder: RunFolder, config: RunConfig): Promise<Record<string, unknown>> {
  const data = await reportData(folder, config);
  const overall = data.winRates.find(({ criterion, kind }) => criterion === "overall" && kind === "all")?.rate;
  return {
    conversations: data.funnel[1]?.count ?? 0,
    users: data.users.all,
    held_out_users: data.users.heldOut,
    follow_ups: Object.fromEntries(data.labels.map(({ name, count }) => [name.replace(/ /g, "_"), count])),
    pairs: Object.fromEntries(data.pairs.map(({ name, count }) => [name, count])),
    filtered: Object.fromEntries(data.filtered.map(({ name, count }) => [name.replace(/ /g, "_"), count])),
    steps: data.metrics.length,
    loss_first: data.metrics[0]?.loss ?? null,
    loss_last: data.metrics.at(-1)?.loss ?? null,
    held_out_margin_before: data.heldOut?.margin_before ?? null,
    held_out_margin_after: data.heldOut?.margin_after ?? null,
    win_rate: overall?.rate ?? null,
    win_rate_interval: overall?.interval === null || overall === undefined ? null : [overall.interval.low, overall.interval.high],
    seconds_by_stage: Object.fromEntries(data.times.map(({ name, seconds }) => [name, seconds])),
  };
}
