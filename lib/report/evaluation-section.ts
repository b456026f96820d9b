/** The trained model against its base: win rates with their intervals, and some answers side by side. */
import type { Mean, WinRate } from "../eval/statistics.js";
import { answerArticle } from "./examples.js";
import { percent, plural } from "./format.js";
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { ReportData } from "./types.js";

const kindNames: Record<string, string> = { all: "all turns", first: "first turns", follow_up: "follow-ups" };

export function evaluationSection(data: ReportData): Markup {
  const heading = html`<h2>Trained model against its base</h2>`;
  const rows = data.win_rates.filter(({ rate }) => rate.rate !== null);
  if (rows.length === 0) return html`${heading}<div class="card"><p class="soft">Not evaluated yet.</p></div>`;
  const criteria = [...new Set(rows.map(({ criterion }) => criterion))];
  return html`${heading}
<p class="lead">${plural(data.eval_requests, "real request")} of ${plural(data.eval_users, "user")} that training never saw; both models were given the persona. A judge compared the answers in both orders and by each criterion; where the order decided, it is a tie${data.order_disagreement === null ? "" : ` (${percent(data.order_disagreement)} of the comparisons)`}.</p>
${verdict(data)}
<div class="card"><table class="rates">
<thead><tr><th scope="col">turns</th><th scope="col"><span class="scale"><span>0 %</span><span>50 %</span><span>100 %</span></span></th><th scope="col" class="n">won, 95 % interval</th></tr></thead>
${criteria.map((criterion) => html`<tbody><tr><th scope="rowgroup" colspan="3">${criterion.replace(/_/g, " ")}</th></tr>${rows.filter((r) => r.criterion === criterion).map(({ kind, rate, preference }) => rateRow(kind, rate, preference))}</tbody>`)}
</table>
<p class="soft">Share of comparisons won by the trained model, ties as half. Intervals by bootstrap over users; none for fewer than two users. The preference is the mean probability the judge gave the trained model's answer, both orders averaged.</p></div>
${data.answer_examples.length === 0 ? "" : html`<h3 class="examples">${data.answer_examples.length === 1 ? "One comparison" : `${data.answer_examples.length} comparisons, chosen by a hash`}</h3>
${data.answer_examples.map(answerArticle)}`}`;
}

/** What the interval allows to say. */
function verdict({ win_rates, order_disagreement }: ReportData): Markup {
  const overall = win_rates.find((w) => w.criterion === "overall" && w.kind === "all")?.rate;
  if (overall === undefined || overall.rate === null) return html``;
  const { interval } = overall;
  const text = order_disagreement !== null && order_disagreement > 0.8 ? `The judge cannot tell these answers apart: in ${percent(order_disagreement)} of the comparisons it named whichever stood in the same place. A stronger one (models.judge) could.`
    : interval === null ? "Too few users to tell the models apart."
      : interval.low > 0.5 ? "The trained model is preferred: the interval of the overall win rate lies above 50\u00a0%."
        : interval.high < 0.5 ? "The base model is preferred: the interval of the overall win rate lies below 50\u00a0%."
          : "No difference is shown: the interval of the overall win rate includes 50\u00a0%. More requests of more users would narrow it.";
  return html`<p class="verdict">${text}</p>`;
}

const at = (x: number): string => `${(100 * x).toFixed(1)}%`;

function rateRow(kind: string, { rate, interval, wins, ties, losses }: WinRate, preference: Mean | null): Markup {
  const range = interval === null ? "" : html`<i class="range" style="left:${at(interval.low)};width:${at(interval.high - interval.low)}"></i>`;
  return html`<tr><th scope="row">${kindNames[kind] ?? kind}</th>
<td><span class="forest ${kind === "all" ? "strong" : ""}" aria-hidden="true">${range}<i class="dot" style="left:${at(rate ?? 0)}"></i></span></td>
<td class="n"><b>${percent(rate)}</b>${interval === null ? "" : html` <span class="nowrap">${percent(interval.low)} to ${percent(interval.high)}</span>`}<br><span class="soft">${wins} won, ${ties} tied, ${losses} lost${preference === null || preference.mean === null ? "" : html`<br>preference ${percent(preference.mean, 1)}`}</span></td></tr>`;
}
