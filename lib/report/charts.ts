/** Pictures of the report: Vega-Lite specifications rendered to SVG here, so that the page works offline and without scripts. */
import { parse, View } from "vega";
import { compile } from "vega-lite";
import type { TopLevelSpec } from "vega-lite";
import type { Interval } from "../eval/statistics.js";
import { trusted } from "./html.js";
import type { Markup } from "./html.js";

/** Colours that hold on light and dark pages; text takes the page's own colour. */
export const palette = { main: "#2f7fd1", good: "#2a9d6f", bad: "#d1603d", quiet: "#8a93a0" } as const;

const width = 300;
const height = 170;

const theme: NonNullable<TopLevelSpec["config"]> = {
  background: "transparent",
  view: { stroke: null },
  font: "system-ui, sans-serif",
  axis: { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11, gridColor: "#8a93a0", gridOpacity: 0.25, domainColor: "#8a93a0", tickColor: "#8a93a0" },
  legend: { labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 11, orient: "top", title: null },
  line: { strokeWidth: 2 },
};

async function render(spec: TopLevelSpec, label: string): Promise<Markup> {
  const view = new View(parse(compile({ ...spec, config: theme }).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  // The chart's own texts (axis titles, series) are this program's; `label` is escaped by hand for the attribute.
  return trusted(svg.replace("<svg ", `<svg role="img" aria-label="${label.replace(/[^\w .,:%-]/g, "")}" `));
}

export interface Series {
  name: string;
  color: string;
  points: readonly { x: number; y: number }[];
}

/** Lines over training steps; points are shown as well where there are few of them. */
export function lineChart(title: string, xTitle: string, series: readonly Series[], reference?: { y: number; name: string }): Promise<Markup> {
  const values = series.flatMap(({ name, points }) => points.map(({ x, y }) => ({ series: name, x, y })));
  const few = values.length <= 60 * series.length;
  return render(
    {
      width,
      height,
      layer: [
        ...(reference === undefined ? [] : [{ data: { values: [reference] }, mark: { type: "rule" as const, strokeDash: [4, 4], color: palette.quiet }, encoding: { y: { field: "y", type: "quantitative" as const } } }]),
        {
          data: { values },
          mark: { type: "line", point: few ? { size: 18 } : false },
          encoding: {
            x: { field: "x", type: "quantitative", title: xTitle, axis: { tickMinStep: 1, format: "d" } },
            y: { field: "y", type: "quantitative", title: null, scale: { zero: false } },
            color: { field: "series", type: "nominal", scale: { domain: series.map((s) => s.name), range: series.map((s) => s.color) }, legend: series.length > 1 ? {} : null },
          },
        },
      ],
    },
    title,
  );
}

export interface RatePoint {
  name: string;
  group: string;
  rate: number;
  interval: Interval | null;
}

/** Rates between 0 and 1 with their intervals, one row a name, one colour a group; a line at one half. */
export function rateChart(title: string, points: readonly RatePoint[]): Promise<Markup> {
  const groups = [...new Set(points.map((p) => p.group))];
  const names = [...new Set(points.map((p) => p.name))];
  const values = points.map((p) => ({ ...p, low: p.interval?.low ?? p.rate, high: p.interval?.high ?? p.rate }));
  const y = { field: "name", type: "nominal" as const, title: null, sort: names, axis: { labelLimit: 150 } };
  const yOffset = { field: "group", sort: groups };
  const color = { field: "group", type: "nominal" as const, scale: { domain: groups, range: [palette.main, palette.good, palette.bad] }, sort: groups };
  const x = { type: "quantitative" as const, scale: { domain: [0, 1] }, axis: { format: ".0%" } };
  return render(
    {
      width: width - 90,
      height: { step: 16 },
      data: { values },
      layer: [
        { data: { values: [{ half: 0.5 }] }, mark: { type: "rule", strokeDash: [4, 4], color: palette.quiet }, encoding: { x: { field: "half", ...x, title: "share of comparisons won (ties half)" } } },
        { mark: { type: "rule", strokeWidth: 2 }, encoding: { y, yOffset, color, x: { field: "low", ...x, title: "share of comparisons won (ties half)" }, x2: { field: "high" } } },
        { mark: { type: "point", filled: true, size: 55, opacity: 1 }, encoding: { y, yOffset, color, x: { field: "rate", ...x } } },
      ],
    },
    title,
  );
}
