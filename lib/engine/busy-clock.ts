/**
 * How long the engine had work: a native call was outstanding (score, generate, step, evaluate, accumulate). Everything else is
 * TypeScript's time, in which the engine waits. Calls that overlap count once; loading a model is told apart, where no call runs.
 * A call ends when its promise is settled here: JavaScript that holds the event loop then still counts as the call's.
 */

/** Seconds, not rounded. */
export interface EngineTime {
  busy_seconds: number;
  load_seconds: number;
}

export class BusyClock {
  #calls = 0;
  #loads = 0;
  #busy = 0;
  #load = 0;
  #since: number;

  /** `now`: seconds of a clock that never goes back. */
  constructor(private readonly now: () => number = () => performance.now() / 1000) {
    this.#since = now();
  }

  /** Counts `work` as the engine's, until its promise is settled. */
  async call<T>(work: () => Promise<T>): Promise<T> {
    this.#account();
    this.#calls += 1;
    try {
      return await work();
    } finally {
      this.#account();
      this.#calls -= 1;
    }
  }

  /** Counts `work` as loading a model, but for what overlaps with calls. */
  async load<T>(work: () => Promise<T>): Promise<T> {
    this.#account();
    this.#loads += 1;
    try {
      return await work();
    } finally {
      this.#account();
      this.#loads -= 1;
    }
  }

  /** What passed so far, with what is under way. */
  read(): EngineTime {
    this.#account();
    return { busy_seconds: this.#busy, load_seconds: this.#load };
  }

  /** Adds the time since the last change of state to whatever that state was. */
  #account(): void {
    const now = this.now();
    if (this.#calls > 0) this.#busy += now - this.#since;
    else if (this.#loads > 0) this.#load += now - this.#since;
    this.#since = now;
  }
}

export function timeBetween(before: EngineTime, after: EngineTime): EngineTime {
  return { busy_seconds: after.busy_seconds - before.busy_seconds, load_seconds: after.load_seconds - before.load_seconds };
}

/** The share of `seconds` of wall time, loading left out, in which the engine had nothing to do; null where no time is left. */
export function idleShare(seconds: number, { busy_seconds, load_seconds }: EngineTime): number | null {
  const able = seconds - load_seconds;
  return able > 0 ? Math.min(1, Math.max(0, 1 - busy_seconds / able)) : null;
}
