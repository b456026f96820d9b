/** How alike two answers are, in any language and at any length. */

const spaceless = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}\\p{Script=Lao}\\p{Script=Khmer}\\p{Script=Myanmar}";
const token = new RegExp(`[${spaceless}]|[^\\P{L}${spaceless}]+|\\p{N}+`, "gu");

/** Words and numbers, single characters where a script has no spaces; case, spacing and punctuation do not count. */
function tokens(text: string): string[] {
  return text.normalize("NFKC").toLowerCase().match(token) ?? [];
}

/** Dice coefficient of the texts' neighbouring-word pairs, each as often as it occurs: 0 (nothing shared) to 1 (the same words in the same order). */
export function similarity(a: string, b: string): number {
  const left = pairCounts(tokens(a));
  const right = pairCounts(tokens(b));
  const total = sum(left) + sum(right);
  if (total === 0) return a.trim() === b.trim() ? 1 : 0;
  let shared = 0;
  for (const [pair, count] of left) shared += Math.min(count, right.get(pair) ?? 0);
  return (2 * shared) / total;
}

/** With the text's ends as words, so that one word is enough for a pair. */
function pairCounts(words: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  if (words.length === 0) return counts;
  const framed = ["^", ...words, "$"];
  for (let i = 1; i < framed.length; i++) {
    const pair = `${framed[i - 1]} ${framed[i]}`;
    counts.set(pair, (counts.get(pair) ?? 0) + 1);
  }
  return counts;
}

function sum(counts: ReadonlyMap<string, number>): number {
  let total = 0;
  for (const count of counts.values()) total += count;
  return total;
}
