/** Numbers from verdicts. Knows nothing of judges, prompts or files. */
import { seededRandom } from "../random.js";

/** One comparison's outcome for the first side: 1 won, 0 lost, 0.5 tied (or a probability between). */
export interface Outcome {
  /** Outcomes of one cluster (a user) are not independent: they are resampled together. */
  cluster: string;
  value: number;
}

export interface Interval {
  low: number;
  high: number;
}

export interface WinRate {
  /** Mean outcome; ties count half. NaN-free: null where there is no outcome. */
  rate: number | null;
  wins: number;
  ties: number;
  losses: number;
  comparisons: number;
  clusters: number;
  /** Percentile bootstrap over clusters; null with fewer than two clusters, where it would say nothing. */
  interval: Interval | null;
}

export function winRate(outcomes: readonly Outcome[], options: { resamples: number; seed: number; level?: number }): WinRate {
  const { mean, interval } = meanOf(outcomes, options);
  return {
    rate: mean,
    wins: outcomes.filter((o) => o.value === 1).length,
    ties: outcomes.filter((o) => o.value === 0.5).length,
    losses: outcomes.filter((o) => o.value === 0).length,
    comparisons: outcomes.length,
    clusters: groupByCluster(outcomes).length,
    interval,
  };
}

export interface Mean {
  mean: number | null;
  /** As in WinRate. */
  interval: Interval | null;
}

/** Mean of any values, with the interval of a win rate. */
export function meanOf(outcomes: readonly Outcome[], options: { resamples: number; seed: number; level?: number }): Mean {
  const clusters = groupByCluster(outcomes);
  return {
    mean: outcomes.length === 0 ? null : outcomes.reduce((sum, o) => sum + o.value, 0) / outcomes.length,
    interval: clusters.length < 2 ? null : bootstrapMean(clusters, options.resamples, options.seed, options.level ?? 0.95),
  };
}

function groupByCluster(outcomes: readonly Outcome[]): number[][] {
  const groups = new Map<string, number[]>();
  for (const { cluster, value } of outcomes) {
    const group = groups.get(cluster);
    if (group === undefined) groups.set(cluster, [value]);
    else group.push(value);
  }
  return [...groups.values()];
}

/**
 * Percentile interval of the mean of all values, clusters resampled with replacement (Efron & Tibshirani, "An
 * Introduction to the Bootstrap", 1993, ch. 13; clusters because a user's requests share taste and topic).
 */
export function bootstrapMean(clusters: readonly (readonly number[])[], resamples: number, seed: number, level: number): Interval {
  const random = seededRandom(seed);
  const sums = clusters.map((values) => values.reduce((a, b) => a + b, 0));
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r += 1) {
    let sum = 0;
    let count = 0;
    for (let i = 0; i < clusters.length; i += 1) {
      const pick = Math.floor(random() * clusters.length);
      sum += sums[pick] ?? 0;
      count += clusters[pick]?.length ?? 0;
    }
    means[r] = count === 0 ? 0 : sum / count;
  }
  means.sort();
  return { low: quantile(means, (1 - level) / 2), high: quantile(means, (1 + level) / 2) };
}

/** Linear interpolation between order statistics (Hyndman & Fan's type 7). `sorted` is not empty. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const a = sorted[low] ?? Number.NaN;
  const b = sorted[Math.min(low + 1, sorted.length - 1)] ?? Number.NaN;
  return a + (b - a) * (at - low);
}

export type Verdict = "first" | "second" | "tie";

/**
 * One verdict from a judge that saw both orders: the same winner in both, else a tie; undecided in one order is no agreement.
 * Positions favour whoever they favour; asking twice and keeping only agreement takes that out.
 */
export function combineOrders(firstShownFirst: Verdict, firstShownSecond: Verdict): Verdict {
  return firstShownFirst === firstShownSecond ? firstShownFirst : "tie";
}

export const outcomeOf: Record<Verdict, number> = { first: 1, tie: 0.5, second: 0 };
