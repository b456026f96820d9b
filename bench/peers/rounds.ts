/** Contenders in turns: every round runs each of them once, and figures are medians over the rounds. */
import { median } from "../../lib/engine/bench.js";
import type { Progress } from "../../lib/progress.js";

/** What one run gave for one thing measured; `limit` is what this machine allows, in the same unit, where it was measured. */
export interface Reading {
  value: number;
  memory?: number | undefined;
  limit?: number | undefined;
}

export interface Contender {
  name: string;
  ours: boolean;
  /** Readings by the name of the thing measured: one of the measurement's parts. */
  run: () => Promise<ReadonlyMap<string, Reading>>;
}

export interface Measurement {
  /** Of the whole; unique. */
  name: string;
  unit: string;
  /** What a run measures: often one thing, the measurement itself. */
  parts: readonly string[];
  contenders: readonly Contender[];
  /** About how long a run takes, for estimates. */
  seconds: number;
  /** What could not be set against ours, and why. */
  missing?: string | undefined;
}

export interface Figures {
  contender: string;
  ours: boolean;
  median: number;
  low: number;
  high: number;
  memory: number | null;
  limit: number | null;
  /** Of each round; null where it failed. */
  values: (number | null)[];
  limits: (number | null)[];
}

export interface Result {
  part: string;
  unit: string;
  figures: Figures[];
}

export interface Failure {
  contender: string;
  message: string;
}

export interface Rounds {
  results: Result[];
  failures: Failure[];
}

export interface RoundsListener {
  begins: (contender: string, round: number) => void;
  ended: (contender: string, failure: Failure | undefined) => void;
}

/** A contender that fails is noted once for each message, and the others go on. */
export async function runRounds(measurement: Measurement, rounds: number, listener: RoundsListener): Promise<Rounds> {
  const readings = new Map<string, (ReadonlyMap<string, Reading> | undefined)[]>(measurement.contenders.map(({ name }) => [name, []]));
  const failures: Failure[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    for (const { name, run } of measurement.contenders) {
      listener.begins(name, round);
      let failure: Failure | undefined;
      try {
        readings.get(name)?.push(await run());
      } catch (error) {
        failure = { contender: name, message: (error as Error).message };
        readings.get(name)?.push(undefined);
        if (!failures.some((one) => one.contender === name && one.message === failure?.message)) failures.push(failure);
      }
      listener.ended(name, failure);
    }
  }
  const results = measurement.parts.map((part): Result => ({
    part, unit: measurement.unit,
    figures: measurement.contenders.flatMap(({ name, ours }) => figuresOf(name, ours, (readings.get(name) ?? []).map((one) => one?.get(part)))),
  }));
  return { results, failures };
}

/** About how long all rounds of these take, in seconds: what progress counts. */
export function secondsOf(measurements: readonly Measurement[], rounds: number): number {
  return measurements.reduce((sum, { contenders, seconds }) => sum + rounds * contenders.length * seconds, 0);
}

/** Shows a measurement's runs on a progress display that counts `secondsOf`. */
export function shownOn(progress: Progress, { name, seconds }: Measurement, rounds: number): RoundsListener {
  return {
    begins: (contender, round) => progress.note(`${name}: round ${round} of ${rounds}, ${contender}`),
    ended: (contender, failure) => {
      if (failure !== undefined) progress.note(`  ${contender} failed: ${failure.message}`);
      progress.advance(seconds);
    },
  };
}

function figuresOf(contender: string, ours: boolean, rounds: readonly (Reading | undefined)[]): Figures[] {
  const present = rounds.filter((reading) => reading !== undefined);
  if (present.length === 0) return [];
  const values = present.map(({ value }) => value);
  const limits = present.flatMap(({ limit }) => (limit === undefined ? [] : [limit]));
  const memories = present.flatMap(({ memory }) => (memory === undefined ? [] : [memory]));
  return [{
    contender, ours, median: median(values), low: Math.min(...values), high: Math.max(...values),
    memory: memories.length === 0 ? null : Math.max(...memories), limit: limits.length === 0 ? null : median(limits),
    values: rounds.map((reading) => reading?.value ?? null), limits: rounds.map((reading) => reading?.limit ?? null),
  }];
}

/** The fastest of ours, or of the peers. */
export function best(figures: readonly Figures[], ours: boolean): Figures | undefined {
  return figures.filter((one) => one.ours === ours).toSorted((a, b) => b.median - a.median)[0];
}
