/** What commands print on stdout: facts as aligned text for people, or one JSON object a line with --json. */

export interface Output {
  readonly json: boolean;
  /** One record: a JSON line, or `key  value` lines under an optional title. */
  facts(facts: Readonly<Record<string, unknown>>, title?: string): void;
  /** Records of one shape: JSON lines, or a table with a header line. */
  table(rows: readonly Readonly<Record<string, unknown>>[], title?: string): void;
  /** For people only: nothing with --json. */
  text(line: string): void;
  /** As it stands, without a newline added: for streamed text. */
  raw(text: string): void;
}

/** Numbers as people read them: whole ones in full, others to four significant digits. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(3);
}

/** Bytes in the unit that leaves one to three digits before the point. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit] ?? ""}`;
}

const two = (n: number): string => String(n).padStart(2, "0");

/** Seconds as "3.2 s", "2 min 05 s" or "1 h 12 min". */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "unknown";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${two(whole % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return "-";
  if (typeof value === "number") return formatNumber(value);
  if (typeof value === "string") return value;
  if (typeof value === "bigint" || typeof value === "boolean") return String(value);
  if (Array.isArray(value) && value.every((item) => typeof item !== "object" || item === null)) return value.map(cell).join(", ");
  return JSON.stringify(value);
}

const nested = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

/** Nested records become indented blocks, so that a stage's facts read as an outline. */
function outline(facts: Readonly<Record<string, unknown>>, indent: string): string[] {
  const entries = Object.entries(facts).filter(([, value]) => value !== undefined);
  const width = Math.max(0, ...entries.filter(([, value]) => !nested(value)).map(([key]) => key.length));
  return entries.flatMap(([key, value]) =>
    nested(value) ? [`${indent}${key}`, ...outline(value, `${indent}  `)] : [`${indent}${key.padEnd(width)}  ${cell(value)}`]);
}

function tableLines(rows: readonly Readonly<Record<string, unknown>>[]): string[] {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = [keys, ...rows.map((row) => keys.map((key) => cell(row[key])))];
  const widths = keys.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0)));
  const numeric = keys.map((key) => rows.every((row) => row[key] === undefined || row[key] === null || typeof row[key] === "number"));
  const pad = (text: string, column: number): string => (numeric[column] === true ? text.padStart(widths[column] ?? 0) : text.padEnd(widths[column] ?? 0));
  return cells.map((line) => line.map(pad).join("  ").trimEnd());
}

export function createOutput(options: { json: boolean; write?: (text: string) => void }): Output {
  const write = options.write ?? ((text: string): void => void process.stdout.write(text));
  const people = (lines: readonly string[], title: string | undefined): void => {
    if (title !== undefined) write(`${title}\n`);
    for (const line of lines) write(`${line}\n`);
  };
  return {
    json: options.json,
    facts(facts, title) {
      if (options.json) write(`${JSON.stringify(facts)}\n`);
      else people(outline(facts, title === undefined ? "" : "  "), title);
    },
    table(rows, title) {
      if (options.json) for (const row of rows) write(`${JSON.stringify(row)}\n`);
      else people(tableLines(rows), title);
    },
    text(line) {
      if (!options.json) write(`${line}\n`);
    },
    raw: write,
  };
}
