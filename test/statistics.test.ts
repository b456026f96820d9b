import assert from "node:assert/strict";
import { test } from "node:test";
import { bootstrapMean, combineOrders, quantile, winRate } from "../lib/eval/statistics.js";
import { hashUnit, seededRandom, shuffled } from "../lib/random.js";

const options = { resamples: 2000, seed: 7 };

test("a win rate counts ties as half", () => {
  const rate = winRate([{ cluster: "a", value: 1 }, { cluster: "a", value: 0.5 }, { cluster: "b", value: 0 }, { cluster: "b", value: 1 }], options);
  assert.equal(rate.rate, 0.625);
  assert.deepEqual([rate.wins, rate.ties, rate.losses, rate.comparisons, rate.clusters], [2, 1, 1, 4, 2]);
});

test("no outcome has no rate, and one user has no interval", () => {
  assert.deepEqual(winRate([], options), { rate: null, wins: 0, ties: 0, losses: 0, comparisons: 0, clusters: 0, interval: null });
  const one = winRate([{ cluster: "a", value: 1 }, { cluster: "a", value: 0 }], options);
  assert.equal(one.rate, 0.5);
  assert.equal(one.interval, null);
});

test("the bootstrap interval of a known distribution has the width theory gives", () => {
  const random = seededRandom(1);
  const clusters = Array.from({ length: 400 }, () => [random() < 0.7 ? 1 : 0]);
  const mean = clusters.flat().reduce((a: number, b) => a + b, 0) / 400;
  const { low, high } = bootstrapMean(clusters, 4000, 3, 0.95);
  const halfWidth = 1.96 * Math.sqrt((mean * (1 - mean)) / 400);
  assert.ok(Math.abs((high - low) / 2 - halfWidth) < 0.15 * halfWidth, `${low}..${high} around ${mean}`);
  assert.ok(low < mean && mean < high);
});

test("outcomes of one user are resampled together, which widens the interval", () => {
  const values = Array.from({ length: 60 }, (_, i) => (i % 20 < 10 ? 1 : 0));
  const spread = values.map((v) => [v]);
  const together = Array.from({ length: 6 }, (_, u) => values.slice(u * 10, u * 10 + 10));
  const apart = bootstrapMean(spread, 4000, 1, 0.95);
  const clustered = bootstrapMean(together, 4000, 1, 0.95);
  assert.ok(clustered.high - clustered.low > 2 * (apart.high - apart.low));
});

test("the same seed gives the same interval, another seed another one", () => {
  const clusters = [[1, 0, 1], [0, 0], [1], [0.5, 1], [0]];
  assert.deepEqual(bootstrapMean(clusters, 500, 11, 0.95), bootstrapMean(clusters, 500, 11, 0.95));
  assert.notDeepEqual(bootstrapMean(clusters, 500, 11, 0.9), bootstrapMean(clusters, 500, 12, 0.9));
});

test("quantiles interpolate between order statistics", () => {
  assert.equal(quantile([1, 2, 3, 4], 0.5), 2.5);
  assert.equal(quantile([1, 2, 3, 4], 0), 1);
  assert.equal(quantile([1, 2, 3, 4], 1), 4);
  assert.equal(quantile([5], 0.3), 5);
});

test("a winner in one order only is a tie", () => {
  assert.equal(combineOrders("first", "first"), "first");
  assert.equal(combineOrders("first", "second"), "tie");
  assert.equal(combineOrders("second", "second"), "second");
});

test("seeded numbers are uniform, and hashes split users stably", () => {
  const random = seededRandom(42);
  const counts = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 20000; i += 1) {
    const bin = Math.floor(random() * 10);
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  const chiSquare = counts.reduce((sum, c) => sum + (c - 2000) ** 2 / 2000, 0);
  assert.ok(chiSquare < 27.9, `chi-square ${chiSquare} with 9 degrees of freedom`);
  assert.equal(hashUnit("user", 1), hashUnit("user", 1));
  const below = Array.from({ length: 10000 }, (_, i) => hashUnit(`user-${i}`)).filter((u) => u < 0.1).length;
  assert.ok(Math.abs(below - 1000) < 120, String(below));
});

test("a shuffle keeps every item and depends on the seed", () => {
  const items = Array.from({ length: 50 }, (_, i) => i);
  const one = shuffled(items, seededRandom(1));
  assert.deepEqual([...one].sort((a, b) => a - b), items);
  assert.notDeepEqual(one, items);
  assert.deepEqual(one, shuffled(items, seededRandom(1)));
  assert.notDeepEqual(one, shuffled(items, seededRandom(2)));
});
