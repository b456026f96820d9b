/** Time by stage, and everything it takes to make the run again. */
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { ReportData, Setting } from "./types.js";

const duration = (seconds: number): string => (seconds < 90 ? `${seconds.toFixed(1)} s` : `${(seconds / 60).toFixed(1)} min`);

export function madeSection({ times, provenance, settings, version }: ReportData): Markup {
  const total = times.reduce((sum, { seconds }) => sum + seconds, 0);
  return html`<h2>How it was made</h2>
<div class="grid two"><div class="card"><h3>Time by stage</h3><table><tbody>${times.map(({ name, seconds }) => html`<tr><th scope="row">${name}</th><td class="n">${duration(seconds)}</td></tr>`)}</tbody>
<tfoot><tr><th scope="row">together</th><td class="n">${duration(total)}</td></tr></tfoot></table></div>
<div class="card"><h3>Settings that are not the defaults</h3>${settings.length === 0 ? html`<p class="soft">None.</p>` : list(settings)}</div></div>
<div class="card"><h3>Seed, data, models and prompts</h3>${list(provenance)}
<p class="soft">rlhi-native ${version}. manifest.json beside this page has every hash in full, run.yaml every setting.</p></div>`;
}

function list(items: readonly Setting[]): Markup {
  return html`<dl class="list">${items.map(({ name, value }) => html`<div><dt>${name}</dt><dd><bdi>${value}</bdi></dd></div>`)}</dl>`;
}
