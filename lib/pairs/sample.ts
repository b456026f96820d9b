/** Choosing some of many, evenly over users: a talkative user does not crowd out the others. */
import { hashUnit } from "../random.js";

/**
 * At most `max` items (0: all) in their own order. Every user's first goes before any user's second; which is first is
 * decided by a hash of seed and id, so that the same items are chosen again, and a larger `max` only adds.
 */
export function evenlyOverUsers<T extends { id: string; user_id: string }>(items: readonly T[], max: number, seed: number): T[] {
  if (max === 0 || items.length <= max) return [...items];
  const place = new Map(items.map((item) => [item, hashUnit(seed, "sample", item.id)]));
  const rounds = new Map<string, number>();
  const ranked = [...items]
    .sort((a, b) => (place.get(a) as number) - (place.get(b) as number))
    .map((item) => {
      const round = rounds.get(item.user_id) ?? 0;
      rounds.set(item.user_id, round + 1);
      return { item, round };
    })
    .sort((a, b) => a.round - b.round);
  const chosen = new Set(ranked.slice(0, max).map(({ item }) => item));
  return items.filter((item) => chosen.has(item));
}
