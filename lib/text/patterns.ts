/** Regular expressions over text of any language. */

const wordCharacter = "[\\p{L}\\p{M}\\p{N}_]";
const boundary = `(?:(?<!${wordCharacter})(?=${wordCharacter})|(?<=${wordCharacter})(?!${wordCharacter}))`;

/** The same pattern with \b meaning the edge of a word in every script: JavaScript's own \b knows only ASCII letters. */
export function unicodeWords(pattern: RegExp): RegExp {
  const flags = pattern.flags.includes("u") ? pattern.flags : `${pattern.flags}u`;
  return new RegExp(pattern.source.replaceAll("\\b", boundary), flags);
}
