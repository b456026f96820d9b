/** Text that identifies a person: addresses of mail and machines, telephone, card and account numbers. Placeholders are fine. */

export interface PersonalData {
  kind: "email" | "phone" | "card" | "iban" | "ip";
  text: string;
}

/** The first personal data of the text; undefined where there are none. Code and mathematics seldom match: numbers are checked. */
export function findPersonalData(text: string): PersonalData | undefined {
  return email(text) ?? account(text) ?? card(text) ?? ip(text) ?? phone(text);
}

/** RFC 2606 and names that only ever stand for others. */
const placeholderDomains = /(^|\.)(example|test|invalid|localhost|local)$|(^|\.)example\.(com|org|net|edu)$|^(email|mail|domain|company|yourdomain|yourcompany|website|mydomain|test|sample|acme)\.(com|org|net)$/i;
const placeholderNames = /^(your|my|user|name|someone|somebody|username|yourname|email|first|firstname|example|john\.?doe|jane\.?doe|info|support|contact|noreply|no-reply|hello|admin)([._-]?(name|last|lastname|email|mail|address))?$/i;

function email(text: string): PersonalData | undefined {
  for (const [found, name, domain] of text.matchAll(/\b([A-Za-z0-9][A-Za-z0-9._%+-]{0,63})@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24})\b/g)) {
    if (!placeholderDomains.test(domain as string) && !placeholderNames.test(name as string)) return { kind: "email", text: found };
  }
  return undefined;
}

function account(text: string): PersonalData | undefined {
  for (const [found] of text.matchAll(/\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b/g)) {
    const compact = found.replaceAll(" ", "");
    if (compact.length >= 15 && compact.length <= 34 && validIban(compact)) return { kind: "iban", text: found };
  }
  return undefined;
}

/** ISO 13616: the first four characters moved to the end, letters as 10..35, must leave 1 modulo 97. */
function validIban(iban: string): boolean {
  let rest = 0;
  for (const char of iban.slice(4) + iban.slice(0, 4)) rest = Number(`${rest}${Number.parseInt(char, 36)}`) % 97;
  return rest === 1;
}

/** Numbers that card companies publish for trying. */
const testCards = new Set(["4111111111111111", "4242424242424242", "5555555555554444", "378282246310005", "4012888888881881", "5105105105105100", "6011111111111117"]);

function card(text: string): PersonalData | undefined {
  for (const [found] of text.matchAll(/(?<![\d.,-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\d.,-]\d|\d)/g)) {
    const digits = found.replace(/\D/g, "");
    if (digits.length >= 13 && digits.length <= 19 && !testCards.has(digits) && new Set(digits).size > 2 && luhn(digits)) return { kind: "card", text: found };
  }
  return undefined;
}

/** ISO/IEC 7812: every second digit from the right doubled, the sum a multiple of ten. */
function luhn(digits: string): boolean {
  let total = 0;
  for (let i = 0; i < digits.length; i++) {
    const digit = Number(digits[digits.length - 1 - i]);
    total += i % 2 === 0 ? digit : digit > 4 ? 2 * digit - 9 : 2 * digit;
  }
  return total % 10 === 0;
}

function ip(text: string): PersonalData | undefined {
  for (const [found] of text.matchAll(/(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)/g)) {
    const parts = found.split(".").map(Number);
    if (parts.every((part) => part <= 255) && isPublic(parts) && !/version|v\.?\s*$/i.test(text.slice(Math.max(0, text.indexOf(found) - 10), text.indexOf(found)))) return { kind: "ip", text: found };
  }
  return undefined;
}

/** Not private, loopback, link-local, documentation (RFC 5737), multicast, nor one of the public name servers everyone quotes. */
function isPublic([a = 0, b = 0, c = 0, d = 0]: number[]): boolean {
  if (a === 0 || a === 10 || a === 127 || a >= 224) return false;
  if ((a === 172 && b >= 16 && b <= 31) || (a === 192 && b === 168) || (a === 169 && b === 254)) return false;
  if ((a === 192 && b === 0 && c === 2) || (a === 198 && b === 51 && c === 100) || (a === 203 && b === 0 && c === 113)) return false;
  return !["8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "1.2.3.4"].includes([a, b, c, d].join("."));
}

function phone(text: string): PersonalData | undefined {
  const international = /(?<![\w+.])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}(?![\d])/g;
  const american = /(?<![\w+.-])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-])/g;
  // A local number counts only where words say that it is one.
  const named = /\b(?:tel(?:efon(?:o|e)?|ephone)?|phone|mobile|cell|call|whatsapp|handy|móvil|celular|телефон|电话|電話)\b[^\d\n]{0,15}((?:\d[ ()./-]{0,2}){7,14}\d)/giu;
  for (const pattern of [international, american]) {
    for (const [found] of text.matchAll(pattern)) if (isPhone(found)) return { kind: "phone", text: found };
  }
  for (const [, found] of text.matchAll(named)) if (isPhone(found as string)) return { kind: "phone", text: found as string };
  return undefined;
}

/** Seven to fifteen digits (E.164), not 555-01xx (kept for fiction), not one digit over and over or counting up. */
function isPhone(text: string): boolean {
  const digits = text.replace(/\D/g, "");
  if (digits.length < 7 || digits.length > 15) return false;
  const last = digits.slice(-7);
  return !last.startsWith("555") && new Set(last).size > 2 && !"01234567890123456789".includes(last);
}
