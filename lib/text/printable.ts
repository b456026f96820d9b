/** Text of others for the terminal. */

/**
 * Messages quote data and answers of servers. Control characters but newline and tab become visible: what would move the
 * cursor or recolour the terminal is shown, not done.
 */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
