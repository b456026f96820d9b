/** Time by stage, and everything it takes to make the run again. */
import { html } from "./html.js";
import type { Markup } from "./html.js";
import { percent } from "./format.js";
import type { ReportData, Setting, StageTimes } from "./types.js";

const duration = (seconds: number): string => (seconds < 90 ? `${seconds.toFixed(1)} s` : `${(seconds / 60).toFixed(1)} min`);

export function madeSection({ times, engine, provenance, settings, version }: ReportData): Markup {
  return html`<h2>How it was made</h2>
<div class="grid two">${timesCard(times, engine)}
<div class="card"><h3>Settings that are not the defaults</h3>${settings.length === 0 ? html`<p class="soft">None.</p>` : list(settings)}</div></div>
<div class="card"><h3>Seed, data, models and prompts</h3>${list(provenance)}
<p class="soft">rlhi-native ${version}. manifest.json beside this page has every hash in full, run.yaml every setting.</p></div>`;
}

/** The engine's columns stand where it was used: with endpoints alone there is none to wait. */
function timesCard(times: readonly StageTimes[], engine: ReportData["engine"]): Markup {
  const total = times.reduce((sum, { seconds }) => sum + seconds, 0);
  const idle = (of: ReportData["engine"]): Markup | string => (engine === null ? "" : html`<td class="n">${of === null ? "" : percent(of.idle_share, 1)}</td>`);
  const head = engine === null ? "" : html`<thead><tr><th scope="col">stage</th><th scope="col" class="n">time</th><th scope="col" class="n">engine idle</th></tr></thead>`;
  const note = engine === null ? "" : html`<p class="soft">Idle: the share of a stage's time in which the engine had no work, ${duration(engine.load_seconds)} of loading models left out.</p>`;
  return html`<div class="card"><h3>Time by stage</h3><table>${head}<tbody>${times.map(({ name, seconds, engine: of }) => html`<tr><th scope="row">${name}</th><td class="n">${duration(seconds)}</td>${idle(of)}</tr>`)}</tbody>
<tfoot><tr><th scope="row">together</th><td class="n">${duration(total)}</td>${idle(engine)}</tr></tfoot></table>${note}</div>`;
}

function list(items: readonly Setting[]): Markup {
  return html`<dl class="list">${items.map(({ name, value }) => html`<div><dt>${name}</dt><dd><bdi>${value}</bdi></dd></div>`)}</dl>`;
}
