/** Measures what the record does not hold yet, row by row. */
import type { Progress } from "../../lib/progress.js";
import { runRounds, secondsOf, shownOn } from "../peers/rounds.js";
import type { Result, Rounds } from "../peers/rounds.js";
import type { Settings, TargetsRecord } from "./record.js";
import type { Row } from "./rows.js";
import { verdictOf } from "./verdicts.js";
import type { Verdict } from "./verdicts.js";

export interface Outcome {
  verdicts: Verdict[];
  /** Of the rows that are a single figure a contender. */
  single: Result[];
  /** A line each. */
  failures: string[];
}

/** A row is in the record as soon as it is finished. */
export async function measureRows(
  rows: readonly Row[], rounds: number, settingsOf: (row: Row) => Settings, record: TargetsRecord, progress: Progress,
): Promise<Outcome> {
  const known = new Map(rows.map((row) => [row, record.find(row.measurement.name, settingsOf(row))]));
  const toDo = rows.filter((row) => known.get(row) === undefined).map(({ measurement }) => measurement);
  const kept = rows.length - toDo.length;
  if (kept > 0) progress.note(`${kept} of ${rows.length} measurements were finished before, under the same settings`);
  progress.start("bench:targets, in seconds", secondsOf(toDo, rounds));
  const outcome: Outcome = { verdicts: [], single: [], failures: [] };
  for (const row of rows) {
    const { measurement } = row;
    let done: Rounds | undefined = known.get(row);
    if (done === undefined) {
      done = await runRounds(measurement, rounds, shownOn(progress, measurement, rounds));
      const [settings, finished, verdicts] = [settingsOf(row), new Date().toISOString(), verdictsOf(row, done)];
      record.put({ measurement: measurement.name, settings, finished, verdicts, ...done });
    }
    outcome.verdicts.push(...verdictsOf(row, done));
    if (measurement.parts.length === 1) outcome.single.push(...done.results);
    outcome.failures.push(...done.failures.map(({ contender, message }) => `${measurement.name}: ${contender} failed: ${message}`));
  }
  progress.stop();
  return outcome;
}

/** Against today's targets, whenever it was measured. A peer that failed in every round is not in the comparison. */
function verdictsOf({ measurement, criteria }: Row, { results, failures }: Rounds): Verdict[] {
  return results.flatMap((result) => {
    const failed = failures.map(({ contender }) => contender).filter((name) => !result.figures.some((one) => one.contender === name));
    const without = [...new Set(failed), ...(measurement.missing === undefined ? [] : [measurement.missing])];
    return criteria.map((criterion) => verdictOf(result, criterion, without));
  });
}
