/** How long work tells what it does. Stages take one of these; the CLI decides what it looks like. */
export interface Progress {
  /** Begins a counted piece of work. `done` > 0 when a run goes on where it stopped. */
  start(label: string, total: number, done?: number): void;
  advance(n?: number, detail?: string): void;
  /** A line worth keeping on the screen. */
  note(text: string): void;
  stop(): void;
}

export const silent: Progress = { start() {}, advance() {}, note() {}, stop() {} };
