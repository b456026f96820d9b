/** Progress on stderr: a bar with the time left on a terminal, a plain line every ten seconds elsewhere. */
import { createRequire } from "node:module";
import type { SingleBar } from "cli-progress";
import { silent } from "../progress.js";
import type { Progress } from "../progress.js";
import { printable } from "../text/printable.js";
import { formatSeconds } from "./output.js";

export interface ProgressOptions {
  quiet?: boolean;
  /** Default: process.stderr. */
  stream?: NodeJS.WritableStream & { isTTY?: boolean };
  /** Least time between two plain lines. */
  intervalMs?: number;
  now?: () => number;
}

export function createProgress(options: ProgressOptions = {}): Progress {
  if (options.quiet === true) return silent;
  const stream = options.stream ?? process.stderr;
  return stream.isTTY === true ? new BarProgress(stream) : new LineProgress(stream, options.intervalMs ?? 10_000, options.now ?? Date.now);
}

class BarProgress implements Progress {
  #bar: SingleBar | undefined;
  #started = 0;
  #first = 0;
  #done = 0;
  #total = 0;

  constructor(private readonly stream: NodeJS.WritableStream) {}

  start(label: string, total: number, done = 0): void {
    this.stop();
    // Loaded only where a bar is drawn: --help and pipes do without it.
    const { SingleBar, Presets } = createRequire(import.meta.url)("cli-progress") as typeof import("cli-progress");
    this.#bar = new SingleBar({
      format: "{label} {bar} {percentage}% | {value}/{total} | {left} left{detail}",
      stream: this.stream,
      hideCursor: true,
      etaBuffer: 20,
      fps: 8,
      barsize: 24,
      formatValue: (value, _options, type) => (type === "percentage" ? String(value).padStart(3) : String(value)),
    }, Presets.shades_classic);
    this.#bar.start(total, done, { label, detail: "", left: "?" });
    this.#started = Date.now();
    this.#first = done;
    this.#done = done;
    this.#total = total;
  }

  advance(n = 1, detail?: string): void {
    this.#done += n;
    const payload = { left: timeLeft(this.#done - this.#first, this.#total - this.#done, Date.now() - this.#started), ...(detail === undefined ? {} : { detail: ` | ${detail}` }) };
    this.#bar?.update(this.#done, payload);
  }

  note(text: string): void {
    if (this.#bar === undefined) {
      this.stream.write(`${printable(text)}\n`);
      return;
    }
    // The bar is redrawn under the note.
    this.stream.write(`\r\u001b[K${printable(text)}\n`);
    this.#bar.render();
  }

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

class LineProgress implements Progress {
  #label = "";
  #total = 0;
  #done = 0;
  #first = 0;
  #started = 0;
  #last = 0;
  #detail = "";
  #open = false;

  constructor(private readonly stream: NodeJS.WritableStream, private readonly intervalMs: number, private readonly now: () => number) {}

  start(label: string, total: number, done = 0): void {
    this.stop();
    this.#label = label;
    this.#total = total;
    this.#done = done;
    this.#first = done;
    this.#detail = "";
    this.#started = this.now();
    this.#last = this.#started;
    this.#open = true;
    this.note(done > 0 ? `${label}: going on at ${done} of ${total}` : `${label}: ${total} to do`);
  }

  advance(n = 1, detail?: string): void {
    this.#done += n;
    if (detail !== undefined) this.#detail = detail;
    const now = this.now();
    if (now - this.#last < this.intervalMs || this.#done >= this.#total) return;
    this.#last = now;
    const percent = this.#total > 0 ? Math.floor((100 * this.#done) / this.#total) : 100;
    const left = timeLeft(this.#done - this.#first, this.#total - this.#done, now - this.#started);
    this.note(`${this.#label}: ${percent}% (${this.#done}/${this.#total}), ${left} left${this.#detail === "" ? "" : `, ${this.#detail}`}`);
  }

  note(text: string): void {
    this.stream.write(`${printable(text)}\n`);
  }

  stop(): void {
    if (!this.#open) return;
    this.#open = false;
    this.note(`${this.#label}: ${this.#done} of ${this.#total} in ${formatSeconds((this.now() - this.#started) / 1000)}${this.#detail === "" ? "" : `, ${this.#detail}`}`);
  }
}

/** By the mean pace since start; "?" before the first unit is done. */
function timeLeft(done: number, remaining: number, elapsedMs: number): string {
  return done <= 0 ? "?" : formatSeconds((Math.max(0, remaining) * elapsedMs) / done / 1000);
}
