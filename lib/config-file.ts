/** Reads run.yaml: YAML, settings given on the command line over it, checked against the schema; every mistake is listed at once. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { parseDocument, stringify } from "yaml";
import type { Document } from "yaml";
import type { z } from "zod";
import { runConfigSchema } from "./config.js";
import type { RunConfig } from "./config.js";
import { UsageError } from "./errors.js";
import { closest } from "./text/closest.js";

/** Settings by section, as in run.yaml: what flags give. Undefined values are left out. */
export type ConfigOverrides = { [key: string]: unknown };

/**
 * The configuration of a run: defaults, then the file at `path` (none: only overrides), then `overrides`. Relative paths
 * of the file are relative to its folder, those of overrides to the working folder. Throws UsageError with every mistake.
 */
export function loadRunConfig(path: string | undefined, overrides: ConfigOverrides = {}): RunConfig {
  const fromFile = path === undefined ? {} : readYaml(path);
  const base = path === undefined ? process.cwd() : dirname(resolve(path));
  const settings = merge(withAbsolutePaths(fromFile, base), withAbsolutePaths(overrides, process.cwd()));
  const checked = runConfigSchema.safeParse(settings);
  if (checked.success) return checked.data;
  throw wrongSettings(checked.error.issues.flatMap((issue) => describeIssue(issue, settings)), path ?? "command line");
}

/** Sections that commands also take as flags. */
export type Section = "data" | "feedback" | "train";

/**
 * A section of its own; undefined values take their defaults. Throws UsageError with every mistake, each key ("data.path") by the
 * name that `nameOf` gives it.
 */
export function sectionSettings<S extends Section>(section: S, values: Record<string, unknown>, nameOf: (key: string) => string): RunConfig[S] {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  const checked = runConfigSchema.shape[section].safeParse(given);
  if (checked.success) return checked.data as RunConfig[S];
  throw wrongSettings(checked.error.issues.flatMap((issue) => describeIssue({ ...issue, path: [section, ...issue.path] }, { [section]: given }, nameOf)), "command line");
}

function wrongSettings(mistakes: readonly string[], where: string): UsageError {
  return new UsageError({
    what: `${mistakes.length === 1 ? "a setting is" : `${mistakes.length} settings are`} wrong\n${mistakes.map((line) => `  - ${line}`).join("\n")}`,
    where,
    todo: "correct these; docs/method.md has the settings of each part, `rlhi-native run --help` a run.yaml to start with",
  });
}

/** The configuration as it is used, for run.yaml of the run folder. */
export function configYaml(config: RunConfig): string {
  return stringify(config, { lineWidth: 0 });
}

function readYaml(path: string): ConfigOverrides {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new UsageError({ what: "cannot read the configuration", where: path, found: (error as Error).message, todo: "give the path of a run.yaml", cause: error });
  }
  const document = parseDocument(text, { prettyErrors: true });
  const bad = document.errors[0];
  if (bad !== undefined) {
    const line = bad.linePos?.[0].line;
    throw new UsageError({ what: "the configuration is not YAML", where: line === undefined ? path : `${path}:${line}`, found: bad.message, todo: "correct that line" });
  }
  const value = valueOf(document, path);
  if (value === null || value === undefined) return {};
  if (!isRecord(value)) throw new UsageError({ what: "the configuration is not a list of settings", where: path, expected: "`key: value` lines", found: JSON.stringify(value).slice(0, 60) });
  return value;
}

/** Aliases are resolved. Throws where one names nothing, stands inside what it names, or where they multiply beyond reason. */
function valueOf(document: Document, path: string): unknown {
  try {
    const value: unknown = document.toJS({ maxAliasCount: 100 });
    JSON.stringify(value);
    return value;
  } catch (error) {
    throw new UsageError({
      what: "an alias of the configuration cannot be followed", where: path, expected: "aliases (*name) of values that are named before (&name) and do not hold them",
      found: (error as Error).message.split("\n")[0], todo: "write the value out in place of the alias", cause: error,
    });
  }
}

function isRecord(value: unknown): value is ConfigOverrides {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `over` wins; sections are merged, lists and values replaced; undefined changes nothing. */
function merge(under: ConfigOverrides, over: ConfigOverrides): ConfigOverrides {
  const merged = { ...under };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const below = merged[key];
    merged[key] = isRecord(value) && isRecord(below) ? merge(below, value) : value;
  }
  return merged;
}

function withAbsolutePaths(settings: ConfigOverrides, base: string): ConfigOverrides {
  const result = { ...settings };
  for (const key of ["model", "reference"]) {
    if (typeof result[key] === "string") result[key] = modelPath(result[key], base);
  }
  if (isRecord(result["data"]) && result["data"]["path"] !== undefined) {
    const { path } = result["data"];
    const paths = Array.isArray(path) ? path.map((one: unknown) => (typeof one === "string" ? resolve(base, one) : one)) : typeof path === "string" ? resolve(base, path) : path;
    result["data"] = { ...result["data"], path: paths };
  }
  if (isRecord(result["models"])) {
    result["models"] = Object.fromEntries(Object.entries(result["models"]).map(([role, spec]) => [role, nativePath(spec, base)]));
  }
  return result;
}

function nativePath(spec: unknown, base: string): unknown {
  return typeof spec === "string" && spec.startsWith("native:") ? `native:${modelPath(spec.slice("native:".length), base)}` : spec;
}

/** A bare word that is no file is left as it is: it may be the name of a shape. */
function modelPath(path: string, base: string): string {
  if (path === "" || isAbsolute(path)) return path;
  const absolute = resolve(base, path);
  return existsSync(absolute) || /[/\\.]/.test(path) ? absolute : path;
}

type Issue = z.core.$ZodIssue;

/** One line for people per mistake: key, what is expected, what stands there, and the known key that is most like an unknown one. */
function describeIssue(issue: Issue, settings: unknown, nameOf = (key: string): string => key): string[] {
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") return issue.keys.map((key) => unknownKey([...path, key]));
  const name = nameOf(path.join(".")) || "(whole file)";
  const value = at(settings, path);
  const found = value === undefined ? "nothing" : JSON.stringify(value).slice(0, 80);
  return [`${name}: expected ${expectation(issue, path)}; found ${found}`];
}

function expectation(issue: Issue, path: readonly string[]): string {
  const meaning = described(path);
  const wanted = wantedBy(issue);
  return meaning === undefined ? wanted : `${wanted} (${meaning})`;
}

function wantedBy(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type": return issue.expected === "int" ? "a whole number" : issue.expected === "object" ? "a section of settings" : issue.expected === "array" ? "a list" : `a ${issue.expected}`;
    case "invalid_value": return `one of ${issue.values.map((value) => JSON.stringify(value)).join(", ")}`;
    case "too_small": return `${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}${issue.origin === "array" ? " entries" : ""}`;
    case "too_big": return `${issue.inclusive === false ? "less than" : "at most"} ${issue.maximum}${issue.origin === "array" ? " entries" : ""}`;
    case "invalid_union": return issue.errors.map((alternative) => alternative.map(wantedBy).join(" and ")).join(", or ");
    default: return issue.message.replace(/^expected /, "");
  }
}

function at(settings: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((value, key) => (typeof value === "object" && value !== null ? (value as Record<string, unknown>)[key] : undefined), settings);
}

function unknownKey(path: readonly string[]): string {
  const name = path.join(".");
  const known = [...schemaKeys().keys()];
  const sameName = known.filter((key) => key.split(".").at(-1) === path.at(-1));
  const near = sameName.length > 0 ? sameName.slice(0, 3) : closest(name, known);
  return `${name}: unknown setting${near.length === 0 ? "" : `; did you mean ${near.join(" or ")}?`}`;
}

function described(path: readonly string[]): string | undefined {
  return schemaKeys().get(path.filter((key) => !/^\d+$/.test(key)).join("."));
}

let keys: Map<string, string | undefined> | undefined;

/** Every key of the schema ("train.beta") with its description. */
function schemaKeys(): Map<string, string | undefined> {
  if (keys !== undefined) return keys;
  const found = new Map<string, string | undefined>();
  const visit = (schema: unknown, prefix: string): void => {
    const shape = shapeOf(schema);
    if (shape === undefined) return;
    for (const [key, child] of Object.entries(shape)) {
      const name = prefix === "" ? key : `${prefix}.${key}`;
      found.set(name, (child as { description?: string }).description ?? descriptionInside(child));
      visit(child, name);
    }
  };
  visit(runConfigSchema, "");
  keys = found;
  return found;
}

interface Wrapped { def?: { type?: string; innerType?: unknown }; shape?: Record<string, unknown>; description?: string }

/** The fields of an object schema, seen through default(), prefault() and optional(). */
function shapeOf(schema: unknown): Record<string, unknown> | undefined {
  const node = schema as Wrapped;
  if (node.shape !== undefined) return node.shape;
  return node.def?.innerType === undefined ? undefined : shapeOf(node.def.innerType);
}

function descriptionInside(schema: unknown): string | undefined {
  const node = schema as Wrapped;
  return node.description ?? (node.def?.innerType === undefined ? undefined : descriptionInside(node.def.innerType));
}
