/** What it takes to make a run again, for a page that may be passed on: names and hashes, no folder or address of the machine it was made on. */
import { basename } from "node:path";
import { runConfigSchema } from "../config.js";
import type { RunConfig } from "../config.js";
import type { ManifestData } from "../run/manifest.js";
import type { Setting } from "./types.js";

export function provenance(manifest: ManifestData): Setting[] {
  return [
    { name: "seed", value: String(manifest.seed) },
    ...Object.entries(manifest.inputs).map(([path, { sha256 }]) => ({ name: "data", value: `${basename(path)} (sha256 ${sha256.slice(0, 16)})` })),
    ...Object.entries(manifest.models).map(([role, { spec, fingerprint }]) => ({ name: `${role} model`, value: spec.startsWith("openai:") ? shortSpec(spec) : `${shortSpec(spec)} (${fingerprint.slice(0, 16)})` })),
    ...Object.entries(manifest.prompts).map(([id, hash]) => ({ name: `prompt ${id}`, value: hash })),
  ];
}

/** "SmolLM2, embedded engine" or "gpt-x at an endpoint": an endpoint's address can hold keys and names of a private network. */
export function shortSpec(spec: string): string {
  if (spec.startsWith("native:")) return `${basename(spec)}, embedded engine`;
  const name = /#(.+)$/s.exec(spec)?.[1];
  return name === undefined ? "unknown" : `${name}, at an endpoint`;
}

/** Settings that are not the defaults, by their name in run.yaml. */
export function changedSettings(config: RunConfig): Setting[] {
  const defaults = runConfigSchema.parse({ model: config.model, data: { path: config.data.path } });
  const before = flatten(defaults);
  return [...flatten(config)]
    .filter(([name, value]) => JSON.stringify(before.get(name)) !== JSON.stringify(value))
    .map(([name, value]) => ({ name, value: shown(name, value) }));
}

function shown(name: string, value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value);
  if (name.startsWith("models.")) return shortSpec(value);
  return name === "reference" ? basename(value) : value;
}

function flatten(section: object, prefix = ""): Map<string, unknown> {
  return new Map(Object.entries(section).flatMap(([key, value]): [string, unknown][] =>
    (typeof value === "object" && value !== null && !Array.isArray(value) ? [...flatten(value as object, `${prefix}${key}.`)] : [[`${prefix}${key}`, value as unknown]])));
}
