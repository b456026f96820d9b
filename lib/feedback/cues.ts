/**
 * Lexical cues: what people write when they want an answer changed, repeated, explained, or when they are content. One
 * entry is one cue family with its label, its weight (log-odds, from 1 = a hint to 3.5 = next to certain) and its wording
 * in the languages covered. They come from how people speak to assistants in general and from no labelled file.
 */
import type { FeedbackLabel } from "../conversations/types.js";

/** start: the message begins with it (after "ok", "well", ...); whole: it is all the message says; anywhere: in its own words. */
export type CuePlace = "start" | "whole" | "anywhere";

export interface Cue {
  name: string;
  label: FeedbackLabel;
  weight: number;
  place: CuePlace;
  pattern: RegExp;
}

/** Wording by language: `words` in scripts with spaces (matched as whole words), `script` for Chinese and Japanese. */
interface Wording {
  words: readonly string[];
  script?: readonly string[];
}

const opening = "^(?:[\\s\\p{P}\\p{S}]*(?:ok(?:ay)?|hmm+|well|oh|uh|um|hey|so|and|but|please|sorry|vale|bueno|pero|por favor|also gut|aber|bitte|mais|bon|ma|beh|mas|però|но|ну|ок|好的?|但是?|あの|でも)(?![\\p{L}\\p{N}]))*[\\s\\p{P}\\p{S}]*";

function cue(name: string, label: FeedbackLabel, weight: number, place: CuePlace, { words, script = [] }: Wording): Cue {
  const spaced = words.length === 0 ? [] : [`(?<![\\p{L}\\p{N}])(?:${words.join("|")})(?![\\p{L}\\p{N}])`];
  const any = `(?:${[...spaced, ...script].join("|")})`;
  const source = place === "start" ? opening + any : place === "whole" ? `^(?:${[...words, ...script].join("|")})$` : any;
  return { name, label, weight, place, pattern: new RegExp(source, "iu") };
}

const n = "(?:\\d+|an?|one|two|three|four|five|a few|few|several)";
const languages = "english|spanish|french|german|italian|portuguese|chinese|mandarin|japanese|korean|russian|arabic|hindi|dutch|turkish|polish|español|inglés|ingles|castellano|deutsch|englisch|französisch|spanisch|français|anglais|espagnol|português|inglês|espanhol|italiano|inglese|русском|английском";
const programming = "python|javascript|typescript|java|c\\+\\+|c#|rust|go|golang|ruby|php|kotlin|swift|bash|sql|r|matlab|excel|pandas|numpy|react|node(?:\\.?js)?";

const feedback = "reattempt_with_feedback";

/** The answer is wrong, or not what was asked for. */
const rejection: Cue[] = [
  cue("rejection", feedback, 2, "start", {
    words: ["no(?=\\s*[,.!;:–—-])", "no (?:that|it|i|not|you|this|the|make|sorry|please)", "nope", "nah", "not (?:quite|really|exactly|what|like)", "nein", "nicht (?:ganz|so)", "non(?=\\s*[,.!;:])", "pas (?:tout à fait|exactement|comme)", "não(?=\\s*[,.!;:])", "no es (?:eso|lo que)", "no era", "non è", "нет", "не (?:то|так|совсем)"],
    script: ["不对", "不是(?:这|的|我)", "错了", "不行", "いや", "いえ", "違(?:う|い)", "ちが(?:う|い)", "そうじゃ", "そうでは"],
  }),
  cue("wrong", feedback, 2.6, "anywhere", {
    words: [
      "(?:that|this|it|which|answer|code|they)(?:['’]s| is| was|s| are| seems| looks)?(?: still| just| completely| totally| simply| actually| all)? (?:not (?:right|correct|true|accurate|working|what|quite|it|good)|wrong|incorrect|inaccurate|nonsense|terrible|awful|useless|false|off)",
      "(?:isn|wasn|aren|weren)['’]?t (?:right|correct|true|accurate|what|working)", "not what i (?:asked|wanted|meant|said|need|had)", "(?:got|did) (?:it|that|this) wrong", "you(?:['’]re| are) (?:wrong|mistaken|incorrect)",
      "(?:made|is|are|has|have|contains?) (?:a|an|some|the|several|many)? ?(?:mistakes?|errors?|bugs?|typos?)", "(?:doesn|does|didn|did|don|do|won|isn)['’]?t? ?(?:not )?(?:work(?:ing)?|make (?:any )?sense|answer (?:my|the)|run|compile|help)", "(?:un|not (?:very )?)helpful", "still (?:not|wrong|doesn['’]?t|the same|too|has|have|get|getting|fails|broken)",
      "(?:está|es|esto está) (?:mal|incorrect[oa]|equivocad[oa])", "no (?:es correct[oa]|funciona|tiene sentido|era lo que|es lo que)", "te equivocaste", "eso no es", "das (?:ist|war) (?:falsch|nicht (?:richtig|was|das))", "stimmt (?:so )?nicht", "funktioniert (?:so )?nicht", "nicht richtig", "c['’]est (?:faux|incorrect|pas (?:ça|bon|correct|ce que))", "ce n['’]est pas (?:ça|correct|ce que|bon)", "ne (?:marche|fonctionne) pas", "(?:está|isso está) (?:errado|incorreto)", "não (?:está cert[oa]|funciona|faz sentido|era isso|é isso|foi isso)", "è sbagliat[oa]", "non (?:è corrett[oa]|funziona|ha senso|era quello|è quello)", "(?:это )?не(?:правильно|верно)", "не работает", "ошибк[аиу]",
    ],
    script: ["不(?:正确|准确|对劲)", "(?:有|是)错误?的?", "不是我(?:要|想|问)", "没有用", "不工作", "間違(?:い|え|って)", "違います", "正しくな", "動かな", "おかしい"],
  }),
  cue("omission", feedback, 2.2, "anywhere", {
    words: [
      "you (?:forgot|missed|left out|ignored|omitted|skipped|misunderstood|misread|only|keep|kept|repeated|made up|invented|didn['’]?t|did not|haven['’]?t|have not|still|failed|again)", "(?:is|are) (?:missing|not included)", "where(?:['’]s| is| are) the (?:rest|other)", "what about the (?:rest|other part)", "incomplete",
      "(?:te )?(?:olvidaste|faltó|faltan|falta|ignoraste|omitiste)", "du hast .{0,30}(?:vergessen|übersehen|ignoriert|weggelassen)", "(?:es )?fehlt", "tu (?:as|n['’]as pas) .{0,20}(?:oublié|ignoré|mis|inclus)", "vous avez oublié", "il manque", "(?:você )?(?:esqueceu|faltou|ignorou)", "(?:hai )?(?:dimenticato|ignorato)", "manca(?:no)?", "ты (?:забыл|пропустил|не)", "вы (?:забыли|пропустили)", "не хватает",
    ],
    script: ["你(?:忘|漏|没有?|少)", "漏(?:了|掉)", "忘れ", "抜けて", "足りな", "入っていな", "入ってな"],
  }),
  cue("complaint", feedback, 1.6, "anywhere", {
    words: [
      "you(?:['’]re| are) (?:telling|giving|using|making|assuming|still|ignoring|missing|repeating|mixing|confusing)", "(?<!(?:can|could|would|will|do|did|does|should|if|how|as) )you (?:put|made|gave|wrote|changed|added|used|turned|switched|mixed|assumed|spelled|translated|counted)", "did you (?:even |actually )?(?:read|look|check|listen|notice)", "(?:read|look at|check) (?:what i|the question|my|it again|again)", "i never (?:said|told|asked|mentioned)", "says nothing about", "missing", "(?:no use|not much use|no good) to me",
      "(?:suena|parece|sale) (?:a|como|muy|un|una|poco|demasiado)", "me (?:das|pones|mandas|repites)", "klingt (?:wie|so|zu|sehr|nach|nicht)", "hast du (?:überhaupt )?gelesen", "(?:on dirait|ça (?:fait|sonne)|tu (?:répètes|confonds))", "(?:parece|soa|ficou) (?:um|uma|muito|meio|coisa|carta|como)", "(?:sembra|suona) (?:un|una|molto|troppo|come|scritto)", "hai letto", "(?:звучит|похоже на)",
    ],
    script: ["听起来", "你(?:写|给|用)的", "(?:っぽ|みたいで)", "読みました"],
  }),
  cue("contrast", feedback, 1.5, "anywhere", {
    words: ["\\p{L}+, not (?:an? |the |in |as |my )?[\\p{L}\\p{N}]+", "not (?:an? |the )?\\p{L}+,? but", "[\\p{L}\\p{N}]+, pas [\\p{L}\\p{N}]+", "[\\p{L}\\p{N}]+, nicht [\\p{L}\\p{N}]+", "no [\\p{L}\\p{N}]+,? sino", "sondern", "[\\p{L}\\p{N}]+, não [\\p{L}\\p{N}]+", "[\\p{L}\\p{N}]+, non [\\p{L}\\p{N}]+", "а не"],
  }),
  cue("reservation", feedback, 2, "anywhere", {
    words: ["(?:good|great|nice|lovely|perfect|better|thanks|thank you|fine|close|almost|nearly|excellent|like it|love it|yes|ok(?:ay)?|gut|schön|danke|super|bien|gracias|merci|parfait|impeccable|bom|boa|obrigad[oa]|bene|bello|grazie|хорошо|спасибо|отлично)[^.!?\\n]{0,40}(?:but|except|until|apart from|though|however|only(?: thing)?|just one|still|aber|nur(?: noch)?|bis auf|pero|salvo|excepto|sauf|mais|mas|só|ma|però|tranne|но|только)", "(?:the )?only (?:thing|problem|issue)", "(?:almost|nearly|not quite) (?:there|right|it)"],
    script: ["(?:很好|不错|谢谢).{0,20}(?:但|不过|只是)", "(?:いい|ありがとう).{0,20}(?:けど|ですが|が、)"],
  }),
  cue("restated", feedback, 2.4, "anywhere", {
    words: [
      "i (?:meant|said|asked(?: you)?|told you|was asking|was looking|wanted (?:it|you|the|a|an|only|just|something)|specifically|explicitly|already (?:said|told))", "i(?:['’]d| would) (?:rather|prefer)", "i (?:didn['’]?t|did not) (?:mean|ask|want|say)", "what i (?:meant|wanted|asked)", "i prefer", "as i (?:said|asked)", "my (?:question|request) was",
      "(?:me refería|quise decir|quería decir|(?:te )?pedí|dije|prefiero|quería)", "ich (?:meinte|wollte|meine|sagte|hatte .{0,30}(?:gebeten|gefragt|gesagt)|habe .{0,30}(?:gebeten|gefragt|gesagt)|hätte (?:es )?lieber)", "(?:je voulais|je parlais|je veux dire|j['’]ai (?:demandé|dit)|j['’]avais demandé|je préf[èé]r(?:e|erais))", "(?:eu )?(?:quis dizer|queria|pedi|disse|prefiro)", "(?:intendevo|volevo|ho (?:chiesto|detto)|avevo chiesto|preferi(?:sco|rei))", "я (?:имел[аи]?|хотел[аи]?|просил[аи]?|сказал[аи]?)",
    ],
    script: ["我(?:的意思|是说|说的|要的|问的|想要的)", "我是指", "(?:と|って)(?:言|頼)(?:い|っ|ん)", "聞いたのは", "ほしいのは", "という意味"],
  }),
  cue("excess", feedback, 2.4, "anywhere", {
    words: [
      "(?:way |far |a bit |a little |a tad |much |is |it['’]s |still |bit |sounds |feels |that['’]s |all |just )?too (?:long|short|wordy|verbose|formal|casual|stiff|generic|vague|complicated|complex|technical|simple|basic|many|much|flowery|dramatic|cheesy|corporate|salesy|dry|detailed|hard|easy|expensive|fast|slow|robotic|serious|general|broad|advanced|academic|polite|cold|aggressive|soft|sweet|big|small|close)",
      "(?:sounds|reads|feels) (?:like|a bit|a little|so|very|too|stiff|robotic|generic|off|weird)", "not (?:enough|formal|specific|detailed|long|short|funny|very|so)", "(?:so|very) (?:generic|vague|wordy|long)",
      "demasiad[oa]s?", "(?:muy|tan) (?:larg[oa]|cort[oa]|formal|complicad[oa]|genéric[oa]|técnic[oa])", "(?:viel )?zu (?:lang|kurz|förmlich|formell|kompliziert|allgemein|technisch|viel|viele|steif|ausführlich|werblich|schwierig)", "trop (?!tard)\\p{L}+", "(?:muito|tão) (?:long[oa]|curt[oa]|formal|genéric[oa]|complicad[oa]|técnic[oa])", "\\p{L}+ demais", "troppo \\p{L}+", "слишком",
    ],
    script: ["太.{1,4}了", "太(?:长|短|复杂|正式|笼统|啰嗦)", "(?:長|短|硬|難し|多|堅)(?:すぎ|過ぎ)", "すぎ(?:る|ます|て)"],
  }),
];

/** What the new answer should be like. */
const changes: Cue[] = [
  cue("make_it", feedback, 2.2, "anywhere", {
    words: [
      "make (?:it|this|that|them|these|those|each|everything|the \\p{L}+(?: \\p{L}+)?) (?!work\\b)\\p{L}+", "(?:keep|have|get) it \\p{L}+", "turn (?:it|this|that) into", "tone (?:it|that) down", "(?:it|this|that) (?:should|needs? to|must|has to) (?:be|have|include|say|use)",
      "haz(?:lo|la|los|las)", "que sea(?:n)?", "haz que", "debe(?:ría)? ser", "mach(?:e)? (?:es|das|sie|ihn|den|die)", "(?:rends|fais)(?:-| )?(?:le|la|les)", "(?:ça|il|elle) d(?:oi|evrai)t être", "(?:deixe|deixa|torne|faça|faz)(?:-| )?(?:o|a|mais|isso|tudo)?", "(?:rendi|fai|falla|fallo)(?:lo|la|li|le)?", "сделай(?:те)?",
    ],
    script: ["改(?:成|为|得|一下|写)", "写得.{0,6}(?:点|些)", "(?:更|再).{0,6}(?:一点|一些|点儿?)", "もっと", "もう(?:少し|ちょっと)", "(?:く|に|で|と)して(?:ください|くれ|ほしい|欲しい)", "(?:く|に)書き直"],
  }),
  cue("length", feedback, 1.9, "anywhere", {
    words: [
      "(?:much |a bit |a little |even |way )?(?:shorter|longer|briefer)", "more (?:concise(?:ly)?|brief(?:ly)?|succinct|compact|detailed|specific|in[- ]depth|thorough|to the point)", "less (?:wordy|verbose|detailed?|long|text)", "(?:shorten|condense|lengthen|trim|tighten)(?: (?:it|this|that|the|down|up))?", "cut (?:it|this|that|the .{1,20}) (?:down|in half|to)",
      `(?:in|to|with|only|just) ${n} (?:short |full |simple )?(?:words?|sentences?|lines?|paragraphs?)`, "(?:under|at most|max(?:imum)?(?: of)?|no more than|less than|fewer than|up to|within|about|around) \\d+ (?:words?|sentences?|lines?|characters?|items?|points?|paragraphs?)", "half (?:the|that|as) (?:length|long)", "one[- ](?:liner|sentence|paragraph)", "tl;?dr", "too long",
      "más (?:cort[oa]|larg[oa]|breve|conciso|detallad[oa]|específic[oa])s?", "resum(?:e|elo|ido)", "acórtalo", "en \\d+ (?:palabras|frases|líneas)", "(?:viel |etwas )?(?:kürzer|länger|knapper|ausführlicher|detaillierter|konkreter)", "kürze(?:n)?", "in \\d+ (?:worten|sätzen|zeilen)", "plus (?:court|courte|long|longue|bref|concis|détaillé|précis)(?:e|s|es)?", "raccourci[st]?", "en \\d+ (?:mots|phrases|lignes)", "mais (?:curt[oa]|long[oa]|breve|conciso|detalhad[oa]|específic[oa])s?", "em \\d+ (?:palavras|frases|linhas)", "più (?:cort[oa]|brev[ei]|lung[oa]|concis[oa]|dettagliat[oa]|specific[oa])", "in \\d+ (?:parole|frasi|righe)", "(?:по)?короче", "(?:по)?длиннее", "подробнее", "кратко",
    ],
    script: ["(?:短|长|简短|简洁|详细|具体)(?:一?点|一?些)", "(?:太长|精简|缩短|扩写)", "\\d+字(?:以内|以下|左右)", "(?:短く|長く|簡潔に|詳しく|具体的に)", "\\d+(?:文字|字|行|文)(?:以内|くらい|程度|で)"],
  }),
  cue("format", feedback, 1.9, "anywhere", {
    words: [
      "bullet(?:ed|s| ?-?points?| list)", "(?:as|in|into|with|using) (?:a |an )?(?:\\p{L}+ )?(?:table|numbered list|list|paragraphs?|plain text|markdown|json|csv|prose|steps|headings|columns)", "(?:no|without|drop the|skip the|remove the|fewer|less|lose the) (?:any )?(?:\\p{L}+ )?(?:headings?|headers?|bullets?|bullet points|lists?|markdown|emojis?|exclamation marks?|hashtags?|intro(?:duction)?|preamble|disclaimers?|adjectives|jargon|asterisks|tables?|comments|explanations?|fluff|filler|rhymes?)",
      "step[- ]by[- ]step", "(?:just|only) (?:the|give me the) (?:code|answer|list|number|result|table|final|names?|email|text)", "numbered",
      "(?:en|con) (?:una )?(?:tabla|lista|viñetas|párrafos)", "sin (?:viñetas|listas?|emojis?|introducción|tablas?)", "(?:als|in einer?|in) (?:tabelle|liste|stichpunkten?|fließtext|aufzählung)", "ohne (?:\\p{L}+ )?(?:aufzählung(?:en)?|emojis?|überschriften|einleitung|stichpunkte|tabelle)", "(?:en|sous forme de|dans) (?:un |une )?(?:tableau|liste|puces|paragraphes?)", "sans (?:\\p{L}+ )?(?:puces|emojis?|listes?|introduction|titres)", "(?:em|numa|com|uma) (?:tabela|lista|tópicos|parágrafos?)", "sem (?:\\p{L}+ )?(?:tópicos|emojis?|listas?|introdução)", "(?:in|come|con) (?:una )?(?:tabella|elenco|lista|punti)", "senza (?:\\p{L}+ )?(?:elenchi|emoji|introduzione|punti)", "(?:в виде|списком|таблицей|без списк)",
    ],
    script: ["(?:用|做成|改成|以)(?:表格|列表|分点|段落)", "不要(?:用)?(?:表格|列表|表情|分点)", "(?:表|箇条書き|リスト|段落)(?:に|で|形式)", "(?:絵文字|箇条書き)(?:は|を)?(?:なし|使わ|やめ|不要)"],
  }),
  cue("tone", feedback, 1.8, "anywhere", {
    words: [
      "(?:more|less|not so|slightly|a bit more|a little more) (?:formal|informal|casual|professional|friendly|polite|serious|funny|playful|warm|personal|enthusiastic|dramatic|poetic|emotional|conversational|natural|human|technical|academic|creative|realistic|descriptive|engaging|persuasive|assertive|confident|apologetic|corporate|salesy|robotic|generic|direct|blunt|simple|complex|subtle|upbeat|neutral|modern)",
      "(?:simpler|funnier|warmer|friendlier|softer|punchier|snappier|darker|lighter|scarier|easier|harder|cheaper|clearer|plainer|catchier|gentler|nicer)", "(?:in|using|use) (?:simpler?|plain|easier|layman['’]?s|everyday) (?:terms|words|language|english)", "like i(?:['’]m| am) (?:five|5|a \\p{L}+)", "(?:sound|be) (?:more|less) \\p{L}+", "dumb it down", "for (?:a |an )?(?:beginners?|kids|child(?:ren)?|five[- ]year[- ]old|\\d+[- ]year[- ]olds?)",
      "más (?:formal|informal|cercan[oa]|sencill[oa]|simple|amable|natural|profesional|divertid[oa]|personal|directo)", "menos (?:formal|técnic[oa]|seri[oa])", "(?:förmlicher|formeller|lockerer|freundlicher|einfacher|persönlicher|sachlicher|natürlicher|professioneller)", "weniger \\p{L}+", "plus (?:formel(?:le)?|simple|naturel(?:le)?|amical(?:e)?|chaleureu(?:x|se)|professionnel(?:le)?|direct(?:e)?|décontracté(?:e)?)", "moins \\p{L}+", "mais (?:formal|informal|simples|natural|amigável|profissional|direto|leve|divertid[oa])", "menos formal", "più (?:formal[ei]|informal[ei]|semplic[ei]|natural[ei]|amichevol[ei]|professional[ei]|dirett[oa])", "meno \\p{L}+", "(?:проще|дружелюбнее|официальнее|веселее|мягче|формальнее)", "(?:более|менее) \\p{L}+",
    ],
    script: ["(?:正式|口语|简单|自然|友好|幽默|随意|通俗|委婉)(?:一?点|一?些)", "(?:カジュアル|丁寧|簡単|自然|フォーマル|やわらか|柔らか|わかりやす|分かりやす)(?:に|な|く)", "敬語"],
  }),
  cue("language", feedback, 2, "anywhere", {
    words: [
      `(?:reply|answer|respond|write|speak|say|do|have|talk|continue|explain|repeat)(?: (?:to me|it|that|this|again|the same))? in (?:${languages})`, `^(?:now |and |please |ok |no,? )*in (?:${languages})(?:,? please)?[.!?]*$`, `(?:in|to) (?:${languages}) (?:instead|not (?:${languages}))`, `(?:i|we) (?:don['’]?t|can['’]?t|do not) (?:speak|read|understand) (?:${languages})`,
      `(?:responde|contesta|escríbelo|dilo|hazlo)(?:me)? en (?:${languages})`, `en (?:${languages}),? por favor`, `(?:antworte|schreib|bitte)(?: bitte| es| mir)* auf (?:${languages})`, `auf (?:${languages}),? bitte`, `(?:réponds|répondez|écris)(?:-moi)? en (?:${languages})`, `en (?:${languages}),? (?:s['’]il|stp|svp)`, `(?:responda|responde|escreva) em (?:${languages})`, `em (?:${languages}),? por favor`, `(?:rispondi|scrivi)(?:mi)? in (?:${languages})`, `на (?:${languages})`,
    ],
    script: ["(?:请)?用(?:中文|英文|英语|日语|法语)(?:回答|写|说|重)", "(?:日本語|英語|中国語)で(?:お願い|答え|書い|返)"],
  }),
  cue("edit", feedback, 1.7, "start", {
    words: [
      "(?:(?:can|could|would) (?:you|u) |please |pls |just |now |then |also |maybe )*(?:add|remove|delete|drop|replace|change|swap|leave out|take out|get rid|include|avoid|fix|correct|rename|mention|cut|adjust|modify|update|rephrase|reword|rewrite (?:it|this|that|the)|redo (?:it|this|that|the)|reduce|increase|simplify|improve|stick to|focus on|use)",
      "(?:(?:puedes|podrías|por favor|ahora|pero) )*(?:añade|agrega|añadir|quita|elimina|cambia|cambiar|reemplaza|incluye|corrige|usa|evita|reescribe|simplifica)", "(?:(?:kannst du|könntest du|bitte|jetzt|aber) )*(?:füge?|entferne?|ändere?|ersetze?|lass|streiche?|nimm|verwende?|benutze?|korrigiere?|vereinfache?|schreib es)", "(?:(?:peux-tu|pouvez-vous|pourrais-tu|maintenant|mais) )*(?:ajoute[rz]?|enlève[rz]?|supprime[rz]?|retire[rz]?|remplace[rz]?|corrige[rz]?|évite[rz]?|simplifie[rz]?|réécri[st]|utilise[rz]?)", "(?:(?:você pode|pode|por favor|agora|mas) )*(?:adicion[ea]r?|acrescent[ea]r?|remov[ae]r?|tir[ea]r?|troqu?[ea]r?|mud[ea]r?|inclu[ai]r?|corrij[ae]|evite|reescrev[ae]|simplifi(?:que|ca)|us[ea])", "(?:(?:puoi|potresti|per favore|ora|ma) )*(?:aggiungi(?:ere)?|togli(?:ere)?|rimuov(?:i|ere)|cambia(?:re)?|sostituisci|includi|correggi|evita|riscrivi(?:lo|la)?|semplifica|usa)", "(?:(?:пожалуйста|теперь|можешь|можно) )*(?:добавь|убери|удали|замени|измени|исправь|перепиши|упрости|используй|добавить|убрать)(?:те)?",
    ],
    script: ["(?:请|能|可以|帮我)*(?:加上|加入|添加|去掉|删除|删掉|换成|修改|改一下|重写|简化)", "(?:.{0,12})(?:追加して|削除して|消して|変えて|直して|入れて|外して|加えて|書き直して)"],
  }),
  cue("constraint", feedback, 1.5, "anywhere", {
    words: [
      "(?:don['’]?t|do not|stop|no need to|never|please no) (?:\\p{L}+ )?(?:use|using|include|mention|add|start|begin|say|repeat|give|write|make|put|tell|explain|do|need|want|call|be|end|list|assume|change|touch)", "instead(?: of)?", "rather than", "this time", "without (?:the|any|using|a)", "but (?:with(?:out)?|make|use|keep|shorter|longer|more|less|in|for|not|only|this time|i (?:want|need|don['’]?t|can['’]?t|have))", "(?:only|just) (?:use|include|list|give|the first|one|\\d)", "all of (?:it|them) (?:should|must)", "(?:allergic|vegan|vegetarian|gluten)",
      "en (?:vez|lugar) de", "no (?:uses|incluyas|pongas|menciones|repitas)", "esta vez", "pero (?:sin|con|más|menos|que)", "statt(?:dessen)?", "anstatt", "diesmal", "aber (?:ohne|mit|bitte|kürzer|nicht|ich)", "nicht mehr", "au lieu de?", "plutôt", "cette fois", "mais (?:sans|avec|plus|en|pas)", "n['’]utilise pas", "em vez de", "desta vez", "mas (?:sem|com|mais|menos)", "não (?:use|inclua|coloque|mencione)", "invece(?: di)?", "questa volta", "ma (?:senza|con|più)", "non (?:usare|includere|mettere)", "вместо", "на этот раз", "но (?:без|с|не)", "не (?:используй|надо|нужно)",
    ],
    script: ["不要", "我不(?:喜欢|想|要|吃|用)", "别(?:用|写|再)", "而不是", "但(?:是)?(?:不|要|请)", "ではなく", "じゃなくて", "なしで", "(?:使|書|入れ|言)わないで", "代わりに"],
  }),
  cue("terse_constraint", feedback, 1.5, "anywhere", {
    words: ["(?:^|[.,;:!] ?)(?:and )?no (?!one|way|idea|problem|worries|thanks|thank|need|matter|longer|i|it|that|this|you|we|the)\\p{L}+", "[\\p{L}\\p{N}]+ only(?=\\s*[.,;!]|$)", "(?:max|min)(?:imum)?(?=\\s*[.,;!]|$)", "(?:^|[.,;:!] ?)(?:y |e |et |und )?(?:sin|sans|sem|senza|ohne) \\p{L}+", "(?:only|just|solo|sólo|nur|seulement|só|soltanto) (?:what|with|the|in|de|con|com|mit|lo que|was|avec)", "i (?:can['’]t|cannot|don['’]t) (?:afford|use|eat|have|own|drink|drive|like|want)", "remember,? (?:that )?i", "i(?:['’]m| am) (?:allergic|vegan|vegetarian|not (?:a|an|american|allowed))"],
  }),
  cue("code", feedback, 1.5, "anywhere", {
    words: [`(?:in|using|use|with|for) (?:${programming})(?: instead|,? (?:please|not)|$)`, "(?:i(?:['’]m| am)? |still |now |it )?(?:get|got|getting|gives?|gave|throws?|shows?|having) (?:me )?(?:this |an? |the |same |another |following |that )*(?:\\p{L}+ )?(?:errors?|exceptions?|warnings?)", "(?:syntax|type|name|value|key|index|attribute|import|module)(?: |not)*error", "traceback", "(?:is )?not (?:defined|found|recognized)", "wrong (?:language|library|version|framework|file|column)", "(?:me (?:da|sale|aparece)|tengo) (?:un |este |el )?(?:mismo )?error", "(?:bekomme|kriege) .{0,20}fehler", "fehlermeldung", "j['’]ai (?:une |cette )?erreur", "(?:dá|deu|recebi) (?:um |este |o )?erro", "(?:mi dà|ottengo|ho) (?:un |questo )?errore"],
    script: ["报错", "出错", "エラー(?:が|に)"],
  }),
];

const again: Cue[] = [
  cue("retry", "reattempt_without_feedback", 4, "whole", {
    words: [
      "(?:(?:can|could) you |please |just |let['’]s |now )*(?:(?:try|do|write|generate|answer|say|make|run|give|tell|explain)(?: (?:it|that|this|me|them))?(?: (?:once )?(?:again|over|one more time)| another one| one more))", "(?:once )?again", "re-?(?:try|do|generate|write|phrase|word|roll)(?: (?:it|that|this))?", "one more(?: time)?", "once more", "another(?: (?:one|try|version|attempt|go|shot))?", "(?:give|show|tell|write) me (?:another|a different|one more|a new)(?: (?:one|version|try))?", "(?:a )?(?:different|new|other) (?:one|version)", "(?:have )?another (?:go|try|shot)", "give it another (?:go|try|shot)", "start over", "from the (?:top|beginning)", "same question", "answer (?:me|the question|my question)", "hello\\?+",
      "(?:inténtalo |hazlo |prueba )?(?:otra vez|de nuevo)", "(?:otr[oa]|una más|inténtalo)", "(?:versuch(?:e|s)? (?:es )?|mach (?:es |das )?|bitte )*(?:noch ?mal|noch einmal|erneut)", "noch (?:eins|eine|einen versuch)", "(?:réessaie|réessayez|recommence|essaie encore|encore(?: une fois)?|une autre(?: version)?|un autre)", "(?:tente |tenta |faz |faça )?(?:de novo|novamente|outra vez|mais uma vez)", "(?:faz |faça )?(?:outr[oa]|mais uma?)(?: igual(?:zinho)?)?", "haz otr[oa]", "fa(?:i|nne) (?:un)?[' ]?altr[oa]", "fais-en un(?:e)? autre", "(?:riprova|prova )?(?:di nuovo|ancora(?: una volta)?|un['’]altra volta)", "riprova", "un['’]altr[oa]", "(?:попробуй |сделай |давай )?(?:ещё|еще) раз(?:ок)?", "(?:заново|снова|по новой)",
    ],
    script: ["(?:请|再|重新)*(?:再(?:来|试|写|说|做)(?:一次|一遍|一个)|重(?:新|试|写|做|来)(?:一次|一遍|一下)?(?:回答|生成|写)?)", "换一个", "再来", "もう(?:一度|一回|いちど|いっかい)(?:.{0,8})?", "やり直(?:し|して)(?:.{0,6})?", "別の(?:を|案を?)?(?:.{0,6})?", "他のは"],
  }),
  cue("retry_end", "reattempt_without_feedback", 1.6, "anywhere", { words: ["(?:say|tell|write|do|give|show|read|explain|run|post|send|repeat)[^.!?]{0,40}(?:again|once more|one more time)(?: for me| please|, please)?(?=\\s*[.,!?]|$)", "(?:can|could) you repeat", "repeat (?:that|it|the)", "[\\p{L}_]+ again[.!?]*$"] }),
  cue("retry_among", "reattempt_without_feedback", 1, "anywhere", {
    words: ["try (?:that |this |it )?again", "(?:do|write|say|generate|redo) (?:it|that|this) (?:all )?(?:again|over)", "once more", "one more time", "(?:have|give it|take) another (?:go|try|shot|crack|pass)", "inténtalo", "otra vez", "de nuevo", "noch ?mal", "noch einmal", "réessaie", "recommence", "encore une fois", "de novo", "novamente", "riprova", "di nuovo", "(?:ещё|еще) раз"],
    script: ["再(?:试|来|写)(?:一次|一遍)?", "重新", "もう一度", "もう一回", "やり直"],
  }),
];

const praise = ["thanks?(?: you)?(?: (?:so|very) much| a (?:lot|ton|bunch|million)| again| for \\p{L}+(?: \\p{L}+){0,3})?", "thank you", "thx", "ty", "cheers", "(?:this|that|it)(?:['’]s| is| was| looks)? (?:so |really |very |absolutely |just |exactly |pretty |much )*(?:great|perfect|excellent|awesome|amazing|brilliant|wonderful|fantastic|lovely|beautiful|helpful|useful|nice|good|better|right|hilarious|spot on|what i (?:needed|wanted|was looking for))", "perfect(?:ion)?", "great(?: (?:job|work|answer|stuff))?", "awesome", "excellent", "amazing", "brilliant", "wonderful", "fantastic", "lovely", "beautiful", "superb", "nice(?: one| work| job)?", "good (?:job|work|answer|one|stuff|bot)", "well (?:done|put|said)", "(?:i )?(?:really |absolutely )?(?:love|like|loved|appreciate) (?:it|this|that|how|the)", "(?:that|it|this) (?:works|worked|helps|helped|did it|did the trick|makes sense|clears (?:it|that) up|nailed it)(?: \\p{L}+){0,2}", "exactly(?: what i (?:needed|wanted))?", "you(?:['’]re| are) (?:the best|a (?:star|genius|lifesaver|legend)|awesome|amazing)", "much (?:better|appreciated|clearer)", "nailed it", "spot on", "yay", "wow", "cool", "sweet", "you rock", "good", "finally", "(?:it |that |this |that one |which |the \\p{L}+ )?(?:work(?:s|ed)|match(?:es|ed)|compiles|runs|passe[sd])(?: now| fine| great| perfectly| first time)?(?=\\s*[.,!]|$)", "(?:the )?\\p{L}+ is (?:good|great|perfect)", "i (?:wouldn|won|don)['’]?t change a (?:thing|word)", "that['’]?s (?:exactly )?(?:how|what|the one) i (?:like|want|needed|meant)", "you (?:have|['’]ve) been (?:\\p{L}+ )?(?:kind|helpful|great)", "(?:most|so|very) (?:kind|helpful)"];
const praiseElsewhere = ["(?:muchas |mil )?gracias", "perfecto", "genial", "excelente", "me encanta", "estupendo", "muy (?:bien|bueno|útil)", "fantástico", "buenísimo", "(?:vielen |herzlichen |tausend )?dank(?:e)?(?: (?:schön|dir|ihnen|sehr))?", "super", "prima", "toll", "klasse", "sehr (?:gut|schön|hilfreich)", "genau (?:richtig|so)", "perfekt", "wunderbar", "merci(?: (?:beaucoup|bien))?", "parfait(?:e)?", "génial", "très (?:bien|bon|utile)", "excellent(?:e)?", "c['’]est (?:parfait|super|génial|top)", "(?:muito )?obrigad[oa]", "perfeito", "ótimo", "adorei", "muito bo[ma]", "valeu", "excelente", "(?:molte |mille )?grazie(?: mille)?", "perfetto", "ottimo", "fantastico", "bellissimo", "benissimo", "bravo", "(?:большое )?спасибо(?: большое)?", "отлично", "супер", "идеально", "прекрасно", "класс", "здорово"];
const praiseScripts = ["(?:非常|太|多)?(?:感谢|谢谢)(?:你|您)?(?:的.{1,6})?", "太(?:好|棒)了", "很好", "完美", "不错", "(?:どうも)?ありがとう(?:ございま(?:す|した))?", "完璧(?:です)?", "いいね", "素晴らしい(?:です)?", "助かり(?:ました|ます)", "最高(?:です)?"];

const content: Cue[] = [
  cue("praise", "positive_feedback", 2.2, "start", { words: [...praise, ...praiseElsewhere], script: praiseScripts }),
  cue("emoji_praise", "positive_feedback", 1.6, "anywhere", { words: [], script: ["[👍❤💛💚💙🙏😍🎉💯🙌🥰👏🔥]"] }),
  cue("praise_among", "positive_feedback", 1.2, "anywhere", { words: [...praise.filter((p) => p.includes(" ")), "thanks", "gracias", "danke", "merci", "obrigad[oa]", "grazie", "спасибо", "perfect", "love"], script: praiseScripts }),
];

const questions: Cue[] = [
  cue("about_answer", "clarification", 2, "anywhere", {
    words: [
      "what (?:do|did|does) .{0,24}mean", "wdym", "what if", "does (?:the|it|that|this|my|a) ", "what (?:is|was) meant by", "are you sure", "is (?:that|this|it) (?:true|correct|right|accurate|safe|ok|okay|legal|normal|still|really|possible)", "how do you know", "how (?:sure|confident) are you", "where did you (?:get|find|read)", "(?:what(?:['’]s| is| are) (?:your|the) )?sources?\\?", "(?<!(?:can|could|would|will|do|did|does|should|if|how|as) )you (?:said|mentioned|wrote|say|listed|suggested|recommended|used|described)", "why (?:did|do|are|would|is|isn['’]t|not|does|was|the)", "how come", "what(?:['’]s| is) the difference", "(?:explain|clarify) (?:why|how|what|that|this|the|your|more|further|it)", "elaborate", "tell me more", "go (?:deeper|into (?:more )?detail)", "can you (?:explain|clarify|expand on)", "what(?:['’]s| is) (?:a|an|that|this|the point)", "which (?:one|of (?:these|those|them))", "does (?:that|this|it) (?:mean|work|apply|also|include|matter|need|have|change|still)", "(?:do|would|will|can|should) (?:that|this|it|they|these|those) ", "so (?:if|does|is|i|it|that|this|you|basically|are|do|then)", "in (?:the|your) (?:first|second|third|last|above|previous) (?:\\p{L}+)", "(?:the|your) (?:first|second|third|last|\\d+(?:st|nd|rd|th)) (?:one|point|step|option|line|paragraph|example|sentence)",
      "¿?qué (?:significa|quieres decir|es (?:eso|un|una))", "¿?estás segur[oa]", "¿?por qué", "¿?(?:a qué|cuál es la diferencia)", "explíca(?:me|lo)", "was (?:bedeutet|heißt|meinst|ist (?:ein|eine|das|der))", "bist du sicher", "warum", "wieso", "was ist der unterschied", "erklär", "que (?:veux-tu dire|signifie)", "qu['’]est-ce que (?:ça|c['’]est|cela)", "tu es s[ûu]r", "pourquoi", "quelle est la différence", "explique", "o que (?:significa|é|quer dizer)", "tem certeza", "por qu[eê]", "qual (?:é )?a diferença", "explica", "cosa (?:significa|vuoi dire|intendi)", "che cosa", "(?:sei )?sicur[oa]\\?", "perché", "qual è la differenza", "spiega(?:mi)?", "что (?:значит|это|такое|ты имеешь)", "ты уверен", "почему", "зачем", "в чём разница", "объясни",
    ],
    script: ["(?:什么|啥)意思", "为什么", "你确定", "是什么\\??", "有什么区别", "解释一下", "どういう(?:意味|こと)", "なぜ", "なんで", "どうして", "本当(?:に|です)", "(?:って|とは)何", "違いは", "説明して"],
  }),
  cue("agreement", "clarification", 0.5, "start", {
    words: ["yes", "yeah", "yep", "yup", "sure", "correct", "exactly", "sí", "claro", "ja", "genau", "oui", "sim", "sì", "да"],
    script: ["是的", "对", "はい", "ええ"],
  }),
];

const others: Cue[] = [
  cue("acknowledged", "other", 2.6, "whole", {
    words: ["(?:ok(?:ay)?|k|kk|hm+|mm+|ah+|oh+|uh+|huh|lol|haha+|hehe+|lmao|interesting|i see|got it|understood|noted|fair(?: enough)?|right|alright|sure|whatever|never ?mind|nvm|test|testing|hi+|hey+|hello|yo|bye|goodbye|good (?:night|morning|evening)|see you|brb|one (?:sec|moment)|wait|hold on|vale|bueno|hola|adiós|entiendo|ah ok|alles klar|okay|verstehe|tschüss|hallo|moin|d['’]accord|ok|je vois|bonjour|salut|au revoir|entendi|tá|oi|tchau|beleza|capito|va bene|ciao|понятно|ясно|ладно|хорошо|привет|пока)(?:[ ,.!]+(?:ok(?:ay)?|then|i see|got it|bye|lol|haha|good night|see you))?"],
    script: ["好的?", "哦+", "嗯+", "知道了", "明白了?", "你好", "再见", "哈+", "(?:わかり|分かり|了解)(?:ました|です)?", "なるほど", "うん", "こんにちは", "笑"],
  }),
  cue("small_talk", "other", 1.6, "start", {
    words: ["(?:haha|lol|lmao|hehe)+", "i(?:['’]ll| will) (?:try|think|see|check|read|let you know|get back|come back|give it|do that|be|go|test|look|tell|show|send|have)", "i (?:guess|think i|feel|wish|wonder|hope|just (?:realized|noticed|wanted|remembered))", "good (?:night|morning|evening)", "hi", "hello", "hey there", "how are you", "never ?mind", "are you (?:a |an )?(?:human|robot|ai|real|there|alive|chatgpt|gpt)", "who (?:made|created|are) you", "do you (?:like|have|feel|dream|sleep|remember|ever|think)", "gotta go", "(?:my (?:boss|wife|husband|kids?|mom|dad|dog|cat|friend|teacher|son|daughter|sister|brother|mother|father))", "buenas noches", "hasta luego", "gute nacht", "bis (?:später|dann|morgen)", "bonne (?:nuit|journée|soirée)", "boa noite", "até (?:logo|mais)", "buona ?notte", "до свидания", "как дела"],
    script: ["晚安", "你是(?:人|机器)", "おやすみ", "また(?:ね|あとで|明日)"],
  }),
];

const nextTask: Cue[] = [
  cue("next", "new_request", 1.8, "start", {
    words: [
      "(?:now|next|then)(?:,| i| we| can| could| please|:| (?:write|do|give|create|tell|help|explain|generate|show|list|let|for|what|how|about))", "(?:another|different|new|separate|unrelated|second|other|next|last|quick|one (?:more|last|other)) (?:quick )?(?:question|topic|thing|task|request|one:)", "(?:on|to) (?:a(?:nother|n unrelated| different)|something)", "(?:moving|switching) (?:on|gears|topics?)", "change of (?:subject|topic)", "by the way", "btw", "unrelated", "separately", "also(?:,| (?:can|could|what|how|i|do|write|tell|give))", "(?:what|how) about", "can you also", "i also (?:need|want|have)", "while (?:i have you|you['’]re at it|we['’]re at it)", "new (?:topic|question)",
      "(?:the )?same (?:thing |kind |style |format |again |question )?(?:of \\p{L}+ )?(?:for|with|but for|to)", "do (?:the )?same", "(?:lo mismo|igual) (?:para|con)", "(?:dasselbe|das gleiche|gleiches) (?:für|mit)", "(?:la )?même chose (?:pour|avec)", "(?:a )?mesma coisa (?:para|pra|com)", "(?:la )?stessa cosa (?:per|con)", "то же самое (?:для|с)",
      "ahora", "otra (?:pregunta|cosa|duda)", "cambiando de tema", "por cierto", "además", "también", "siguiente", "¿?y (?:qué|cómo|cuál)", "jetzt", "nun", "(?:eine )?(?:andere|weitere|neue) (?:frage|sache)", "anderes thema", "übrigens", "noch (?:eine frage|was)", "und (?:was|wie)", "maintenant", "(?:une )?autre (?:question|chose|sujet)", "au fait", "sinon", "et (?:pour|si|comment|quel)", "agora", "outra (?:pergunta|coisa|dúvida)", "mudando de assunto", "aliás", "e (?:como|qual|quanto)", "adesso", "ora", "(?:un['’])?altra (?:domanda|cosa)", "cambiando argomento", "a proposito", "теперь", "(?:другой|ещё один|еще один|новый) вопрос", "кстати", "а (?:что|как|если)",
    ],
    script: ["另外", "现在", "接下来", "下一个", "换个话题", "还有", "对了", "那.{0,8}呢", "ところで", "次(?:は|に|の)", "別の(?:質問|話|件)", "それと", "あと(?:、|は)", "今度は", "話は変わ"],
  }),
  cue("request", "new_request", 1.6, "start", {
    words: [
      "(?:(?:can|could|would|will) (?:you|u) (?:please |now |also |help me (?:to )?|kindly )?|please |kindly |now |i(?:['’]d| would) like (?:you to |to )?|i (?:need|want) (?:you to |to )?)*(?:write|create|give me|generate|list|make (?:a|an|me|some)|tell me|summari[sz]e|translate|design|draft|find|recommend|suggest|plan|develop|describe|compare|calculate|solve|build|convert|propose|prepare|show me|help|teach|play|act as|imagine|name|provide|recommend|compose|outline|come up with|think of|analy[sz]e|define|continue|expand|proofread|check|review)",
      "i (?:need|want|would like)", "let['’]?s", "(?:¿?(?:puedes|podrías|me puedes) )?(?:escrib[ei]|crea|dame|genera|haz(?:me)?|dime|resume|traduc[ei]|diseña|redacta|recomiéndame|explica|describe|calcula|ayúda(?:me)?|necesito|quiero)(?:r|me|s)?", "(?:kannst du |könntest du |bitte )?(?:schreib(?:e)?|erstell(?:e)?|gib|generiere|nenne?|sag|fasse?|übersetze?|entwirf|empfiehl|beschreibe?|hilf|ich (?:brauche|möchte|suche|will))(?: mir| bitte)?", "(?:peux-tu |pouvez-vous |pourrais-tu )?(?:écri(?:s|re)|cré(?:e|er)|donne(?:r)?|génère|fais|dis|résume(?:r)?|tradui[st]|rédige(?:r)?|recommande|décri[st]|aide(?:r)?)(?:-moi)?", "(?:você pode |pode |poderia )?(?:escrev[ae]r?|cri[ea]r?|dê|me d[êá]|gere|faça|diga|resum[ai]r?|traduz[ai]?r?|recomend[ae]|descrev[ae]|ajud[ae]r?|preciso|quero)", "(?:puoi |potresti |mi puoi )?(?:scriv(?:i|ere|imi)|crea(?:re)?|dammi|genera|fai|dimmi|riassumi|traduci|consiglia(?:mi)?|descrivi|aiutami|ho bisogno|vorrei)", "(?:можешь |пожалуйста )?(?:напиши|создай|дай|сгенерируй|сделай|скажи|перечисли|переведи|посоветуй|опиши|расскажи|помоги|придумай|составь|мне (?:нужно|надо))(?:те)?",
    ],
    script: ["(?:请|帮我|能不能|可以)*(?:写|翻译|总结|给我|列出|推荐|介绍|生成|创建|告诉|设计|做一?个)", "(?:我想|我要|我需要)", ".{0,24}(?:を書いて|を作って|を教えて|を翻訳|をまとめて|を考えて|をおすすめ|を提案)"],
  }),
  cue("question", "new_request", 0.7, "start", {
    words: [
      "how (?:do|can|to|would|should|many|much|long|often|far|old|is|are|does|did)", "(?:what|who|when|where|which)(?:['’]?s| is| are| was| were| do| does| did| would| should| can| could| kind| type| if| \\p{L}+)", "what['’]?s", "(?:any|got any) (?:ideas|tips|suggestions|advice|recommendations)", "suppose", "if", "¿?(?:cómo|qué|cuál|cuáles|cuándo|dónde|quién|cuánt[oa]s?)", "(?:wie|was|welche[rs]?|wann|wo|wer|wieviel|wie viel)", "(?:comment|quel(?:le)?s?|quand|où|qui|combien|qu['’]est-ce|j['’]ai besoin|je (?:voudrais|veux|cherche))", "(?:como|qual|quais|quando|onde|quem|quant[oa]s?)", "(?:come|qual(?:e|i)?|quando|dove|chi|quant[oaie]|cosa)", "(?:как|какой|какая|какие|когда|где|кто|сколько)",
    ],
    script: ["(?:如何|怎么|什么是|有没有|为什么)", ".{0,24}(?:はありますか|方法は|ですか|でしょうか)"],
  }),
  cue("continuation", "new_request", 1.4, "whole", {
    words: ["(?:please )?(?:continue|go on|carry on|keep going|proceed|more|next(?: one)?|and then|part (?:\\d+|two|three))(?: please)?", "(?:continúa|sigue|más|siguiente)", "(?:weiter|mach weiter|mehr)", "(?:continue|la suite|suivant)", "(?:continue|continua|mais)", "(?:continua|vai avanti|ancora)", "(?:продолжай|дальше|ещё)"],
    script: ["继续", "接着(?:写|说)?", "続けて(?:.{0,6})?", "続き(?:.{0,6})?", "次"],
  }),
  cue("another", "new_request", 1.2, "anywhere", { words: ["(?:do|write|make|give me|create|show me) (?:another|one more)(?: one)? (?:about|for|on|with|of|where|but about)"] }),
  cue("translate", "new_request", 1, "anywhere", { words: ["translate", "traduc[ei](?:lo|la)?", "tradu(?:is|ire|ci|za|zir)", "übersetze?(?:n)?", "переведи(?:те)?"], script: ["翻译", "翻訳"] }),
];

export const cues: readonly Cue[] = [...rejection, ...changes, ...again, ...content, ...questions, ...others, ...nextTask];
