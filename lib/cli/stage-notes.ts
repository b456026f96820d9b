/** What `run` and quickstart say as each stage begins and ends. */
import type { Progress } from "../progress.js";
import type { PipelineOptions } from "../run/pipeline.js";
import { formatSeconds } from "./output.js";

export function stageNotes(progress: Progress): NonNullable<PipelineOptions["onStage"]> {
  return ({ name, place, of, outcome, seconds_left }) => {
    const title = `[${place}/${of}] ${name}`;
    if (outcome === undefined) progress.note(title);
    else if (outcome.skipped) progress.note(`${title}: done before`);
    else progress.note(`${title}: done in ${formatSeconds(outcome.seconds)}${seconds_left === null ? "" : `; the rest takes roughly ${about(seconds_left)}`}`);
  };
}

/** An estimate, no more exact than it is: "40 s", "3 min", "2 h 10 min". */
export function about(seconds: number): string {
  const step = seconds < 60 ? 10 : seconds < 3600 ? 60 : 600;
  const rounded = Math.max(step, Math.round(seconds / step) * step);
  if (rounded < 60) return `${rounded} s`;
  const minutes = Math.round(rounded / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 === 0 ? `${minutes / 60} h` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
