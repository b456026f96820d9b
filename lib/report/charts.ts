/** Pictures of the report: Vega-Lite specifications rendered to SVG here, so that the page works offline and without scripts. */
import { parse, View } from "vega";
import { compile } from "vega-lite";
import type { TopLevelSpec } from "vega-lite";
import { escape, trusted } from "./html.js";
import type { Markup } from "./html.js";

/** Colours that hold on light and dark pages (3:1 against both); text takes the page's own colour. */
export const palette = { main: "#3b82c4", good: "#2f9e6e", bad: "#d1603d", quiet: "#8a93a0" } as const;

/** Natural size fits a phone; the style sheet lets it grow with its card. */
const width = 268;
const height = 160;

const theme: NonNullable<TopLevelSpec["config"]> = {
  background: "transparent",
  padding: 2,
  view: { stroke: null },
  font: "system-ui, sans-serif",
  axis: {
    labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11, labelOpacity: 0.8, titleOpacity: 0.8,
    gridColor: palette.quiet, gridOpacity: 0.22, domain: false, ticks: false, labelPadding: 6,
  },
};

export interface Point {
  x: number;
  y: number;
}

/** A point of a long series: the mean of neighbouring values, with the lowest and highest of them. */
export interface Bucket extends Point {
  low: number;
  high: number;
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** At most `max` buckets of neighbours; values that are not finite are left out. */
export function condense(points: readonly Point[], max: number): { buckets: Bucket[]; size: number } {
  const finite = points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  const size = Math.max(1, Math.ceil(finite.length / max));
  const buckets: Bucket[] = [];
  for (let i = 0; i < finite.length; i += size) {
    const part = finite.slice(i, i + size);
    const ys = part.map(({ y }) => y);
    buckets.push({ x: mean(part.map(({ x }) => x)), y: mean(ys), low: Math.min(...ys), high: Math.max(...ys) });
  }
  return { buckets, size };
}

export interface LineChart {
  /** What the picture shows, for those who do not see it. */
  label: string;
  color: string;
  points: readonly Point[];
  /** A dashed line. */
  reference: number | null;
  /** Shares between 0 and 1, shown as percentages on their whole range. */
  share?: boolean;
}

const longest = 160;
/** Smallest range of values an axis shows. */
const leastSpan = 1e-3;

/** A range that shows all values and is not all noise where they are the same, and as many digits as its steps need. */
export function valueAxis(values: readonly number[]): { domain: [number, number]; format: string } {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const padding = Math.max(0, leastSpan - (high - low)) / 2;
  const span = high - low + 2 * padding;
  return { domain: [low - padding, high + padding], format: `.${Math.max(0, Math.ceil(-Math.log10(span / 5)))}f` };
}

/** One series over training steps. Long ones are condensed, with a band from the lowest to the highest value. */
export async function lineChart({ label, color, points, reference, share = false }: LineChart): Promise<Markup> {
  const { buckets, size } = condense(points, longest);
  const rounded = buckets.map(({ x, y, low, high }) => ({ x: short(x), y: short(y), low: short(low), high: short(high) }));
  const last = Math.max(...buckets.map(({ x }) => x));
  const { domain, format } = share ? { domain: [0, 1], format: ".0%" } : valueAxis([...rounded.flatMap(({ low, high }) => [low, high]), ...(reference === null ? [] : [reference])]);
  const y = { type: "quantitative" as const, title: null, scale: { domain, nice: true }, axis: { format, tickCount: 4 } };
  const x = { field: "x", type: "quantitative" as const, title: "optimizer step", scale: { nice: false }, axis: { tickMinStep: 1, format: ",d", tickCount: Math.min(5, Math.max(1, last - 1)), grid: false } };
  const spec: TopLevelSpec = {
    width,
    height,
    config: theme,
    data: { values: rounded },
    layer: [
      ...(size === 1 ? [] : [{ mark: { type: "area" as const, color, opacity: 0.2 }, encoding: { x, y: { field: "low", ...y }, y2: { field: "high" } } }]),
      ...(reference === null ? [] : [{ data: { values: [{ y: reference }] }, mark: { type: "rule" as const, strokeDash: [4, 4], color: palette.quiet }, encoding: { y: { field: "y", ...y } } }]),
      { mark: { type: "line", color, strokeWidth: 2, strokeJoin: "round", point: rounded.length <= 40 ? { size: 22, filled: true, color } : false }, encoding: { x, y: { field: "y", ...y } } },
    ],
  };
  const view = new View(parse(compile(spec).spec), { renderer: "none" });
  try {
    const svg = await view.toSVG();
    return trusted(svg.replace("<svg ", `<svg role="img" aria-label="${escape(label)}" `).replace(/ (aria-roledescription|role)="(graphics[^"]*|[^"]*container|axis)"/g, ""));
  } finally {
    view.finalize();
  }
}

/** Four significant digits are more than the eye sees, and keep the page small. */
const short = (value: number): number => Number(value.toPrecision(5));
