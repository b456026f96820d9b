/** How long the rest of a run takes, roughly: work is counted in tokens, its price is what the finished stages took. */
import type { MiningFacts } from "../conversations/mining.js";
import type { RunConfig } from "../config.js";
import type { ManifestData } from "./manifest.js";
import type { StageName } from "./stage.js";

/** Of an answer's limit, what answers use on average. */
const usedShare = 0.6;
/** A token that is only read, against one that is generated. */
const reading = 0.1;
/** Tokens of a judge's, classifier's or persona's prompt. */
const promptTokens = 700;
/** Share of follow-ups that carry feedback to learn from, and of conversations in which a reward is asked for. */
const feedbackShare = 0.35;
/** Of sets of answers, those that become a pair. */
const pairShare = 0.6;

const limited = (count: number, max: number): number => (max === 0 ? count : Math.min(count, max));

/** Work of a stage, in generated tokens; 0 where it is not worth counting. */
function workOf(stage: StageName, config: RunConfig, mined: MiningFacts): number {
  const { rewrites, rewards, personas, train } = config;
  const rewritten = rewrites.enabled ? limited(mined.follow_ups * feedbackShare, rewrites.max) : 0;
  const rewarded = rewards.enabled ? limited(mined.follow_ups * feedbackShare + mined.conversations, rewards.max) : 0;
  const held_out = mined.users === 0 ? 0 : mined.held_out_users / mined.users;
  const asked = limited((mined.conversations + mined.follow_ups) * held_out, config.eval.max_prompts);
  const judging = promptTokens * reading;
  switch (stage) {
    case "feedback": return config.feedback.classifier === "rules" ? 0 : mined.follow_ups * judging * (config.feedback.classifier === "both" ? 0.5 : 1);
    case "personas": return Math.max(0, mined.conversations - mined.users) * (personas.max_new_tokens * usedShare + promptTokens * reading);
    case "rewrite": return rewritten * 2 * (rewrites.max_new_tokens * usedShare + judging);
    case "reward": return rewarded * rewards.n * (rewards.max_new_tokens * usedShare + judging * (rewards.score_without_persona ? 2 : 1));
    case "pairs": return config.pairs.judge_rewrites ? rewritten * 2 * judging : 0;
    case "train": {
      const pairs = (rewritten + rewarded) * pairShare;
      const steps = train.max_steps > 0 ? Math.min(train.max_steps, (pairs * train.num_epochs) / train.pairs_per_step) : (pairs * train.num_epochs) / train.pairs_per_step;
      // A pair's two answers and its prompt, once forward and twice as much backward, and once for the reference.
      return steps * train.pairs_per_step * (promptTokens + 2 * rewards.max_new_tokens * usedShare) * reading * 4;
    }
    // Two models answer; three criteria in two orders are judged.
    case "eval": return asked * (2 * config.eval.max_new_tokens * usedShare + 6 * judging);
    default: return 0;
  }
}

/** Rough estimate for the stages `rest`; null before any stage worth counting has finished. */
export function secondsLeft({ stages }: Pick<ManifestData, "stages">, config: RunConfig, rest: readonly StageName[]): number | null {
  const mined = stages.mine?.facts as MiningFacts | null | undefined;
  if (mined === null || mined === undefined) return null;
  let work = 0;
  let seconds = 0;
  for (const [name, record] of Object.entries(stages)) {
    const amount = workOf(name as StageName, config, mined);
    if (record.state !== "finished" || amount === 0) continue;
    work += amount;
    seconds += record.duration_s;
  }
  const left = rest.reduce((sum, name) => sum + workOf(name, config, mined), 0);
  return work === 0 || left === 0 ? null : (left * seconds) / work;
}
