/** What a data file is by its first bytes, where it is none of the text forms: so that errors name it instead of its first line. */
import { closeSync, openSync, readSync } from "node:fs";

export type FileKind = "arrow" | "parquet" | "gzip" | "zstandard" | "zip" | "utf-16" | "binary" | "text";

export const kindNames: Readonly<Record<FileKind, string>> = {
  arrow: "an Arrow file", parquet: "a Parquet file", gzip: "a gzip file", zstandard: "a Zstandard file", zip: "a zip archive",
  "utf-16": "text in UTF-16", binary: "a binary file", text: "text",
};

/** The start of a file, at most `bytes` of it. */
export function headOf(path: string, bytes = 4096): Buffer {
  const head = Buffer.alloc(bytes);
  const file = openSync(path, "r");
  try {
    return head.subarray(0, readSync(file, head, 0, bytes, 0));
  } finally {
    closeSync(file);
  }
}

/** Files of these kinds begin with these bytes (Latin-1). A stream of Arrow begins with the mark of its first message. */
const marks: readonly (readonly [string, FileKind])[] = [
  ["ARROW1", "arrow"], ["\xff\xff\xff\xff", "arrow"], ["PAR1", "parquet"], ["\x1f\x8b", "gzip"], ["\x28\xb5\x2f\xfd", "zstandard"], ["PK\x03\x04", "zip"],
  ["\xff\xfe", "utf-16"], ["\xfe\xff", "utf-16"],
];

export function kindOf(head: Uint8Array): FileKind {
  const start = Buffer.from(head).toString("latin1");
  const marked = marks.find(([mark]) => start.startsWith(mark));
  if (marked !== undefined) return marked[1];
  // JSON holds no NUL; UTF-16 without a mark has one in every second byte of Latin text.
  if (/^(?:\0[\t\n\r -~]){2}|^(?:[\t\n\r -~]\0){2}/.test(start)) return "utf-16";
  // What begins as JSON is damaged text where it holds NUL: its reader names the line.
  return start.includes("\0") && !/^(?:\xef\xbb\xbf)?\s*[[{]/.test(start) ? "binary" : "text";
}

/** How to make a file of this kind one that can be read. */
export function remedyFor(kind: FileKind): string {
  if (kind === "gzip" || kind === "zstandard" || kind === "zip") return "decompress it first";
  return kind === "utf-16" ? "save it as UTF-8" : "convert it to one of these forms";
}
