/** Every kind of log files, how one is recognised, and their conversations as one stream. */
import { RlhiError } from "../../errors.js";
import { messages } from "./messages.js";
import { oasstFlat, oasstTrees } from "./oasst.js";
import { columnsOf, containerOf, countRecords, expandPaths, readRecords } from "./records.js";
import type { Container } from "./records.js";
import { sharegpt } from "./sharegpt.js";
import type { Notes, RawConversation, Source, SourceName, SourceRecord } from "./source.js";
import { wildchat } from "./wildchat.js";

/** In the order in which they are tried: from the most particular to the plainest. */
export const sources: readonly Source[] = [wildchat, oasstFlat, oasstTrees, sharegpt, messages];

export interface SourceFile {
  path: string;
  container: Container;
  source: Source;
}

/**
 * The files that `paths` name (files or glob patterns), each with its source: found by its columns, or one of the kind
 * that `wanted` names. Throws where a file is missing, unreadable, or of no known schema.
 */
export async function openSources(paths: readonly string[], wanted: SourceName | "auto" = "auto"): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  for (const path of await expandPaths(paths)) {
    const container = containerOf(path);
    const { columns, sample } = await columnsOf(path, container);
    files.push({ path, container, source: choose(path, columns, sample, wanted) });
  }
  return files;
}

function choose(path: string, columns: readonly string[], sample: readonly Record<string, unknown>[] | undefined, wanted: SourceName | "auto"): Source {
  const candidates = sources.filter(({ name }) => wanted === "auto" || name === wanted);
  const missing = (source: Source): string[] => source.required.filter((column) => !columns.includes(column) && !columns.includes(source.alias?.[column] ?? column));
  const fitting = candidates.find((source) => missing(source).length === 0 && (sample === undefined || source.recognises === undefined || source.recognises(sample)));
  if (fitting !== undefined) return fitting;
  const nearest = [...candidates].sort((a, b) => missing(a).length / a.required.length - missing(b).length / b.required.length)[0] as Source;
  throw new RlhiError("ERR_UNKNOWN_SCHEMA", {
    what: wanted === "auto" ? "not the schema of any known source" : `not the schema of source "${wanted}"`,
    where: path,
    expected: `${wanted === "auto" ? "columns of one of:" : "columns:"}\n${candidates.map(({ name, about }) => `    ${name.padEnd(8)} ${about}`).join("\n")}`,
    found: `columns ${columns.join(", ") || "(none)"}; for "${nearest.name}" these are missing: ${missing(nearest).join(", ") || "(none, but the entries have another form)"}`,
    todo: "rename the columns, or convert the file to the plain form (docs/formats.md)",
  });
}

/** Records (not conversations: OASST has one a message) in all files together. */
export async function countAllRecords(files: readonly SourceFile[]): Promise<number> {
  let sum = 0;
  for (const { path, container } of files) sum += await countRecords(path, container);
  return sum;
}

/** All conversations, file after file (OASST's trees may go over several files). `onRecord` is called once a record read. */
export async function* readSources(files: readonly SourceFile[], notes: Notes, onRecord: () => void = () => {}): AsyncGenerator<{ source: SourceName; raw: RawConversation }> {
  for (const source of sources) {
    const own = files.filter((file) => file.source === source);
    if (own.length === 0) continue;
    for await (const raw of source.convert(chain(own, onRecord), notes)) yield { source: source.name, raw };
  }
}

async function* chain(files: readonly SourceFile[], onRecord: () => void): AsyncGenerator<SourceRecord> {
  for (const { path, container, source } of files) {
    for await (const record of readRecords(path, container, source)) {
      onRecord();
      yield record;
    }
  }
}
