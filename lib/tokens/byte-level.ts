/** GPT-2's reversible mapping of bytes to printable characters, in which byte-level vocabularies are written. */

function printable(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

/** Character of each byte: itself where printable, else the next of U+0100 and up. */
export const byteToChar: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

const charToByte: ReadonlyMap<string, number> = new Map(byteToChar.map((char, byte) => [char, byte]));
const utf8 = new TextEncoder();

export function toByteLevel(text: string): string {
  let mapped = "";
  for (const byte of utf8.encode(text)) mapped += byteToChar[byte] ?? "";
  return mapped;
}

/** Bytes of a vocabulary entry; null where a character is not of the mapping (then the entry stands for its own text). */
export function fromByteLevel(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  let size = 0;
  for (const char of token) {
    const byte = charToByte.get(char);
    if (byte === undefined) return null;
    bytes[size] = byte;
    size += 1;
  }
  return bytes.subarray(0, size);
}
