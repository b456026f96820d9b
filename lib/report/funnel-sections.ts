/** From conversations to pairs: what came in, what each step kept, and why the rest went. */
import { pairArticle } from "./examples.js";
import { percent, plural, whole } from "./format.js";
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { Count, ReportData } from "./types.js";

interface Bar {
  name: string;
  count: number;
  note?: string | undefined;
  /** Parts of the bar, from the left; default: one part, `count` long. */
  parts?: { count: number; kind: "main" | "rules" | "light" | "gone" }[];
}

/** Bars on one scale; their lengths are decoration, the numbers stand beside them. */
function bars(items: readonly Bar[], most = Math.max(1, ...items.map(({ count }) => count))): Markup {
  return html`<ul class="bars">${items.map(({ name, count, note, parts }) => html`<li><span class="name">${name}${note === undefined ? "" : html` <span class="soft">${note}</span>`}</span><b>${whole(count)}</b>
<span class="track" aria-hidden="true">${(parts ?? [{ count, kind: "main" as const }]).filter((part) => part.count > 0).map((part) => html`<i class="${part.kind}" style="width:${((100 * part.count) / most).toFixed(2)}%"></i>`)}</span></li>`)}</ul>`;
}

function countCard(title: string, counts: readonly Count[], nothing: string): Markup {
  return html`<div class="card"><h3>${title}</h3>${counts.length === 0 ? html`<p class="soft">${nothing}</p>` : bars(counts.map(({ name, count }) => ({ name, count, parts: [{ count, kind: "gone" as const }] })))}</div>`;
}

const share = (part: number, of: number): string | undefined => (of === 0 ? undefined : percent(part / of));

export function funnelSection(data: ReportData): Markup {
  const { mined, methods } = data;
  const sets = methods.reduce((sum, m) => sum + m.sets, 0);
  const pairs = methods.reduce((sum, m) => sum + m.pairs, 0);
  const held_out = methods.reduce((sum, m) => sum + m.held_out, 0);
  const steps: [string, Bar[]][] = [
    ["Conversations", mined === null ? [] : [{ name: "read", count: mined.read }, { name: "kept", count: mined.conversations, note: share(mined.conversations, mined.read) }]],
    ["Follow-ups in them", mined === null ? [] : [{ name: "all", count: mined.follow_ups }, { name: "with feedback to learn from", count: data.used_follow_ups, note: share(data.used_follow_ups, mined.follow_ups) }]],
    ["Sets of answers", sets === 0 && pairs === 0 ? [] : [{ name: "made", count: sets }, { name: "became a pair", count: pairs, note: share(pairs, sets) }, { name: "trained on", count: pairs - held_out, note: `${whole(held_out)} held out` }]],
  ];
  return html`<h2>From conversations to pairs</h2>
<p class="lead">What came in and what each step kept. Nothing is dropped without being counted.</p>
<ol class="funnel">${steps.map(([title, items]) => html`<li class="card"><h3>${title}</h3>${items.length === 0 ? html`<p class="soft">Not there yet.</p>` : bars(items)}</li>`)}</ol>
<div class="grid two">${countCard("Conversations dropped while mining", data.dropped, "None.")}${countCard("Sets of answers filtered out", data.filtered, "None.")}</div>`;
}

const meanings: Record<string, string> = {
  "new request": "an unrelated or next task",
  "reattempt with feedback": "wants the answer again and says what to change",
  "reattempt without feedback": "wants the same again, without a reason",
  "positive feedback": "thanks or praises",
  "clarification": "answers the model's question, or asks about its answer",
  "other": "anything else",
  "left open": "the classifier was not sure enough",
};

export function labelSection({ labels }: ReportData): Markup {
  const rules = labels.reduce((sum, l) => sum + l.rules, 0);
  const model = labels.reduce((sum, l) => sum + l.model, 0);
  return html`<h2>What follow-ups say</h2>
<p class="lead">Every message of a user after an answer, by what it does.</p>
${labels.length === 0 ? html`<div class="card"><p class="soft">No follow-up is labelled yet.</p></div>` : html`<div class="card">
<p class="legend"><span><i class="rules" aria-hidden="true"></i>decided by rules (${whole(rules)})</span> <span><i class="main" aria-hidden="true"></i>by the chat model (${whole(model)})</span></p>
${bars(labels.map((l) => ({ name: l.name, count: l.count, note: meanings[l.name], parts: [{ count: l.rules, kind: "rules" as const }, { count: l.model, kind: "main" as const }] })))}</div>`}`;
}

export function pairSection(data: ReportData): Markup {
  const { methods, pair_examples } = data;
  return html`<h2>Preference pairs</h2>
<p class="lead">Two answers to the same request, one preferred. In a rewrite, the preferred answer was made with the user's own feedback; in a reward, it is the best of several answers in the eyes of a judge who knows the user.</p>
<div class="card">${methods.length === 0 ? html`<p class="soft">No pair is made yet.</p>` : html`<p class="legend"><span><i class="main" aria-hidden="true"></i>pairs</span> <span><i class="light" aria-hidden="true"></i>sets of answers that gave none</span></p>
${bars(methods.map((m) => ({ name: m.name, count: m.pairs, note: `of ${plural(m.sets, "set")}; ${whole(m.held_out)} held out`, parts: [{ count: m.pairs, kind: "main" as const }, { count: m.sets - m.pairs, kind: "light" as const }] })), Math.max(1, ...methods.map((m) => Math.max(m.sets, m.pairs))))}`}</div>
${pair_examples.length === 0 ? "" : html`<h3 class="examples">${pair_examples.length === 1 ? "One of them" : `${pair_examples.length} of them, chosen by a hash`}</h3>
${pair_examples.map(pairArticle)}`}`;
}
