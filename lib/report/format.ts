/** Numbers as the page writes them. A dash stands for what is not known. */
const none = "–";

export const percent = (x: number | null, digits = 0): string => (x === null ? none : `${(100 * x).toFixed(digits)}\u00a0%`);
export const fixed = (x: number | null | undefined, digits: number): string => (x === null || x === undefined || !Number.isFinite(x) ? none : x.toFixed(digits));
export const whole = (n: number): string => n.toLocaleString("en-US");
export const plural = (n: number, one: string, many = `${one}s`): string => `${whole(n)} ${n === 1 ? one : many}`;

/** A difference with its sign; none where it is written as zero. */
export function signed(x: number | null | undefined, digits: number): string {
  const text = fixed(x, digits);
  if (text === none || Number(text) === 0) return text.replace("-", "");
  return Number(text) > 0 ? `+${text}` : text;
}
