/** The log-probabilities that a model gives to both answers of pairs: numbers, or an error that names the model and the pair. */
import { RlhiError } from "../errors.js";
import type { PairTokens } from "../tokens/pair-tokens.js";
import type { ContinuationScore, Engine } from "./engine.js";

export interface PairScore {
  chosen: ContinuationScore;
  rejected: ContinuationScore;
}

export interface PairScoreOptions {
  maxTokensPerMicroBatch?: number | undefined;
  signal?: AbortSignal | undefined;
  /** What errors call the pair at this place of `pairs`. */
  nameOf: (index: number) => string;
}

/** A score a pair, in their order. Throws ERR_NOT_FINITE where a model with broken weights gives no number: JSON would hold null. */
export async function scorePairs(engine: Engine, pairs: readonly PairTokens[], { nameOf, ...options }: PairScoreOptions): Promise<PairScore[]> {
  const scores = await engine.score(pairs.map((pair) => ({ prompt: pair.prompt_ids, continuations: [pair.chosen_ids, pair.rejected_ids] })), options);
  return scores.map((continuations, index) => {
    const [chosen, rejected] = continuations as [ContinuationScore, ContinuationScore];
    for (const [answer, { logps }] of [["chosen", chosen], ["rejected", rejected]] as const) {
      if (!Number.isFinite(logps)) throw notFinite(engine.path, `the ${answer} answer of ${nameOf(index)}`, logps);
    }
    return { chosen, rejected };
  });
}

function notFinite(model: string, answer: string, logps: number): RlhiError {
  return new RlhiError("ERR_NOT_FINITE", {
    what: `the model gives no finite log-probability to ${answer}`,
    where: model,
    expected: "a finite number",
    found: String(logps),
    todo: "check the model: weights that are not finite (NaN) give this; download or make it again, or try --dtype f32",
  });
}
