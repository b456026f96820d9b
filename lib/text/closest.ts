/** Known words most like a misspelt one. */

/** Least number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((row[j - 1] ?? 0) + 1, (last[j] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, (before[j - 2] ?? 0) + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/** The nearest of `known` (more than one on a tie, at most three), or none where nothing is near: within a third of the word's length. */
export function closest(word: string, known: readonly string[]): string[] {
  const distances = known.map((candidate) => ({ candidate, distance: editDistance(word.toLowerCase(), candidate.toLowerCase()) }));
  const least = Math.min(...distances.map(({ distance }) => distance));
  if (least > Math.max(2, word.length / 3)) return [];
  return distances.filter(({ distance }) => distance === least).map(({ candidate }) => candidate).slice(0, 3);
}
