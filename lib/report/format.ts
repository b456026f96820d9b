/** Numbers as the page writes them. A dash stands for what is not known. */
const none = "–";

export const percent = (x: number | null): string => (x === null ? none : `${(100 * x).toFixed(0)}\u00a0%`);
export const fixed = (x: number | null | undefined, digits: number): string => (x === null || x === undefined || !Number.isFinite(x) ? none : x.toFixed(digits));
export const whole = (n: number): string => n.toLocaleString("en-US");
export const plural = (n: number, one: string, many = `${one}s`): string => `${whole(n)} ${n === 1 ? one : many}`;

/** A difference near zero, with its sign: margins begin at exactly 0. */
export const signed = (x: number | null | undefined, digits: number): string => (x === null || x === undefined || !Number.isFinite(x) ? none : `${x > 0 ? "+" : ""}${x.toFixed(digits)}`.replace(/^-(0(\.0*)?)$/, "$1"));
