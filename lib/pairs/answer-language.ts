/** Is the chosen answer in the language that was asked in? */
import { guessLanguage } from "../conversations/language.js";
import type { Message } from "../conversations/types.js";
import { unicodeWords } from "../text/patterns.js";

/** A request that names a language or asks for a translation may well be answered in another one. */
const asksForLanguage = unicodeWords(new RegExp([
  "translat|traduc|tradui|übersetz|tradur|traduz|tłumacz|перевед|перевест|翻译|翻訳|번역|ترجم|çevir|vertaal|översätt",
  "\\b(in|to|into|en|auf|em|na|på|po)\\s+(english|spanish|french|german|italian|portuguese|russian|chinese|japanese|korean|arabic|hindi|turkish|polish|dutch|swedish|vietnamese|indonesian|greek|latin|ukrainian)\\b",
  "inglés|español|francés|alemán|anglais|espagnol|français|allemand|englisch|spanisch|französisch|deutsch|italiano|português|inglês|английск|русск|немецк|французск|英文|英语|英語|中文|日本語|한국어|ingilizce|po angielsku|in het engels",
].join("|"), "iu"));

export interface LanguageMismatch {
  request: string;
  answer: string;
}

/** The two languages where they differ and no message of the user asks for it; undefined where all is well or nothing can be said. */
export function languageMismatch(prompt: readonly Message[], follow_up: string, answer: string): LanguageMismatch | undefined {
  const ofUser = prompt.filter(({ role }) => role === "user").map(({ content }) => content);
  if ([...ofUser, follow_up].some((text) => asksForLanguage.test(text))) return undefined;
  const request = guessLanguage(ofUser.at(-1) ?? "") || guessLanguage(ofUser.join("\n"));
  const answered = guessLanguage(answer);
  return request === "" || answered === "" || request === answered ? undefined : { request, answer: answered };
}
