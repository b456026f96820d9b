/** A measurement as bars, each contender's median with its lowest and highest round, and the machine's limit as a line. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse, View } from "vega";
import { compile } from "vega-lite";

export interface Bar {
  contender: string;
  ours: boolean;
  median: number;
  low: number;
  high: number;
  limit: number | null;
}

/** A result's picture, named after its part, into a folder that is there. */
export async function savePicture(folder: string, { part, unit, figures }: { part: string; unit: string; figures: readonly Bar[] }): Promise<void> {
  writeFileSync(join(folder, `${part.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.svg`), await barsAgainstLimit(part, unit, figures));
}

/** A self-contained SVG, readable on light and dark pages. */
export async function barsAgainstLimit(title: string, unit: string, bars: readonly Bar[]): Promise<string> {
  const limits = bars.flatMap(({ limit }) => (limit === null ? [] : [limit]));
  const limit = limits.length === 0 ? undefined : Math.max(...limits);
  const x = { type: "quantitative" as const, title: limit === undefined ? unit : `${unit}; dashed: this machine's limit`, axis: { format: "~s", grid: true, tickCount: 6 } };
  const y = { field: "contender", type: "nominal" as const, sort: null, title: null };
  const view = new View(parse(compile({
    title: { text: title, anchor: "start", fontWeight: "normal" }, background: "white", padding: 10, width: 480, height: { step: 26 },
    data: { values: [...bars] },
    layer: [
      { mark: { type: "bar", height: 16 }, encoding: { y, x: { field: "median", ...x }, color: { field: "ours", type: "nominal", legend: null, scale: { domain: [true, false], range: ["#3b82c4", "#8a93a0"] } } } },
      { mark: { type: "rule", color: "#222" }, encoding: { y, x: { field: "low", ...x }, x2: { field: "high" } } },
      ...(limit === undefined ? [] : [{ data: { values: [{ limit }] }, mark: { type: "rule" as const, strokeDash: [4, 4], color: "#d1603d" }, encoding: { x: { field: "limit", ...x } } }]),
    ],
    config: { font: "system-ui, sans-serif", view: { stroke: null }, axis: { domain: false, ticks: false, gridOpacity: 0.4 } },
  }).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
