/**
 * Does a rewrite give away that it is one? Trained on such answers, a model thanks its users for remarks they never made.
 * Phrases that speak of the user's remarks, of an earlier version, or apologise for it, in the languages most logs are in.
 */
import { unicodeWords } from "../text/patterns.js";

const patterns: readonly RegExp[] = [
  // English
  /\bas (you|the user) (asked|requested|suggested|mentioned|wanted|pointed out|specified|noted)\b/i,
  /\b(per|based on|following|considering|given|incorporating|addressing|taking into account) your (feedback|remarks?|comments?|suggestions?|corrections?|request for (a )?(change|revision))/i,
  /\b(thank you|thanks) for (your|the) (feedback|correction|clarification|suggestions?|comments?|pointing)/i,
  /\b(here('s| is| are)|this is|below is) (the|a|an|my|your) ?(\w+ ){0,2}(revised|rewritten|updated|corrected|improved|shorter|longer|simpler|simplified|shortened|condensed|better|new|edited|modified|adjusted) (\w+ ){0,2}(version|answer|response|draft|text|rewrite|one|list|email|summary|explanation|code)\b/i,
  /\b(revised|rewritten|updated|corrected|improved) (version|answer|response)\b[^.\n]{0,20}:/i,
  /\b(i('ve| have)|i) (now )?(revised|rewritten|rewrote|updated|corrected|shortened|simplified|adjusted|fixed|removed|added) (it|this|that|the|my|your)\b/i,
  /\b(my|the) (previous|earlier|last|first|original) (answer|response|version|reply|message|explanation|attempt)\b/i,
  /\b(i|we) apologi[sz]e\b|\b(my|our) apologies\b|\bsorry (about|for) (the|that|my|any) (\w+ )?(confusion|mistake|error|misunderstanding|earlier|previous|oversight|length)/i,
  /\byou('re| are) (absolutely |completely )?right\b/i,
  /\b(you|the user) (wanted|asked|requested|complained|were not (happy|content|satisfied)|didn't like|did not like|said)\b[^.\n]{0,40}\b(shorter|longer|simpler|different|more|less|fewer|without|instead|again)\b/i,
  // Spanish
  /\b(como|tal como) (me )?(pediste|pedías|has pedido|solicitaste|pidió|solicitó|mencionaste|indicaste)\b/iu,
  /\b(según|basad[oa] en|siguiendo|teniendo en cuenta) (tus|tu|sus|su) (comentarios?|sugerencias?|correcci(ón|ones)|indicaci(ón|ones)|observaci(ón|ones))/iu,
  /\b(versión|respuesta) (\p{L}+ )?(corregida|revisada|mejorada|actualizada|más corta|más breve|resumida|abreviada)|\bmi respuesta anterior\b|\b(pido disculpas|lamento (la|el) (confusión|error)|perdón por)\b|\bgracias por (tu|su|la) (comentario|corrección|aclaración|sugerencia)|\btienes (toda la )?razón\b/iu,
  // French
  /\bcomme (vous l'avez|tu l'as) (demandé|suggéré|mentionné|souhaité)|\bcomme demandé\b|\b(selon|d'après|suite à|en tenant compte de) (vos|votre|tes|ton) (remarques?|commentaires?|suggestions?|retours?|demande)/iu,
  /\b(version|réponse) (\p{L}+ )?(corrigée|révisée|améliorée|plus courte|raccourcie|mise à jour)\b|\bma réponse précédente\b|\bje (m'excuse|vous prie de m'excuser)|\bdésolée? (pour|de) (la|l'|le|cette)|\bmerci pour (vos|votre|ta|ton) (remarque|retour|commentaire|correction|précision)|\b(vous avez|tu as) (tout à fait )?raison\b/iu,
  // German
  /\bwie (gewünscht|von (dir|ihnen) gewünscht|du (es )?wolltest|sie (es )?wünschten|erbeten|gefordert)\b|\b(aufgrund|gemäß|nach|entsprechend|basierend auf) (deine[rnms]*|ihre[rnms]*) (rückmeldung|feedback|anmerkung(en)?|hinweise?n?|wunsch|kommentare?n?)/iu,
  /\b(überarbeitete|korrigierte|verbesserte|kürzere|gekürzte|aktualisierte|neue) (version|fassung|antwort)\b|\bmeine (vorherige|frühere|letzte) antwort\b|\bich entschuldige mich\b|\bentschuldigung für\b|\bdanke für (deine|ihre|die|den|das|dein|ihr) (rückmeldung|hinweis|anmerkung|feedback|korrektur)|\b(du hast|sie haben) (völlig )?recht\b/iu,
  // Portuguese
  /\bcomo (você )?(pediu|solicitou|mencionou|sugeriu)\b|\bconforme (solicitado|pedido|sua solicitação)|\bcom base (no|em) (seu|teu) (feedback|comentário)|\b(versão|resposta) (\p{L}+ )?(corrigida|revisada|melhorada|mais curta|atualizada|resumida)\b|\bminha resposta anterior\b|\bpeço desculpas?\b|\bdesculpe (pel[oa]|a confusão)|\bobrigad[oa] pel[oa] (comentário|correção|feedback|sugestão)|\bvocê (está|tem) (certo|razão)\b/iu,
  // Italian
  /\bcome (hai|ha|avete) (chiesto|richiesto|suggerito|indicato)|\bcome richiesto\b|\bin base (al tuo|ai tuoi|al suo) (feedback|commenti)|\b(versione|risposta) (\p{L}+ )?(corretta|rivista|migliorata|più breve|aggiornata)\b|\bla mia risposta precedente\b|\bmi scuso\b|\bgrazie per (il tuo|la tua|il|la) (feedback|commento|correzione|suggerimento)|\bhai ragione\b/iu,
  // Dutch
  /\bzoals (gevraagd|gewenst|(je|u) (vroeg|gevraagd|wilde))|\b(herziene|verbeterde|kortere|bijgewerkte|aangepaste) (versie|antwoord)\b|\bmijn (vorige|eerdere) antwoord\b|\bmijn excuses\b|\bbedankt voor (je|uw) (feedback|opmerking|correctie)/iu,
  // Polish
  /\bzgodnie z (twoją|pana|pani) (prośbą|sugestią)|\btak jak prosił[aeś]*\b|\b(poprawiona|ulepszona|krótsza|skrócona) (wersja|odpowiedź)\b|\bmoja poprzednia odpowiedź\b|\bprzepraszam za\b/iu,
  // Russian and Ukrainian
  /как (вы|ты) (и )?(просил[иа]?|хотел[иа]?|указал[иа]?|отметил[иа]?)|с учётом (ваш|тво)|с учетом (ваш|тво)|спасибо за (ваш|твой|ваше|твоё|это)? ?(отзыв|замечани|уточнени|исправлени|комментари)|(исправленн|переработанн|улучшенн|обновлённ|обновленн|сокращённ|сокращенн)\p{L}+ (верси|ответ|вариант)|мо(й|его|ём|ем) предыдущ\p{L}+ ответ|приношу извинения|извините за|вы правы|ты прав|як (ви|ти) (і )?просил|дякую за (ваш|твій|зауваженн|відгук)|виправлен\p{L}+ (верс|відповід)|перепрошую за/iu,
  // Chinese
  /(根据|按照|依照|结合|參考|根據)(您|你)的(反馈|意见|建议|要求|回饋|意見|建議)|(如|正如)(您|你)所(要求|说|述|愿|說)|(修改|修订|改进|更新|更正|简化|優化|优化|修正)(后的|過的|过的|版的?)(版本|回答|答案|内容|版)|(我)?(之前|先前|上一个|上次)的(回答|答案|版本)|抱歉[，,。！]|对不起|對不起|(您|你)说得对|感谢(您|你)的(反馈|指正|建议)/u,
  // Japanese
  /ご(指摘|要望|意見|希望|依頼)(を|に|の|いただ|どおり|通り)|フィードバック|(修正|改訂|改善|更新|短縮|書き直し)(版|した(回答|バージョン|もの))|(前|先ほど|以前)の(回答|答え|説明)|申し訳(ありません|ございません)|おっしゃる(とおり|通り)/u,
  // Korean
  /(요청|말씀|지적|피드백)(하신|해 ?주신)|(수정|개선|업데이트|요약)(된|한) ?(버전|답변|내용)|(이전|앞선|지난) ?답변|죄송합니다|말씀이 맞습니다/u,
  // Arabic
  /كما (طلبت|طلبتم|ذكرت)|بناء\p{M}? على (ملاحظات|تعليق|طلب)|(النسخة|الإجابة) (المعدلة|المحسنة|المصححة|المختصرة)|إجابتي السابقة|أعتذر|شكرا?\p{M}? ?(على|ل)(ملاحظ|تعليق|توضيح)/u,
  // Turkish
  /\b[iİ]stediğin(iz)? gibi\b|\bgeri bildirim(in|iniz|inize)|\b(düzeltilmiş|güncellenmiş|kısaltılmış|geliştirilmiş) (sürüm|cevap|yanıt|versiyon)|\bönceki (cevab|yanıt)|\bözür dilerim\b|\bhaklısın(ız)?\b/iu,
].map(unicodeWords);

/** The telling phrase, or undefined. Phrases that the request itself holds (an e-mail of apology is wanted) do not count. */
export function leakedFeedback(answer: string, request: string): string | undefined {
  const composed = answer.normalize("NFC");
  for (const pattern of patterns) {
    const phrase = pattern.exec(composed)?.[0];
    if (phrase !== undefined && !pattern.test(request.normalize("NFC"))) return phrase;
  }
  return undefined;
}
