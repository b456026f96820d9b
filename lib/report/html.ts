/** Building HTML from data that must never become HTML: every value is escaped unless it is markup made here. */

const brand = Symbol("markup");

/** Markup that is safe to put into a page as it is. Only `html` and `trusted` make it. */
export interface Markup {
  readonly [brand]: true;
  readonly text: string;
}

type Value = Markup | string | number | null | undefined | false | readonly Value[];

/** Safe as text and inside double-quoted attributes. */
export function escape(text: string): string {
  return text.replace(/[&<>"'`]/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** Markup from this program's own generators (an SVG of a chart). Never for text of a dataset or a model. */
export function trusted(text: string): Markup {
  return { [brand]: true, text };
}

function toText(value: Value): string {
  if (value === null || value === undefined || value === false) return "";
  if (typeof value === "string") return escape(value);
  if (typeof value === "number") return String(value);
  return isMarkup(value) ? value.text : value.map(toText).join("");
}

function isMarkup(value: Markup | readonly Value[]): value is Markup {
  return brand in value;
}

/** html`<p>${text}</p>`: values are escaped; attribute values must stand in double quotes. */
export function html(strings: TemplateStringsArray, ...values: Value[]): Markup {
  return trusted(strings.map((s, i) => (i === 0 ? s : toText(values[i - 1]) + s)).join(""));
}
