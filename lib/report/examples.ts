/** Pairs and answers side by side, with what the user said and what is known of them. */
import type { Message } from "../conversations/types.js";
import type { PairMethod } from "../pairs/types.js";
import { clip } from "../prompts/prompt.js";
import { plural, whole } from "./format.js";
import { html } from "./html.js";
import type { Markup } from "./html.js";
import type { AnswerExample, PairExample } from "./types.js";

/** Characters of a text that stand on the page at all, and those that show before it is opened. */
const limits = { text: 6000, preview: 700, context: 2000, personaPreview: 260, earlierMessages: 8 } as const;

/** Text as it is, line by line; fenced code in a fixed-width block, its fences kept. Nothing in it is interpreted. */
export function prose(text: string): Markup {
  if (text.trim() === "") return html`<div class="text empty">(empty)</div>`;
  return html`<div class="text" dir="auto">${codeParts(text).map(({ code, part }) => (code ? html`<code>${part}</code>` : part))}</div>`;
}

function codeParts(text: string): { code: boolean; part: string }[] {
  const lines = text.split(/(?<=\n)/);
  const parts: { code: boolean; part: string }[] = [];
  let open = false;
  for (const line of lines) {
    const fence = /^\s*```/.test(line);
    const code = open || fence;
    const last = parts.at(-1);
    // A fence that opens right after a closed block begins a new one.
    if (last === undefined || last.code !== code || (fence && !open && last.code)) parts.push({ code, part: line });
    else last.part += line;
    if (fence) open = !open;
  }
  return parts;
}

/** A text that opens: its beginning shows, the whole of it (up to a limit) on demand, by mouse or keyboard. */
export function foldable(text: string, preview: number = limits.preview, limit: number = limits.text): Markup {
  const shown = clip(text, limit);
  if (shown.length <= preview * 1.3) return prose(shown);
  return html`<details class="fold"><summary><span class="text" dir="auto">${beginning(shown, preview)} …</span><span class="more">show all ${whole(text.length)} characters</span><span class="less">show less</span></summary>${prose(shown)}</details>`;
}

/** Ends after a word where there is one nearby, and never within a pair of surrogates. */
function beginning(text: string, length: number): string {
  const cut = text.slice(0, length).replace(/[\uD800-\uDBFF]$/, "");
  const space = cut.search(/\s\S*$/);
  return space > length * 0.7 ? cut.slice(0, space) : cut;
}

function context(prompt: readonly Message[], persona: string): Markup {
  const request = prompt.at(-1);
  const earlier = prompt.slice(0, -1);
  const shown = earlier.slice(-limits.earlierMessages);
  return html`${persona === "" ? "" : html`<div class="turn persona"><span class="who">persona</span>${foldable(persona, limits.personaPreview, limits.context)}</div>`}
${earlier.length === 0 ? "" : html`<details class="earlier"><summary>${plural(earlier.length, "earlier message")}${shown.length < earlier.length ? `, the last ${shown.length} here` : ""}</summary>${shown.map((m) => html`<div class="turn"><span class="who">${m.role}</span>${prose(clip(m.content, limits.context))}</div>`)}</details>`}
<div class="turn request"><span class="who">request</span>${foldable(request?.content ?? "")}</div>`;
}

const user = (id: string): Markup => html`<span class="tag">user <bdi>${id.slice(0, 8)}</bdi></span>`;
const score = (value: number | null): string => (value === null ? "" : `judged ${value.toFixed(2)}`);

interface SideText {
  title: string;
  note: string;
  text: string;
  kind: "good" | "bad" | "plain";
}

function side({ title, note, text, kind }: SideText): Markup {
  return html`<div class="side ${kind}"><h5>${title}${note === "" ? "" : html` <span class="soft">${note}</span>`}</h5>${foldable(text)}</div>`;
}

const titles: Record<PairMethod, string> = { rewrite: "user-guided rewrite", rewrite_from_scratch: "rewrite from scratch", reward: "user-based reward" };

export function pairArticle(pair: PairExample): Markup {
  const sampled = pair.candidates > 2 ? ` of ${pair.candidates}` : "";
  return html`<article class="card"><header><h4>${titles[pair.method]}</h4>${user(pair.user_id)}${pair.held_out ? html`<span class="tag">held out</span>` : ""}${pair.persona !== "" && !pair.persona_used ? html`<span class="tag">trained without persona</span>` : ""}</header>
${context(pair.prompt, pair.persona)}
${pair.follow_up === "" ? "" : html`<div class="turn feedback"><span class="who">the user's feedback on the answer they got; the rewriter and the filters see it, training never does</span>${foldable(pair.follow_up)}</div>`}
<div class="grid two sides">${side({ title: "✓ chosen", note: [score(pair.score_chosen), sampled && `best${sampled}`].filter(Boolean).join(", "), text: pair.chosen, kind: "good" })}
${side({ title: "✗ rejected", note: [score(pair.score_rejected), sampled && `worst${sampled}`].filter(Boolean).join(", "), text: pair.rejected, kind: "bad" })}</div></article>`;
}

export function answerArticle(answer: AnswerExample): Markup {
  const winner = { trained: "trained model", base: "base", tie: "tie" };
  const overall = answer.verdicts.find(({ criterion }) => criterion === "overall")?.winner;
  const kind = (which: "trained" | "base"): SideText["kind"] => (overall === undefined || overall === "tie" ? "plain" : overall === which ? "good" : "bad");
  return html`<article class="card"><header><h4>${answer.kind === "first" ? "first turn" : "follow-up"}</h4>${user(answer.user_id)}${answer.verdicts.map(({ criterion, winner: who }) => html`<span class="tag">${criterion.replace(/_/g, " ")}: <b>${winner[who]}</b></span>`)}</header>
${context(answer.prompt, answer.persona)}
<div class="grid two sides">${side({ title: "trained model", note: overall === "trained" ? "won overall" : "", text: answer.trained, kind: kind("trained") })}
${side({ title: "base model", note: overall === "base" ? "won overall" : "", text: answer.base, kind: kind("base") })}</div></article>`;
}
