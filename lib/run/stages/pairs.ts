import { renameSync, rmSync } from "node:fs";
import type { RunConfig } from "../../config.js";
import { JsonlAppender, readJsonl } from "../../files.js";
import { buildPair, pairsIdentity, preparePair, withinUserCap } from "../../pairs/build.js";
import type { PreparedPair } from "../../pairs/build.js";
import type { RewriteScores } from "../../pairs/choose.js";
import { enabledFilters } from "../../pairs/filters.js";
import { judgeRequest } from "../../pairs/judge.js";
import { KeptPairs } from "../../pairs/kept-pairs.js";
import { pairFilters } from "../../pairs/types.js";
import type { CandidateRecord, FilteredRecord, PairMethod, PairRecord } from "../../pairs/types.js";
import { rewriteJudgePrompt } from "../../prompts/reward.js";
import { readAhead } from "../../read-ahead.js";
import { writePairsArrow } from "../../tokens/arrow.js";
import type { PairRow } from "../../tokens/arrow.js";
import { isTooLong, tokenizePair } from "../../tokens/pair-tokens.js";
import type { ChatTokenizer } from "../../tokens/types.js";
import type { Stage, StageContext } from "../stage.js";

/** Candidates judged at once: enough to fill a batch, few enough that the next are prepared meanwhile. */
const windowSize = 16;

/**
 * Candidates into pairs.jsonl, filtered.jsonl and pairs.arrow. The files appear whole at the end; what took long, the
 * judge's scores, is in the cache, so that a stage killed half-way goes on from there.
 */
export const pairsStage: Stage = async (context) => {
  const { folder, config, progress } = context;
  const tokenizer = context.tokenizer();
  const temporary = { kept: `${folder.pairs}.kept`, pairs: `${folder.pairs}.new`, filtered: `${folder.filtered}.new` };
  const remove = (): void => Object.values(temporary).forEach((path) => rmSync(path, { force: true }));
  remove();
  try {
    const kept = new KeptPairs(temporary.kept);
    const filtered = new JsonlAppender(temporary.filtered);
    try {
      await filterAll(context, tokenizer, kept, filtered);
      capUsers(config, kept, temporary.pairs, filtered);
    } finally {
      kept.close();
      filtered.close();
    }
    renameSync(temporary.filtered, folder.filtered);
    renameSync(temporary.pairs, folder.pairs);
  } finally {
    remove();
    progress.stop();
  }
  await writePairsArrow(folder.pairsArrow, pairRows(folder.pairs, tokenizer, config.pairs.max_tokens), {
    tokens: tokenizer.fingerprint,
    source: await pairsIdentity(folder.pairs, config.pairs.max_tokens),
    reference: "",
  });
  return factsOf(context);
};

/** Every candidate becomes a line of one of two files. */
async function filterAll(context: StageContext, tokenizer: ChatTokenizer, kept: KeptPairs, filtered: JsonlAppender): Promise<void> {
  const { folder, config, progress, signal } = context;
  let total = 0;
  for await (const candidate of readJsonl<CandidateRecord>(folder.candidates)) total += isWanted(candidate, config) ? 1 : 0;
  progress.start("choosing pairs", total);
  for await (const { window, scores } of readAhead(judged(context, readAhead(preparedWindows(context, tokenizer))))) {
    signal.throwIfAborted();
    window.forEach((one, index) => {
      const built = buildPair(one, config, scores[index]);
      if ("pair" in built) kept.append(built.pair);
      else filtered.append(built.filtered);
    });
    progress.advance(window.length);
  }
}

async function* preparedWindows({ folder, config }: StageContext, tokenizer: ChatTokenizer): AsyncGenerator<PreparedPair[]> {
  for await (const window of windows(folder.candidates, config)) yield window.map((candidate) => preparePair(candidate, config, tokenizer));
}

interface JudgedWindow {
  window: PreparedPair[];
  scores: (RewriteScores | undefined)[];
}

async function* judged(context: StageContext, prepared: AsyncIterable<PreparedPair[]>): AsyncGenerator<JudgedWindow> {
  for await (const window of prepared) yield { window, scores: await rewriteScores(context, window) };
}

/** Candidates of a method that is switched off stay in their file and make no pairs. */
function isWanted({ method }: CandidateRecord, config: RunConfig): boolean {
  return method === "reward" ? config.rewards.enabled : config.rewrites.enabled;
}

async function* windows(path: string, config: RunConfig): AsyncGenerator<CandidateRecord[]> {
  let window: CandidateRecord[] = [];
  for await (const candidate of readJsonl<CandidateRecord>(path)) {
    if (!isWanted(candidate, config)) continue;
    window.push(candidate);
    if (window.length < windowSize) continue;
    yield window;
    window = [];
  }
  if (window.length > 0) yield window;
}

/** The judge's scores of each rewrite and the answer it replaces. Sets that an earlier filter drops anyway are not judged. */
async function rewriteScores(context: StageContext, window: readonly PreparedPair[]): Promise<(RewriteScores | undefined)[]> {
  const { config, signal } = context;
  const scores = window.map((): RewriteScores | undefined => undefined);
  if (!config.pairs.judge_rewrites) return scores;
  const places = window.flatMap((one, index) => (one.candidate.method !== "reward" && "pair" in buildPair(one, config) ? [index] : []));
  if (places.length === 0) return scores;
  const judge = await context.model("judge");
  const requests = places.flatMap((index) => {
    const { answers, persona, prompt, follow_up } = (window[index] as PreparedPair).candidate;
    return [answers.find(({ origin }) => origin === "rewrite"), answers.find(({ origin }) => origin !== "rewrite")].map((answer) =>
      judgeRequest(judge, { persona, conversation: prompt, follow_up, answer: answer?.text ?? "" }));
  });
  const results = await judge.score(requests, { signal });
  places.forEach((index, place) => {
    scores[index] = { rewrite: results[2 * place]?.expected ?? Number.NaN, rejected: results[2 * place + 1]?.expected ?? Number.NaN };
  });
  return scores;
}

function capUsers(config: RunConfig, kept: KeptPairs, path: string, filtered: JsonlAppender): void {
  const max = enabledFilters(config.pairs).has("per_user_cap") ? config.pairs.max_per_user : 0;
  const within = withinUserCap(kept.owners, max, config.seed);
  const pairs = new JsonlAppender(path);
  try {
    // Candidates stand in the order in which answers came; pairs by their ids, so that the same answers train the same weights.
    for (const pair of kept.byId()) {
      const { id, user_id, method } = pair;
      if (within.has(id)) pairs.append(pair);
      else filtered.append({ id, user_id, method, filter: "per_user_cap", detail: `over ${max} pairs` } satisfies FilteredRecord);
    }
  } finally {
    pairs.close();
  }
}

async function* pairRows(path: string, tokenizer: ChatTokenizer, max_tokens: number): AsyncGenerator<PairRow> {
  for await (const { id, prompt, chosen, rejected, held_out } of readJsonl<PairRecord>(path)) {
    const tokens = tokenizePair(tokenizer, { prompt, chosen: chosen[0].content, rejected: rejected[0].content }, max_tokens);
    // Only where the filter too_long is switched off; training leaves these out and counts them.
    if (!isTooLong(tokens)) yield { id, held_out, ...tokens };
  }
}

type ByMethod = Record<PairMethod, number>;
const none = (): ByMethod => ({ rewrite: 0, reward: 0, rewrite_from_scratch: 0 });

async function factsOf({ folder, config }: StageContext): Promise<Record<string, unknown>> {
  const pairs = none();
  const candidates = none();
  const filtered = Object.fromEntries(pairFilters.map((filter) => [filter, 0])) as Record<(typeof pairFilters)[number], number>;
  const users = new Set<string>();
  const margins: number[] = [];
  let heldOut = 0;
  let withPersona = 0;
  for await (const { method, filter } of readJsonl<FilteredRecord>(folder.filtered)) {
    filtered[filter] += 1;
    candidates[method] += 1;
  }
  for await (const pair of readJsonl<PairRecord>(folder.pairs)) {
    pairs[pair.method] += 1;
    candidates[pair.method] += 1;
    users.add(pair.user_id);
    heldOut += pair.held_out ? 1 : 0;
    withPersona += pair.persona_used ? 1 : 0;
    if (pair.score_chosen !== null && pair.score_rejected !== null) margins.push(pair.score_chosen - pair.score_rejected);
  }
  const total = pairs.rewrite + pairs.reward + pairs.rewrite_from_scratch;
  return {
    pairs: total, by_method: pairs, candidates, filtered, users: users.size, held_out: heldOut, with_persona: withPersona,
    mean_margin: margins.length === 0 ? null : Math.round((margins.reduce((sum, margin) => sum + margin, 0) / margins.length) * 1000) / 1000,
    filters: [...enabledFilters(config.pairs)],
    prompts: config.pairs.judge_rewrites ? { [rewriteJudgePrompt.id]: rewriteJudgePrompt.hash } : {},
  };
}
