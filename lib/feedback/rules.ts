/**
 * The classifier without a model: cues in the follow-up's own words, its likeness to the request before, and what the
 * answer before it was. Every sign adds log-odds to a label; the softmax of the sums is the confidence. Where signs are
 * few or point different ways the confidence is low, and the caller asks a model or leaves the label open.
 */
import { softmax } from "../chat-models/labels.js";
import { feedbackLabels } from "../conversations/types.js";
import type { FeedbackLabel, Message } from "../conversations/types.js";
import { cues } from "./cues.js";
import { compareRequests, overlap } from "./likeness.js";
import type { Comparison } from "./likeness.js";
import { ownWords } from "./own-words.js";
import type { OwnWords } from "./own-words.js";
import type { FeedbackRecord } from "./types.js";

/** A follow-up with what it answers: the user's message before, and the answer between the two. */
export interface FollowUp {
  request: string;
  answer: string;
  text: string;
}

export interface RuleVerdict {
  label: FeedbackLabel;
  confidence: number;
  /** In the order of feedbackLabels; sums to 1. */
  probabilities: number[];
  evidence: FeedbackRecord["evidence"];
}

/** The follow-up at `turn` of a conversation, a turn of followUpTurns. */
export function followUpAt(messages: readonly Message[], turn: number): FollowUp {
  return { request: messages[turn - 2]?.content ?? "", answer: messages[turn - 1]?.content ?? "", text: messages[turn]?.content ?? "" };
}

type Scores = Record<FeedbackLabel, number>;

/** Before any sign: how often each label comes, roughly, in logs of chats with assistants. */
const prior: Readonly<Scores> = {
  new_request: 0.6, reattempt_with_feedback: 0.2, reattempt_without_feedback: -1.2, positive_feedback: -1, clarification: 0.2, other: -1.2,
};

/** What a second and further cue for the same label add, as a share of their weight. */
const further = 0.35;

export function classifyByRules(followUp: FollowUp): RuleVerdict {
  const own = ownWords(followUp.text);
  const found = cuesIn(own).filter((cue) => !saidBefore(cue, followUp.request));
  const scores: Scores = { ...prior };
  addCues(scores, found, own);
  const question = isQuestion(own.text);
  const comparison = compareRequests(followUp.request, followUp.text);
  if (!found.some(({ cue }) => cue === "continuation")) addLikeness(scores, comparison, own);
  addAnswer(scores, followUp, own, question, found);
  if (!question) addStatement(scores, followUp, own, found);
  settle(scores, found, own, question, askedByAnswer(followUp.answer));
  const probabilities = softmax(feedbackLabels.map((label) => scores[label]));
  const best = probabilities.indexOf(Math.max(...probabilities));
  return {
    label: feedbackLabels[best] as FeedbackLabel,
    confidence: probabilities[best] as number,
    probabilities,
    evidence: { cues: found.map(({ cue, text }) => ({ cue, text })), similarity: Math.round(comparison.likeness * 1000) / 1000 },
  };
}

interface FoundCue {
  cue: string;
  label: FeedbackLabel;
  weight: number;
  /** The words that matched. */
  text: string;
  /** Whether the message begins with it. */
  first: boolean;
}

/** What a sign at the beginning of a later sentence counts, as a share of one at the message's beginning. */
const later = 0.75;

function cuesIn(own: OwnWords): FoundCue[] {
  const sentences = sentencesOf(own.text);
  return cues.flatMap(({ name, label, weight, place, pattern }): FoundCue[] => {
    const texts = place === "start" ? sentences : [place === "whole" ? own.bare : own.text];
    for (const [at, text] of texts.entries()) {
      const match = pattern.exec(text)?.[0].trim() ?? "";
      if (match !== "") return [{ cue: name, label, weight: at === 0 ? weight : later * weight, text: match, first: place === "start" && at === 0 }];
    }
    return [];
  });
}

/** The first sentences, and what follows an opening of one or two words ("Great, now ..."). */
function sentencesOf(text: string): string[] {
  const sentences = text.split(/(?<=[.!?。！？\n])\s*/u).filter((sentence) => sentence.trim() !== "");
  const [first = ""] = sentences;
  const opening = /^[^,.!?:;–—、，]{1,24}[,:;–—、，]\s*/u.exec(first)?.[0] ?? "";
  return [first, ...(opening === "" ? [] : [first.slice(opening.length)]), ...sentences.slice(1)].slice(0, 6);
}

/** A length or format that the request before asked for too is no news about the answer. */
function saidBefore({ label, cue, text }: FoundCue, request: string): boolean {
  return label === "reattempt_with_feedback" && !complaints.has(cue) && text.length >= 4 && request.toLowerCase().includes(text.toLowerCase());
}

/** Cues that speak of the answer; the others say what one is to be like, which a request for something new does too. */
const complaints = new Set(["rejection", "wrong", "omission", "complaint", "contrast", "reservation", "restated", "excess"]);

/** The strongest cue of a label counts in full, others a part. In long or pasted messages cues mean less. */
function addCues(scores: Scores, found: readonly FoundCue[], own: OwnWords): void {
  const trust = own.length > 1500 || own.material ? 0.6 : own.length > 500 ? 0.8 : 1;
  // "Write a song about rain. Make it sad.": what follows belongs to the new task.
  const opensTask = found.some(({ cue, first }) => first && (cue === "next" || cue === "request"));
  for (const label of feedbackLabels) {
    const weights = found.filter((cue) => cue.label === label).map(({ cue, weight }) => (opensTask && label === "reattempt_with_feedback" && !complaints.has(cue) ? weight / 2 : weight)).sort((a, b) => b - a);
    const sum = weights.reduce((total, weight, i) => total + (i === 0 ? weight : further * weight), 0);
    scores[label] += trust * Math.min(sum, 5);
  }
}

function isQuestion(text: string): boolean {
  return /[?？]\s*["'»”)]*\s*$/.test(text) || /^[\s¿]*(?:what|who|when|where|which|why|how|is|are|does|do|did|can|could|should|will|would|qué|cómo|cuál|was|wie|warum|wer|comment|pourquoi|quel|como|qual|come|perché|как|что|почему)(?![\p{L}])/iu.test(text)
    || /(?:か|吗|呢)[。？?]?\s*$/.test(text);
}

/** Saying the request again: the same words are a repetition; other subjects in the same frame are a next task; the same and more is a constraint. */
function addLikeness(scores: Scores, { likeness, added, removed, words }: Comparison, own: OwnWords): void {
  if (words === 0) return;
  if (likeness > 0.9 && added === 0) {
    scores.reattempt_without_feedback += 5;
    return;
  }
  if (own.length > 1500) {
    scores.new_request += 0.8;
    return;
  }
  if (added === 0 && removed <= 2 && words >= 2 && likeness > 0.4) scores.reattempt_without_feedback += 2.5;
  else if (likeness > 0.45 && added > 0 && removed === 0) {
    scores.reattempt_with_feedback += 2.2;
    scores.new_request -= 0.8;
  }
  else if (likeness > 0.35 && added > 0 && removed > 0 && added <= removed * 3) scores.new_request += 1.2;
}

/** What the message has to do with the answer it follows. */
function addAnswer(scores: Scores, { answer, request }: FollowUp, own: OwnWords, question: boolean, found: readonly FoundCue[]): void {
  const asked = askedByAnswer(answer);
  const brief = own.bare.split(" ").length <= 12;
  const requests = found.some(({ cue }) => cue === "request" || cue === "next" || cue === "question");
  const changes = found.some(({ label }) => label === "reattempt_with_feedback");
  if (asked === "question" && !question) {
    // A change said beside the answer's question is still a change; without one, this is the reply to it.
    scores.clarification += (changes ? 0.6 : 2.2) + (brief ? 0.6 : 0.2) - (requests ? 0.9 : 0);
    scores.reattempt_with_feedback -= 0.4;
  }
  if (asked === "offer" && !question) scores.new_request += 0.6;
  if (!question) return;
  const about = overlap(own.text, answer);
  const news = 1 - Math.max(about, overlap(own.text, request));
  if (about >= 0.3) scores.clarification += about >= 0.5 ? 1.1 : 0.6;
  // "Swimming?": so few words ask about what is on the table.
  if (own.bare.split(" ").length <= 4) scores.clarification += 1.2;
  if (news > 0.75 && own.bare.split(" ").length >= 5) scores.new_request += 0.9;
  if (/(?<![\p{L}])(?:it|this|that|they|them|these|those|eso|esto|das|davon|dies|ça|cela|isso|isto|questo|quello|это|этого)(?![\p{L}])|这|那|それ|これ/iu.test(own.text)) scores.clarification += 0.7;
}

const negation = /(?<![\p{L}])(?:not?|never|nothing|none|nor|without|\p{L}+n['’]t|nicht|kein\p{L}*|nie|nichts|pas|jamais|rien|aucun\p{L}*|nunca|nada|ning[uú]n\p{L}*|não|nem|non|mai|niente|nessun\p{L}*|не|нет|без|ни)(?![\p{L}])|不|没|别|ない|ません|なく/giu;
const secondPerson = /(?<![\p{L}])(?:you|your|du|dein\p{L}*|ihr\p{L}*|tu|ton|ta|vous|votre|você|seu|sua|te|tú|tuo|tua|ты|вы|твой|ваш)(?![\p{L}])|你|您/iu;

/**
 * A statement that answers no question of the assistant mostly says what is the matter with the answer: the more so where
 * it names words of the answer, denies something or speaks to "you". One that shares no word with what was said is chat.
 */
function addStatement(scores: Scores, { answer, request }: FollowUp, own: OwnWords, found: readonly FoundCue[]): void {
  const asks = found.some(({ cue }) => cue === "request" || cue === "next" || cue === "continuation");
  const praises = found.some(({ label }) => label === "positive_feedback");
  if (own.length > 600 || own.material || asks || askedByAnswer(answer) !== "no") return;
  const { cites, about } = { cites: citesAnswer(own.text, answer), about: overlap(own.text, answer) };
  const denials = own.text.match(negation)?.length ?? 0;
  scores.new_request -= 0.5;
  scores.reattempt_with_feedback += (praises ? 0 : 0.3) + (cites ? 1.2 : 0) + Math.min(denials, 3) * 0.5 + (about >= 0.25 ? 0.5 : 0) + (!praises && secondPerson.test(own.text) ? 0.3 : 0);
  if (about < 0.12 && overlap(own.text, request) < 0.12) scores.other += 0.6;
}

/** Whether the message quotes words that the answer has. */
function citesAnswer(text: string, answer: string): boolean {
  const said = answer.toLowerCase();
  for (const [, quoted = ""] of text.matchAll(/["“„«「『]([^"”“»」』]{2,80})["”“»」』]/gu)) {
    if (said.includes(quoted.trim().toLowerCase().replace(/[.,!?…]+$/u, ""))) return true;
  }
  return false;
}

/** Whether the answer ends with a question of its own, or with the usual offer to help ("How can I assist you today?"). */
export function askedByAnswer(answer: string): "question" | "offer" | "no" {
  const end = answer.trim().slice(-300);
  if (!/[?？]["'»”)*_]*\s*(?:\p{Extended_Pictographic}\s*)*$/u.test(end)) {
    return /(?:let me know|please (?:provide|share|tell|specify|give))[^.?!]{0,120}[.!]\s*$/i.test(end) && /(?:provide|share|specify|tell me|which|what)/i.test(end.slice(-160)) && /(?:provide|specify|share)/i.test(end) ? "question" : "no";
  }
  return /(?:how|what) (?:can|may|could) i (?:help|assist|do for)|what would you like (?:me )?to|what do you want|where (?:shall|should|would you like) (?:we|to) (?:start|begin)|anything else|(?:help|assist) you (?:with )?today|en qué puedo ayudar|algo más|womit kann ich|wie kann ich (?:dir|ihnen) helfen|sonst noch|comment puis-je|autre chose|como posso ajudar|mais alguma coisa|come posso aiutar|altro|чем .{0,20}помочь|帮(?:助)?您?的?吗|お手伝い/i.test(end.slice(-160)) ? "offer" : "question";
}

/** Signs that only mean something together. */
function settle(scores: Scores, found: readonly FoundCue[], own: OwnWords, question: boolean, asked: ReturnType<typeof askedByAnswer>): void {
  const has = (name: string): boolean => found.some(({ cue }) => cue === name);
  const changes = found.some(({ label }) => label === "reattempt_with_feedback");
  const words = own.bare.split(" ").filter((word) => word !== "").length;
  // Agreeing answers a question; without one it only opens the message.
  if (has("agreement") && asked === "question") scores.clarification += 0.7;
  // Saying it again, in a short message without any reason, is all it asks.
  if (has("retry_end") && !changes && words <= 12) scores.reattempt_without_feedback += 1.4;
  // "Try again" beside a reason asks for something else than the same again.
  if (changes && has("retry_among")) scores.reattempt_with_feedback += 1;
  // Praise stands alone when nothing is asked; before a request or a "but" it is only its opening.
  if (has("praise")) {
    const asks = question || has("request") || has("question") || has("next") || has("edit") || has("about_answer") || changes;
    scores.positive_feedback += asks ? (words > 6 ? -0.9 : 0.2) : 1.6;
  }
  // A statement that asks nothing, wants nothing changed and praises nothing.
  if (!question && found.length === 0) scores.other += words <= 12 ? 0.8 : 0.4;
  // A few words that ask for a change are hardly anything else.
  if (changes && words <= 8 && !question) scores.reattempt_with_feedback += 0.6;
  // A question whose words would change an answer ("why is it too long?") asks first of all.
  if (question && has("about_answer")) scores.reattempt_with_feedback -= 0.6;
}
