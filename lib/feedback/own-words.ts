/** The part of a message in which its author speaks: material that was pasted or quoted for the model to work on is left out. */

export interface OwnWords {
  /** Head and tail of the message without code, long quotations and quoted lines; at most about 400 characters. */
  text: string;
  /** The same without politeness, punctuation and emoji: for cues that must be all the message says. */
  bare: string;
  /** Characters of the whole message. */
  length: number;
  /** Whether material was found and left out. */
  material: boolean;
}

const headChars = 260;
const tailChars = 140;

/** Quotations from this length on are material; a few quoted words belong to the sentence. */
const materials = [
  /```[\s\S]*?(?:```|$)/g,
  /^\s*>.*$/gm,
  /"[^"]{60,}"?/g, /“[^”]{60,}”?/g, /«[^»]{60,}»?/g, /„[^“”]{60,}[“”]?/g, /「[^」]{40,}」?/g, /《[^》]{40,}》?/g,
  /`[^`\n]{1,200}`/g,
  /https?:\/\/\S+/g,
];

const politeness = /(?<![\p{L}\p{N}])(?:please|pls|plz|por favor|porfa|bitte|s['’]il (?:te|vous) pla[iî]t|stp|svp|per favore|per piacere|пожалуйста)(?![\p{L}\p{N}])|请|お願い(?:します|いたします)?|ください|下さい/giu;

export function ownWords(message: string): OwnWords {
  // Material is looked for in a bounded part: messages can be whole books.
  const bounded = message.length > 8000 ? `${message.slice(0, 4000)}\n${message.slice(-4000)}` : message;
  let own = bounded;
  for (const pattern of materials) own = own.replace(pattern, " ");
  // After the first lines, a long text without fences is mostly material too.
  own = own.trim();
  const material = own.length < bounded.trim().length * 0.95 || own.length > 1200;
  const text = own.length <= headChars + tailChars ? own : `${own.slice(0, headChars)}\n${own.slice(-tailChars)}`;
  return { text, bare: bareWords(text), length: message.length, material };
}

function bareWords(text: string): string {
  return text.replace(politeness, " ").replace(/[^\p{L}\p{N}'’?]+/gu, " ").replace(/\?+/g, "").trim().toLowerCase();
}
