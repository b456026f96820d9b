/** Openings with which models announce a rewrite ("Here is the improved answer:"): no part of the answer. */

const announcement = "(rewrit|revis|improv|updat|correct|better|new|answer|response|version|respuesta|versi[oó]n|r[eé]ponse|antwort|fassung|resposta|risposta|versione)";
const patterns = [
  new RegExp(`^(sure|certainly|of course|okay|ok|absolutely|claro|por supuesto|bien s[uû]r|nat[uü]rlich|gerne|certo)?[,!. ]*(here('s| is| are)|below is|this is|aqu[ií] (tienes|est[aá])|voici|hier ist|aqui est[aá]|ecco)\\b[^\\n]{0,60}${announcement}[^\\n]{0,60}:\\s*\\n+`, "iu"),
  new RegExp(`^\\**(rewritten|revised|improved|updated|corrected|better|new) (answer|response|version)\\**\\s*:\\**\\s*`, "iu"),
];

/** The text without such a first line, trimmed; quotes around the whole of it go too. */
export function withoutPreamble(text: string): string {
  let answer = text.trim();
  for (const pattern of patterns) answer = answer.replace(pattern, "").trim();
  const quoted = /^"([^"]+)"$/s.exec(answer) ?? /^“([^“”]+)”$/s.exec(answer) ?? /^«([^«»]+)»$/s.exec(answer);
  return (quoted?.[1] ?? answer).trim();
}
