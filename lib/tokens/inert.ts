/**
 * Text from datasets stays data: a special token spelled out in a message ("<|im_end|>") must reach the model as those
 * characters, not as the token. Before rendering, each such text in a message is broken by a character that occurs
 * nowhere else; the rendered text is then cut at the special tokens, which now are the template's own, and the breaks
 * are taken out of what is left. Ordinary messages come through untouched.
 */
import type { Message } from "../conversations/types.js";

/** The first private-use character that no message contains: one UTF-16 unit, no white space, no letter. */
function unusedCharacter(messages: readonly Message[]): string {
  for (let code = 0xe000; code < 0xf900; code += 1) {
    const character = String.fromCharCode(code);
    if (!messages.some((message) => message.content.includes(character))) return character;
  }
  // 6,400 private-use characters in one chat: no text, whatever it is. They are given up for this chat.
  return "\ue000";
}

/** Index after the first character of every place where a special text begins, wholly or cut off by the text's end. */
function breakPoints(text: string, specials: readonly string[]): number[] {
  const points = new Set<number>();
  for (const special of specials) {
    for (let at = text.indexOf(special); at >= 0; at = text.indexOf(special, at + 1)) points.add(at + 1);
    for (let size = Math.min(special.length - 1, text.length); size > 0; size -= 1) {
      if (text.endsWith(special.slice(0, size))) points.add(text.length - size + 1);
    }
  }
  return [...points].sort((a, b) => a - b);
}

export interface InertMessages {
  messages: Message[];
  /** Takes the breaks out of a stretch of rendered text. */
  restore(text: string): string;
}

export function makeInert(messages: readonly Message[], specials: readonly string[]): InertMessages {
  const mark = unusedCharacter(messages);
  const broken = messages.map(({ role, content }) => {
    const own = content.replaceAll(mark, "\ufffd");
    let text = "";
    let from = 0;
    for (const point of breakPoints(own, specials)) {
      text += own.slice(from, point) + mark;
      from = point;
    }
    text += own.slice(from);
    // JavaScript's trim takes a byte order mark for white space; Jinja's, in Python, does not.
    if (text.startsWith("\ufeff")) text = mark + text;
    if (text.endsWith("\ufeff")) text += mark;
    return { role, content: text };
  });
  return { messages: broken, restore: (text) => text.replaceAll(mark, "") };
}
