/** How alike two messages are, in any language: by character trigrams, and by the words that carry content. */

/** Words too common to say what a message is about; other languages' are mostly caught by their length. */
const common = new Set(("the a an and or but of to in on at for with from by as is are was were be been am do does did have has had i you he she it we they me my your his her its our their this that these those " +
  "what which who how when where why can could would will should may might not no yes so if then than too very just please also about into some any more most other all there here out up " +
  "el la los las un una de que y en es por con para mi tu su se lo como qué cómo der die das ein eine und ist zu mit für auf ich du wie was bitte kannst le les des une et est que pour dans sur je tu vous " +
  "o os as um uma do da em no na como il lo gli di che per non del della и в на не что как это для по").split(" "));

/** Lower-case words that carry content, and pairs of neighbouring characters where a script has no spaces. */
export function contentWords(text: string): Set<string> {
  const words = new Set<string>();
  for (const [token] of text.slice(0, 4000).toLowerCase().matchAll(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]+|[\p{L}\p{N}]+/gu)) {
    if (/^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u.test(token)) {
      const characters = Array.from(token);
      for (let i = 0; i + 1 < characters.length; i += 1) words.add(`${characters[i]}${characters[i + 1]}`);
    } else if (token.length > 1 && !common.has(token)) words.add(token);
  }
  return words;
}

/** Jaccard index of character trigrams over normalised text, 0..1; two empty texts are alike. */
export function trigramLikeness(a: string, b: string): number {
  const [left, right] = [trigrams(a), trigrams(b)];
  if (left.size === 0 && right.size === 0) return 1;
  let shared = 0;
  for (const gram of left) if (right.has(gram)) shared += 1;
  return shared / (left.size + right.size - shared);
}

function trigrams(text: string): Set<string> {
  const characters = Array.from(` ${text.slice(0, 2000).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim()} `);
  const grams = new Set<string>();
  for (let i = 0; i + 2 < characters.length; i += 1) grams.add(`${characters[i]}${characters[i + 1]}${characters[i + 2]}`);
  return grams;
}

export interface Comparison {
  /** Trigram likeness. */
  likeness: number;
  /** Content words of the later message that are new, and of the earlier one that are gone (misspellings are neither). */
  added: number;
  removed: number;
  /** Content words of the later message. */
  words: number;
}

/** A request and the next message. Rephrasing adds and removes little; another subject replaces words; a constraint adds some. */
export function compareRequests(before: string, after: string): Comparison {
  const [earlier, later] = [contentWords(before), contentWords(after)];
  const added = [...later].filter((word) => !hasNear(earlier, word)).length;
  const removed = [...earlier].filter((word) => !hasNear(later, word)).length;
  return { likeness: trigramLikeness(before, after), added, removed, words: later.size };
}

/** The word itself, or one with the same beginning: another form of it, or a slip at its end. */
function hasNear(words: ReadonlySet<string>, word: string): boolean {
  if (words.has(word)) return true;
  if (word.length < 4 || /^\p{N}+$/u.test(word)) return false;
  const stem = word.slice(0, Math.max(4, Math.ceil(word.length * 0.7)));
  for (const other of words) if (other.startsWith(stem) && Math.abs(other.length - word.length) <= 3) return true;
  return false;
}

/** Share (0..1) of the message's content words that the text has too; 0 without content words. */
export function overlap(message: string, text: string): number {
  const words = contentWords(message);
  if (words.size === 0) return 0;
  const known = contentWords(text);
  return [...words].filter((word) => hasNear(known, word)).length / words.size;
}
