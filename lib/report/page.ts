/** The report: one self-contained page, no scripts, nothing fetched. */
import { lineChart, palette, rateChart } from "./charts.js";
import { html, trusted } from "./html.js";
import type { Markup } from "./html.js";
import { answerArticle, pairArticle } from "./examples.js";
import { style } from "./style.js";
import type { Count, ReportData } from "./types.js";

export async function renderPage(data: ReportData): Promise<string> {
  const sections = [figures(data), funnelSection(data), labelSection(data), pairSection(data), await trainingSection(data), await evaluationSection(data), timesSection(data)];
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${data.name}: rlhi-native report</title>
<style>${trusted(style)}</style>
</head>
<body>
<main>
<header>
<h1>From conversations to a personal model</h1>
<p class="soft">Run <b>${data.name}</b> on ${data.model}. Finished ${data.finished}.</p>
</header>
${sections}
</main>
</body>
</html>
`;
  return page.text;
}

export const percent = (x: number | null, digits = 0): string => (x === null ? "–" : `${(100 * x).toFixed(digits)} %`);
const fixed = (x: number | null | undefined, digits: number): string => (x === null || x === undefined || !Number.isFinite(x) ? "–" : x.toFixed(digits));
const whole = (n: number): string => n.toLocaleString("en-US");
const sum = (counts: readonly Count[]): number => counts.reduce((total, { count }) => total + count, 0);

function figures(data: ReportData): Markup {
  const overall = data.winRates.find((w) => w.criterion === "overall" && w.kind === "all")?.rate;
  const interval = overall?.interval;
  const first = data.metrics[0];
  const last = data.metrics.at(-1);
  const items: [string, string, string][] = [
    ["users", whole(data.users.all), `${whole(data.users.heldOut)} held out for evaluation`],
    ["preference pairs", whole(sum(data.pairs)), data.pairs.map(({ name, count }) => `${whole(count)} by ${name}`).join(", ")],
    ["training loss", first === undefined ? "–" : `${fixed(first.loss, 3)} → ${fixed(last?.loss, 3)}`, `${data.metrics.length} steps; ln 2 = 0.693 at the start`],
    ["reward margin, held-out pairs", fixed(data.heldOut?.margin_after, 3), data.heldOut === null ? "no pair of a held-out user" : `${data.heldOut.pairs} pairs; ${fixed(data.heldOut.margin_before, 3)} before training`],
    ["won against the base", percent(overall?.rate ?? null), interval ? `95 % interval ${percent(interval.low)} to ${percent(interval.high)}, ${data.evalRequests} requests` : `${data.evalRequests} requests of too few users for an interval`],
  ];
  return html`<div class="figures">${items.map(([name, value, note]) => html`<div class="figure"><span class="small soft">${name}</span><b>${value}</b><span class="small soft">${note}</span></div>`)}</div>`;
}

function bars(counts: readonly Count[]): Markup {
  const most = Math.max(1, ...counts.map(({ count }) => count));
  return html`<div class="bars">${counts.map(
    ({ name, count, detail }) => html`<span>${name}${detail === undefined ? "" : html` <span class="small soft">${detail}</span>`}</span><span><i style="width:${((100 * count) / most).toFixed(1)}%"></i></span><b>${whole(count)}</b>`,
  )}</div>`;
}

function funnelSection(data: ReportData): Markup {
  return html`<h2>From conversations to pairs</h2>
<p class="soft">What came in, and what each step kept. Nothing is dropped without being counted.</p>
<div class="grid"><div class="card"><h3>Kept</h3>${bars(data.funnel)}</div>
<div class="card"><h3>Dropped while mining</h3>${data.dropped.length === 0 ? html`<p class="soft">Nothing.</p>` : bars(data.dropped)}</div></div>`;
}

function labelSection(data: ReportData): Markup {
  const most = Math.max(1, ...data.labels.map(({ count }) => count));
  const part = (n: number): string => ((100 * n) / most).toFixed(1);
  return html`<h2>What follow-ups say</h2>
<p class="soft">Every message after a user's first, by what it does. <span class="key rules"></span>decided by rules <span class="key"></span>by the model</p>
<div class="card"><div class="bars">${data.labels.map(
    ({ name, count, rules, model }) =>
      html`<span>${name}</span><span class="stack">${rules > 0 ? html`<i class="rules" style="width:${part(rules)}%"></i>` : ""}${model > 0 ? html`<i style="width:${part(model)}%"></i>` : ""}</span><b>${whole(count)}</b>`,
  )}</div></div>`;
}

function pairSection(data: ReportData): Markup {
  return html`<h2>Preference pairs</h2>
<div class="grid"><div class="card"><h3>Made, by method</h3>${data.pairs.length === 0 ? html`<p class="soft">None.</p>` : bars(data.pairs)}</div>
<div class="card"><h3>Filtered out, by reason</h3>${data.filtered.length === 0 ? html`<p class="soft">Nothing.</p>` : bars(data.filtered)}</div></div>
${data.pairExamples.length === 0 ? "" : html`<h3 style="margin-top:22px">Some of them</h3>${data.pairExamples.map(pairArticle)}`}`;
}

async function trainingSection(data: ReportData): Promise<Markup> {
  if (data.metrics.length === 0) return html`<h2>Training</h2><p class="soft">No step was made.</p>`;
  const line = (name: string, color: string, value: (m: ReportData["metrics"][number]) => number) => ({ name, color, points: data.metrics.map((m) => ({ x: m.step, y: value(m) })) });
  const speeds = data.metrics.flatMap((m) => (m.tokensPerSecond === null ? [] : [m.tokensPerSecond])).sort((a, b) => a - b);
  const charts: [string, Markup][] = [
    ["Loss (dashed: ln 2, where the policy is its reference)", await lineChart("training loss by step", "step", [line("loss", palette.main, (m) => m.loss)], { y: Math.LN2, name: "ln 2" })],
    ["Reward margin, chosen over rejected", await lineChart("reward margin by step", "step", [line("margin", palette.good, (m) => m.margin)], { y: 0, name: "0" })],
    ["Share of pairs ranked right", await lineChart("reward accuracy by step", "step", [line("accuracy", palette.bad, (m) => m.accuracy)], { y: 0.5, name: "half" })],
  ];
  const h = data.heldOut;
  return html`<h2>Training</h2>
<p class="soft">${data.metrics.length} optimizer steps${speeds.length === 0 ? "" : `, median ${whole(Math.round(speeds[Math.floor(speeds.length / 2)] ?? 0))} tokens/s`}. Each point is the mean over a step's own pairs, measured before its update.</p>
<div class="grid">${charts.map(([title, chart]) => html`<div class="card"><h3>${title}</h3>${chart}</div>`)}
<div class="card"><h3>Pairs of held-out users (never trained on)</h3>${
    h === null
      ? html`<p class="soft">There are none in this run.</p>`
      : html`<table><tr><th></th><th class="n">before</th><th class="n">after</th></tr><tr><td>loss</td><td class="n">${fixed(h.loss_before, 4)}</td><td class="n">${fixed(h.loss_after, 4)}</td></tr><tr><td>reward margin</td><td class="n">${fixed(h.margin_before, 4)}</td><td class="n">${fixed(h.margin_after, 4)}</td></tr><tr><td>ranked right</td><td class="n"></td><td class="n">${percent(h.accuracy_after)}</td></tr></table><p class="small soft">${h.pairs} pairs.</p>`
  }</div></div>`;
}

const kindNames: Record<string, string> = { all: "all turns", first: "first turns", follow_up: "follow-ups" };

async function evaluationSection(data: ReportData): Promise<Markup> {
  const rows = data.winRates.filter(({ rate }) => rate.rate !== null);
  if (rows.length === 0) return html`<h2>Trained model against its base</h2><p class="soft">Not evaluated.</p>`;
  const chart = await rateChart("win rates of the trained model with 95 percent intervals", rows.map(({ criterion, kind, rate }) => ({ name: criterion.replace(/_/g, " "), group: kindNames[kind] ?? kind, rate: rate.rate ?? 0, interval: rate.interval })));
  return html`<h2>Trained model against its base</h2>
<p class="soft">Real requests of users that training never saw, the persona given to both models. A judge compared the answers in both orders; where the order decided, it is a tie${data.orderDisagreement === null ? "" : ` (${percent(data.orderDisagreement)} of comparisons)`}. Intervals resample users.</p>
<div class="grid"><div class="card">${chart}</div>
<div class="card"><table><tr><th>criterion</th><th>turns</th><th class="n">won</th><th class="n">tied</th><th class="n">lost</th><th class="n">rate</th><th class="n">95 % interval</th></tr>${rows.map(
    ({ criterion, kind, rate }) =>
      html`<tr><td>${criterion.replace(/_/g, " ")}</td><td>${kindNames[kind] ?? kind}</td><td class="n">${rate.wins}</td><td class="n">${rate.ties}</td><td class="n">${rate.losses}</td><td class="n">${percent(rate.rate)}</td><td class="n">${rate.interval === null ? "–" : `${percent(rate.interval.low)} to ${percent(rate.interval.high)}`}</td></tr>`,
  )}</table></div></div>
${data.answerExamples.length === 0 ? "" : html`<h3 style="margin-top:22px">Some answers</h3>${data.answerExamples.map(answerArticle)}`}`;
}

function timesSection(data: ReportData): Markup {
  const minutes = (s: number): string => (s < 90 ? `${s.toFixed(1)} s` : `${(s / 60).toFixed(1)} min`);
  return html`<h2>How it was made</h2>
<div class="grid"><div class="card"><h3>Time by stage</h3><table>${data.times.map(({ name, seconds }) => html`<tr><td>${name}</td><td class="n">${minutes(seconds)}</td></tr>`)}</table></div>
<div class="card"><h3>To make it again</h3><table>${data.provenance.map(({ name, value }) => html`<tr><td class="soft">${name}</td><td style="overflow-wrap:anywhere">${value}</td></tr>`)}</table>
<p class="small soft">rlhi-native ${data.version}; manifest.json beside this page has every hash.</p></div></div>`;
}
