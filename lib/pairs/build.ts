/** From candidates to pairs: one candidate at a time, given what the judge said about it. */
import { fitMessages } from "../chat-models/fit.js";
import type { RunConfig } from "../config.js";
import { isHeldOut } from "../conversations/split.js";
import type { Message } from "../conversations/types.js";
import { sha256, sha256File } from "../files.js";
import { withPersona } from "../personas/render.js";
import { hashUnit } from "../random.js";
import type { ChatTokenizer } from "../tokens/types.js";
import { choosePair } from "./choose.js";
import type { RewriteScores } from "./choose.js";
import { firstObjection } from "./filters.js";
import type { FilterInput } from "./filters.js";
import type { CandidateRecord, FilteredRecord, PairRecord } from "./types.js";

export type Built = { pair: PairRecord } | { filtered: FilteredRecord };

type PairTokenizer = Pick<ChatTokenizer, "encodeAnswer" | "encodeChat">;

/** A candidate set with its prompt cut to the context: what takes tokenising, and does not depend on the judge. */
export interface PreparedPair {
  candidate: CandidateRecord;
  prompt: Message[];
  persona_used: boolean;
  too_long: FilterInput["too_long"];
}

/** The prompt of a candidate set, cut to the context (oldest turns first). */
export function preparePair(candidate: CandidateRecord, config: RunConfig, tokenizer: PairTokenizer): PreparedPair {
  const persona_used = candidate.persona !== "" && !dropsPersona(candidate.id, config);
  const messages = withPersona(candidate.prompt, persona_used ? candidate.persona : "");
  const answers = choosePair(candidate, config);
  if (answers === undefined) return { candidate, prompt: messages, persona_used, too_long: undefined };
  const longest = Math.max(...[answers.chosen, answers.rejected].map(({ text }) => tokenizer.encodeAnswer(text).length));
  const count = (shorter: readonly Message[]): number => tokenizer.encodeChat(shorter).length;
  const { max_tokens } = config.pairs;
  const fitted = fitMessages(messages, { budget: max_tokens - longest, count });
  return { candidate, prompt: fitted.messages, persona_used, too_long: fitted.fits ? undefined : { tokens: count(fitted.messages) + longest, max_tokens } };
}

/** The pair of a prepared candidate set, or why there is none. Scores decide about the pair, not about which two answers a rewrite's are. */
export function buildPair({ candidate, prompt, persona_used, too_long }: PreparedPair, config: RunConfig, scores?: RewriteScores): Built {
  const { id, method, user_id, conversation_id, turn, follow_up_turn } = candidate;
  const answers = choosePair(candidate, config, scores);
  if (answers === undefined) return { filtered: { id, user_id, method, filter: "empty_answer", detail: "fewer than two answers" } };
  const objection = firstObjection({ ...answers, candidate, prompt, settings: config.pairs, too_long });
  if (objection !== undefined) return { filtered: { id, user_id, method, ...objection } };
  return {
    pair: {
      id, method, user_id, conversation_id, turn, follow_up_turn,
      prompt,
      chosen: [{ role: "assistant", content: answers.chosen.text }],
      rejected: [{ role: "assistant", content: answers.rejected.text }],
      score_chosen: answers.score_chosen,
      score_rejected: answers.score_rejected,
      persona_used,
      held_out: isHeldOut(user_id, config.data.held_out),
    },
  };
}

/** Persona dropout: decided by the pair's id, so that it is the same in every run with this seed. */
function dropsPersona(id: string, config: RunConfig): boolean {
  return hashUnit(config.seed, "persona dropout", id) < config.pairs.persona_dropout;
}

/** Of each user the `max` pairs (0: all) that a hash of seed and id puts first; the ids that stay. */
export function withinUserCap(pairs: readonly Pick<PairRecord, "id" | "user_id">[], max: number, seed: number): ReadonlySet<string> {
  if (max === 0) return new Set(pairs.map(({ id }) => id));
  const place = new Map(pairs.map(({ id }) => [id, hashUnit(seed, "user cap", id)]));
  const taken = new Map<string, number>();
  const kept = new Set<string>();
  for (const { id, user_id } of [...pairs].sort((a, b) => (place.get(a.id) as number) - (place.get(b.id) as number))) {
    const already = taken.get(user_id) ?? 0;
    if (already >= max) continue;
    taken.set(user_id, already + 1);
    kept.add(id);
  }
  return kept;
}

/** What pairs.arrow was tokenised from: the bytes of pairs.jsonl and the context. */
export async function pairsIdentity(pairs: string, max_tokens: number): Promise<string> {
  return sha256(JSON.stringify([await sha256File(pairs), max_tokens]));
}
