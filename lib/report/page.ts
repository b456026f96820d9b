/** The report: one self-contained page, no scripts, nothing fetched. */
import { evaluationSection } from "./evaluation-section.js";
import { fixed, percent, plural, signed, whole } from "./format.js";
import { funnelSection, labelSection, pairSection } from "./funnel-sections.js";
import { html, trusted } from "./html.js";
import type { Markup } from "./html.js";
import { madeSection } from "./made-section.js";
import { style } from "./style.js";
import { trainingSection } from "./training-section.js";
import type { ReportData } from "./types.js";

/** Section ids and their names in the table of contents. */
const contents = [["funnel", "Funnel"], ["labels", "Feedback"], ["pairs", "Pairs"], ["training", "Training"], ["evaluation", "Evaluation"], ["made", "How it was made"]] as const;

export async function renderPage(data: ReportData): Promise<string> {
  const sections = [funnelSection(data), labelSection(data), pairSection(data), await trainingSection(data), evaluationSection(data), madeSection(data)];
  // Nothing may load or run, whatever a text of the data tried.
  const policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>${data.name}: rlhi-native report</title>
<style>${trusted(style)}</style>
</head>
<body>
<header class="top"><div class="wrap">
<p class="kicker">rlhi-native report</p>
<h1>From conversations to a personal model</h1>
<p class="soft">Run <b><bdi>${data.name}</bdi></b>, model <b><bdi>${data.model}</bdi></b>, ${data.finished}</p>
<nav aria-label="Sections">${contents.map(([id, name]) => html`<a href="#${id}">${name}</a>`)}</nav>
</div></header>
<main class="wrap">
${figures(data)}
${contents.map(([id], i) => html`<section id="${id}">
${sections[i]}
</section>
`)}</main>
</body>
</html>
`;
  return page.text;
}

interface Figure {
  name: string;
  value: string;
  note: string;
}

function figures(data: ReportData): Markup {
  const items = [usersFigure(data), pairsFigure(data), lossFigure(data), marginFigure(data), winsFigure(data)];
  return html`<dl class="figures">${items.map(({ name, value, note }) => html`<div class="figure"><dt>${name}</dt><dd class="value">${value}</dd><dd class="note">${note}</dd></div>`)}</dl>`;
}

function usersFigure({ mined }: ReportData): Figure {
  if (mined === null) return { name: "users", value: "–", note: "nothing mined yet" };
  return { name: "users", value: whole(mined.users), note: `${plural(mined.conversations, "conversation")}; ${plural(mined.held_out_users, "user")} held out` };
}

function pairsFigure({ methods }: ReportData): Figure {
  const pairs = methods.reduce((sum, m) => sum + m.pairs, 0);
  return { name: "preference pairs", value: whole(pairs), note: methods.map((m) => `${whole(m.pairs)} by ${m.name}`).join(", ") || "none made yet" };
}

function lossFigure({ metrics, loss_at_reference }: ReportData): Figure {
  const first = metrics[0];
  if (first === undefined) return { name: "training loss", value: "–", note: "not trained yet" };
  const value = metrics.length === 1 ? fixed(first.loss, 3) : `${fixed(first.loss, 3)} → ${fixed(metrics.at(-1)?.loss, 3)}`;
  return { name: "training loss", value, note: `${plural(metrics.length, "step")}${loss_at_reference === null ? "" : `; ${fixed(loss_at_reference, 3)} at the start by definition`}` };
}

function marginFigure({ held_out }: ReportData): Figure {
  if (held_out === null) return { name: "margin, unseen users", value: "–", note: "no pair of a held-out user" };
  return { name: "margin, unseen users", value: signed(held_out.after["rewards/margins"], 3), note: `reward margin on ${plural(held_out.after.pairs, "held-out pair")}; ${signed(held_out.before?.["rewards/margins"], 3)} before training` };
}

function winsFigure({ win_rates, eval_requests }: ReportData): Figure {
  const rate = win_rates.find((w) => w.criterion === "overall" && w.kind === "all")?.rate;
  if (rate === undefined) return { name: "won against the base", value: "–", note: "not evaluated yet" };
  const { interval } = rate;
  return {
    name: "won against the base",
    value: percent(rate.rate),
    note: interval === null ? `${plural(eval_requests, "request")}; too few users for an interval` : `95 % interval ${percent(interval.low)} to ${percent(interval.high)}; ${plural(eval_requests, "request")}`,
  };
}
