/** Loss, reward margins and accuracy over the steps, and what became of pairs that were never trained on. */
import { condense, lineChart, palette } from "./charts.js";
import type { LineChart } from "./charts.js";
import { fixed, percent, plural, signed, whole } from "./format.js";
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { HeldOutPairs, MetricPoint, ReportData } from "./types.js";

interface Curve {
  title: string;
  note: string;
  value: (point: MetricPoint) => number;
  chart: Pick<LineChart, "color" | "reference" | "share">;
}

export async function trainingSection(data: ReportData): Promise<Markup> {
  const { metrics } = data;
  const heading = html`<h2>Training</h2>`;
  if (metrics.length === 0) return html`${heading}<div class="card"><p class="soft">No step is made yet.</p></div>`;
  const shown = curves(data).filter(({ value }) => metrics.some((point) => Number.isFinite(value(point))));
  const speed = median(metrics.flatMap(({ tokens_per_second }) => (tokens_per_second === null ? [] : [tokens_per_second])));
  const { size } = condense(metrics.map(({ step, loss }) => ({ x: step, y: loss })), 160);
  const cards = await Promise.all(shown.map((curve) => curveCard(curve, metrics)));
  return html`${heading}
<p class="lead">${plural(metrics.length, "optimizer step")} with the ${data.loss_type} loss${speed === null ? "" : `, ${whole(Math.round(speed))} tokens/s in the median`}. Each value is the mean over a step's own pairs, measured before its update${size === 1 ? "" : `; each point here is the mean of ${size} steps, its band reaches from the lowest to the highest`}.</p>
<div class="grid three">${cards}</div>
${heldOutCard(data.held_out)}`;
}

function curves({ loss_at_reference }: ReportData): Curve[] {
  return [
    { title: "Loss", note: loss_at_reference === null ? "lower is better" : "dashed: ln 2, where the policy still is its reference", value: (m) => m.loss, chart: { color: palette.main, reference: loss_at_reference } },
    { title: "Reward margin", note: "chosen over rejected; above 0 the model prefers what users asked for", value: (m) => m.margin, chart: { color: palette.good, reference: 0 } },
    { title: "Pairs ranked right", note: "share of pairs with a margin above 0; an untouched model has none", value: (m) => m.accuracy, chart: { color: palette.bad, reference: 0.5, share: true } },
  ];
}

async function curveCard({ title, note, value, chart }: Curve, metrics: readonly MetricPoint[]): Promise<Markup> {
  const points = metrics.map((m) => ({ x: m.step, y: value(m) }));
  const finite = points.filter(({ y }) => Number.isFinite(y));
  const [first, last] = [finite[0], finite.at(-1)];
  const write = (y: number | undefined): string => (chart.share === true ? percent(y ?? null) : fixed(y, 3));
  const label = `${title} over ${plural(metrics.length, "step")}: from ${write(first?.y)} at step ${first?.x ?? 0} to ${write(last?.y)} at step ${last?.x ?? 0}`;
  return html`<figure class="card"><figcaption><h3>${title}</h3><p class="soft">${note}</p></figcaption>${await lineChart({ label, points, ...chart })}</figure>`;
}

const row = (name: string, before: string, after: string): Markup => html`<tr><th scope="row">${name}</th><td class="n">${before}</td><td class="n">${after}</td></tr>`;

function heldOutCard(h: HeldOutPairs | null): Markup {
  if (h === null) return html`<div class="card"><h3>Pairs of held-out users</h3><p class="soft">There are none in this run: no held-out user gave a pair.</p></div>`;
  return html`<div class="card"><h3>Pairs of held-out users, never trained on</h3>
<table><thead><tr><th scope="col">${plural(h.after.pairs, "pair")}</th><th scope="col" class="n">before</th><th scope="col" class="n">after training</th></tr></thead>
<tbody>${row("loss", fixed(h.before?.loss, 4), fixed(h.after.loss, 4))}${row("reward margin", signed(h.before?.["rewards/margins"], 4), signed(h.after["rewards/margins"], 4))}${row("ranked right", percent(h.before?.["rewards/accuracies"] ?? null), percent(h.after["rewards/accuracies"]))}</tbody></table></div>`;
}

function median(values: readonly number[]): number | null {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? null;
}
