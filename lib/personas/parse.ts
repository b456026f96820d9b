/** A persona from what a model wrote; every preference must point at a conversation that the model was shown. */
import { parseJsonLoosely } from "../text/json.js";
import { personaPrompt } from "../prompts/persona.js";
import { oneLine, words } from "./render.js";
import type { Persona } from "./types.js";

export interface ParsedPersona {
  persona: Persona;
  /** Preferences left out: without a value, or without a conversation that was shown as evidence. */
  dropped: number;
}

const maxPreferences = 12;
const maxSummaryWords = 80;
const maxValueWords = 30;

/** undefined where the text holds neither a summary nor a preference that counts. `ids`: conversation by shown name. */
export function parsePersona(text: string, ids: ReadonlyMap<string, string>): ParsedPersona | undefined {
  const value = parseJsonLoosely(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const given = value as { summary?: unknown; preferences?: unknown };
  const summary = plain(given.summary, maxSummaryWords);
  const listed = Array.isArray(given.preferences) ? given.preferences : [];
  const preferences: Persona["preferences"] = [];
  let dropped = 0;
  for (const item of listed) {
    const preference = readPreference(item, ids);
    const known = preference !== undefined && preferences.some((p) => p.dimension === preference.dimension && p.value === preference.value);
    if (preference === undefined || known || preferences.length === maxPreferences) dropped += 1;
    else preferences.push(preference);
  }
  return summary === "" && preferences.length === 0 ? undefined : { persona: { summary, preferences }, dropped };
}

function readPreference(item: unknown, ids: ReadonlyMap<string, string>): Persona["preferences"][number] | undefined {
  if (typeof item !== "object" || item === null) return undefined;
  const { dimension, value, evidence } = item as Record<string, unknown>;
  const preference = { dimension: plain(dimension, 6), value: plain(value, maxValueWords), evidence: conversationOf(evidence, ids) };
  return preference.dimension === "" || preference.value === "" || preference.evidence === undefined ? undefined : { ...preference, evidence: preference.evidence };
}

/** The first conversation named: as it was shown ("C2", "conversation C2", ["C2"]) or by its id. */
function conversationOf(evidence: unknown, ids: ReadonlyMap<string, string>): string | undefined {
  const text = (Array.isArray(evidence) ? evidence : [evidence]).filter((part) => typeof part === "string" || typeof part === "number").join(" ");
  const named = /\bC\s?(\d+)\b/i.exec(text)?.[1];
  if (named !== undefined) return ids.get(`C${Number(named)}`);
  return [...ids.values()].find((id) => text.trim() === id);
}

function plain(value: unknown, maxWords: number): string {
  if (typeof value !== "string" && typeof value !== "number") return "";
  const text = words(oneLine(String(value))).slice(0, maxWords).join(" ");
  return isEcho(text) || isLoop(text) ? "" : text;
}

const echoLength = 5;
const instructions = new Set(runs(personaPrompt.render({ history: "" }).map(({ content }) => content).join("\n"), echoLength));

/** Small models repeat what they were told to write: runs of words that stand in the prompt. */
function isEcho(text: string): boolean {
  return runs(text, echoLength).some((run) => instructions.has(run));
}

/** They also go in circles: most of the text's word triples occur more than once. */
function isLoop(text: string): boolean {
  const triples = runs(text, 3);
  return triples.length >= 10 && new Set(triples).size < 0.6 * triples.length;
}

function runs(text: string, length: number): string[] {
  const all = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return all.slice(length - 1).map((_, index) => all.slice(index, index + length).join(" "));
}

/** A persona of only a summary, from a text that is no JSON: its first sentences. null where nothing readable is left. */
export function summaryOnly(text: string): Persona | null {
  const prose = oneLine(text.replace(/```\w*/g, " ").replace(/"?\b(summary|preferences|dimension|value|evidence)\b"?\s*:/gi, " ").replace(/["{}[\]]/g, " "));
  const sentences = prose.match(/[^.!?。！？]+[.!?。！？]*/gu) ?? [];
  const summary = words(sentences.slice(0, 2).join(" ")).slice(0, 60).join(" ");
  return (summary.match(/\p{L}/gu)?.length ?? 0) < 10 || isEcho(summary) || isLoop(prose) ? null : { summary, preferences: [] };
}
