/**
 * Languages by name. Sources that say a message's language are believed; for those that do not, a guess by script and by
 * the commonest small words, good enough to filter by and to compare two texts, not to identify dialects or rare languages.
 */

const names: Record<string, string> = {
  ar: "Arabic", bg: "Bulgarian", bn: "Bengali", ca: "Catalan", cs: "Czech", da: "Danish", de: "German", el: "Greek", en: "English",
  eo: "Esperanto", es: "Spanish", et: "Estonian", eu: "Basque", fa: "Persian", fi: "Finnish", fr: "French", gl: "Galician", he: "Hebrew",
  hi: "Hindi", hr: "Croatian", hu: "Hungarian", id: "Indonesian", it: "Italian", ja: "Japanese", ko: "Korean", lt: "Lithuanian",
  lv: "Latvian", ms: "Malay", nb: "Norwegian", nl: "Dutch", no: "Norwegian", pl: "Polish", pt: "Portuguese", ro: "Romanian",
  ru: "Russian", sk: "Slovak", sl: "Slovenian", sr: "Serbian", sv: "Swedish", sw: "Swahili", ta: "Tamil", te: "Telugu", th: "Thai",
  tl: "Tagalog", tr: "Turkish", uk: "Ukrainian", ur: "Urdu", vi: "Vietnamese", zh: "Chinese", bar: "Bavarian", swg: "Swabian German",
};

/** English name of an ISO 639 code, region left out ("pt-BR": "Portuguese"); names and unknown codes come back as they are. */
export function languageName(code: string): string {
  const base = code.toLowerCase().split(/[-_]/)[0] ?? "";
  return names[base] ?? code;
}

/** Scripts that settle the language (nearly) alone; order matters: kana before Han, since Japanese uses both. */
const scripts: readonly [RegExp, string][] = [
  [/[\p{Script=Hiragana}\p{Script=Katakana}]/gu, "Japanese"],
  [/\p{Script=Hangul}/gu, "Korean"],
  [/\p{Script=Han}/gu, "Chinese"],
  [/\p{Script=Thai}/gu, "Thai"],
  [/\p{Script=Greek}/gu, "Greek"],
  [/\p{Script=Hebrew}/gu, "Hebrew"],
  [/\p{Script=Arabic}/gu, "Arabic"],
  [/\p{Script=Devanagari}/gu, "Hindi"],
];

/** Small words that are common in one language and rare in the others here. */
const smallWords: Record<string, string> = {
  English: "the and of to is in that it you for with are this what how my can please not have be from me i do write was would should",
  Spanish: "el la los las de que y en un una es por con para no se lo del cómo qué más pero como mi está al puedes hola esto muy",
  Portuguese: "o os as de que e em um uma é por com para não se do da no na mais mas como você meu minha isso está ao muito pode olá uma",
  French: "le la les de des et en un une est que pour dans qui pas sur avec je vous ce au du il mais comment plus mon ma peux c'est bonjour",
  Italian: "il lo la gli di che e in un una è per con non si del della come più ma mi sono questo puoi ciao cosa anche le dei",
  German: "der die das und ist in zu den von mit ein eine nicht auf für ich es wie auch dem bitte kannst mir was sich im aber du noch",
  Dutch: "de het een en van is in dat op te voor met niet zijn ik je hoe wat aan maar kun deze ook er naar",
  Turkish: "ve bir bu için ile ne da de mi çok nasıl ben gibi daha bana olarak var",
  Polish: "i w na nie się to jest z do że jak o co dla czy mi po przez",
  Indonesian: "yang dan di untuk dengan ini itu dari apa adalah saya tidak bisa bagaimana ke pada",
  Vietnamese: "là và của cho một không có các tôi bạn với được trong này những",
  Swedish: "och att det är en i som på för inte med jag du hur till av kan den ett",
};
const wordIndex = new Map<string, string[]>();
for (const [language, words] of Object.entries(smallWords)) {
  for (const word of new Set(words.split(" "))) wordIndex.set(word, [...(wordIndex.get(word) ?? []), language]);
}

/** How much of a text is looked at: enough for a guess. */
const sample = 4000;

/** English name of the text's likely language, "" where there is too little to say. Code between fences is left out. */
export function guessLanguage(text: string): string {
  const prose = text.slice(0, sample).replace(/```[\s\S]*?(```|$)/g, " ");
  const letters = prose.match(/\p{L}/gu)?.length ?? 0;
  if (letters < 2) return "";
  for (const [script, language] of scripts) {
    if ((prose.match(script)?.length ?? 0) / letters > (language === "Japanese" ? 0.1 : 0.3)) return language;
  }
  if ((prose.match(/\p{Script=Cyrillic}/gu)?.length ?? 0) / letters > 0.3) return /[іїєґ]/i.test(prose) ? "Ukrainian" : "Russian";
  return latinLanguage(prose);
}

/** The language whose small words make up most of the text; "" when no language leads. */
function latinLanguage(prose: string): string {
  const scores = new Map<string, number>();
  for (const [word] of prose.toLowerCase().matchAll(/[\p{L}']+/gu)) {
    const languages = wordIndex.get(word) ?? [];
    for (const language of languages) scores.set(language, (scores.get(language) ?? 0) + 1 / languages.length);
  }
  const ranked = [...scores].sort((a, b) => b[1] - a[1]);
  const [best, second] = ranked;
  if (best === undefined || best[1] < 1 || (second !== undefined && second[1] > 0.8 * best[1])) return "";
  return best[0];
}
