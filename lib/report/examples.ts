/** Pairs and answers side by side, with what the user said and what is known of them. */
import type { Message } from "../conversations/types.js";
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { AnswerExample, PairExample } from "./types.js";

function context(prompt: readonly Message[], persona: string): Markup {
  const last = prompt.at(-1);
  const earlier = prompt.slice(0, -1);
  return html`${persona === "" ? "" : html`<details><summary>persona</summary><p class="text">${persona}</p></details>`}
${earlier.length === 0 ? "" : html`<details><summary>${earlier.length} earlier message${earlier.length === 1 ? "" : "s"}</summary>${earlier.map((m) => html`<div class="turn"><span class="small">${m.role}</span><p class="text">${m.content}</p></div>`)}</details>`}
<div class="turn"><span class="small">request</span><p class="text">${last?.content}</p></div>`;
}

const score = (value: number | null): string => (value === null ? "" : ` (judge: ${value.toFixed(2)} of 9)`);

export function pairArticle(pair: PairExample): Markup {
  return html`<article><span class="tag">${pair.method.replace(/_/g, " ")}</span><span class="tag">user ${pair.user.slice(0, 8)}</span>
${context(pair.prompt, pair.persona)}
${pair.followUp === "" ? "" : html`<div class="quote"><span class="small soft">the user's feedback, never part of the training context</span><p class="text">${pair.followUp}</p></div>`}
<div class="grid"><div class="side good"><span class="small soft">chosen${score(pair.scoreChosen)}</span><p class="text">${pair.chosen}</p></div>
<div class="side bad"><span class="small soft">rejected${score(pair.scoreRejected)}</span><p class="text">${pair.rejected}</p></div></div></article>`;
}

export function answerArticle(answer: AnswerExample): Markup {
  return html`<article><span class="tag">${answer.kind === "first" ? "first turn" : "follow-up"}</span><span class="tag">user ${answer.user.slice(0, 8)}</span>${answer.verdicts.map(({ criterion, winner }) => html`<span class="tag">${criterion.replace(/_/g, " ")}: ${winner}</span>`)}
${context(answer.prompt, answer.persona)}
<div class="grid"><div class="side"><span class="small soft">trained model</span><p class="text">${answer.trained}</p></div>
<div class="side"><span class="small soft">base model</span><p class="text">${answer.base}</p></div></div></article>`;
}
