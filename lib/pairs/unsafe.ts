/**
 * Content no model should be trained on, by phrases: attempts to talk a model out of its rules, and a short list of subjects
 * that harm. A coarse net on purpose; the sources' own moderation (data.include_flagged) comes before it.
 */
import { unicodeWords } from "../text/patterns.js";

const jailbreaks: readonly RegExp[] = [
  /\b(ignore|disregard|forget|override) (all |any )?(of )?(the |your |my )?(previous|prior|above|earlier|initial|existing|system) (instructions?|rules?|prompts?|guidelines?|directions?)/i,
  /\b(do anything now|DAN mode|you are (now )?DAN\b|jailbr(ea|o)k|developer mode (enabled|output|on)|god mode enabled)/i,
  /\b(pretend|act|respond|answer|roleplay|behave)\b[^.\n]{0,60}\b(no|without( any)?|free (of|from)|ignor\w+) (restrictions|rules|ethic\w*|moral\w*|filters?|guidelines|limitations|censorship|content polic\w+)/i,
  /\b(unfiltered|uncensored|amoral|unethical) (ai|assistant|chatbot|language model|response|mode)\b/i,
  /\byou (have|are bound by) no (restrictions|rules|ethical|moral|filters|guidelines|limitations)\b/i,
  /\b(reveal|print|repeat|show me) (your|the) (hidden |initial |secret )?(system prompt|instructions above)\b/i,
  /\b(ignora|olvida) (todas )?(las |tus )?instrucciones (anteriores|previas)|\bignore[zr]? (toutes )?(les |tes |vos )?instructions précédentes|\bignorier\p{L}* (alle )?(vorherigen|bisherigen|obigen) (anweisungen|regeln)|\bignore (todas )?as instruções anteriores|игнорируй\p{L}* (все )?(предыдущие|прежние) (инструкции|указания)|忽略(之前|以上|先前|前面)的?(所有)?(指令|指示|规则|提示)|(以前|上記|これまで)の(指示|命令)を(すべて)?無視/iu,
].map(unicodeWords);

const harms: readonly RegExp[] = [
  /\b(sexual|erotic|nude|naked|nsfw|porn\w*|sexy)\b[^.\n]{0,40}\b(child|children|minor|minors|underage|little (girl|boy)|pre-?teen|toddler|(1[0-7]|[1-9])[- ]?years?[- ]?old)\b/i,
  /\b(child|children|minors?|underage|pre-?teen|toddler)\b[^.\n]{0,40}\b(sexual(ly)? (content|act|explicit)|erotic|porn\w*|nudes?|naked)\b/i,
  /\b(how to|steps to|instructions (for|to)|guide to|recipe for|ways to|help me)\b[^.\n]{0,40}\b(make|build|construct|synthesi[sz]e|cook|manufacture)\b[^.\n]{0,30}\b(bombs?|explosives?|pipe ?bombs?|nerve (gas|agent)|sarin|ricin|anthrax|meth(amphetamine)?|napalm|chemical weapons?|bioweapons?)\b/i,
  /\b(how (to|can i|do i)|best way to|ways to|help me)\b[^.\n]{0,30}\b(kill (myself|yourself|someone|him|her|my)|commit suicide|end my life|murder|poison (someone|my|him|her)|self-?harm|cut myself)\b/i,
  /\b(how (to|can i|do i)|write|create|make|code)\b[^.\n]{0,40}\b(ransomware|keylogger|(computer )?virus|malware|phishing (e-?mail|page|site)|ddos|botnet)\b/i,
  /\b(explicit|graphic|detailed|hardcore) (sex|sexual|porn\w*|erotica|smut)\b|\bwrite (me )?(some )?(porn|smut|erotica)\b/i,
  /\b(kill|exterminate|gas|lynch) (all|every|the) (jews|muslims|blacks?|gays|immigrants|women|christians|whites?)\b|\bheil hitler\b/i,
].map(unicodeWords);

/** The phrase that is not wanted, with what kind it is; undefined where there is none. */
export function findUnsafe(text: string): { kind: "jailbreak" | "harm"; text: string } | undefined {
  for (const [kind, patterns] of [["jailbreak", jailbreaks], ["harm", harms]] as const) {
    for (const pattern of patterns) {
      const found = pattern.exec(text)?.[0];
      if (found !== undefined) return { kind, text: found };
    }
  }
  return undefined;
}
