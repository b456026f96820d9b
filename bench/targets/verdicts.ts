/** From a row's figures to what was met and what was missed. */
import { formatBytes } from "../../lib/cli/output.js";
import { best } from "../peers/rounds.js";
import type { Figures, Result } from "../peers/rounds.js";
import type { Criterion } from "./rows.js";

export interface Range {
  median: number;
  low: number;
  high: number;
}

export interface Verdict extends Criterion {
  part: string;
  /** Null where a side of it gave no figures. */
  measured: Range | null;
  /** Reached, against every peer it is meant to be against. */
  met: boolean;
  /** The fastest of ours and of the peers, which were compared; null where there was none or none is needed. */
  ours: string | null;
  peer: string | null;
  /** Peers that are not in it: they failed, or could not be run. */
  without: string[];
}

interface Kind {
  of: (own: Figures, peer: Figures | undefined) => Range | null;
  againstPeers: boolean;
  /** Reached when no larger than the target; else when no smaller. */
  atMost: boolean;
  /** After the target in the table. */
  subject: string;
  quantity: (value: number) => string;
}

const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;
const times = (value: number): string => `${value.toFixed(2)}x`;
const exactly = (value: number): Range => ({ median: value, low: value, high: value });

const kinds: Record<Criterion["kind"], Kind> = {
  "share": {
    of: ({ median, limit, values, limits }) => (limit === null ? null : rangeOf(median / limit, values, limits)),
    againstPeers: false, atMost: false, subject: "of the limit", quantity: percent,
  },
  "ratio": {
    of: (own, peer) => (peer === undefined ? null : rangeOf(own.median / peer.median, own.values, peer.values)),
    againstPeers: true, atMost: false, subject: "the peer's speed", quantity: times,
  },
  "memory": {
    of: ({ memory }) => (memory === null ? null : exactly(memory)),
    againstPeers: false, atMost: true, subject: "memory", quantity: formatBytes,
  },
  "memory ratio": {
    of: ({ memory }, peer) => (memory === null || peer === undefined || peer.memory === null ? null : exactly(memory / peer.memory)),
    againstPeers: true, atMost: true, subject: "the peer's memory", quantity: times,
  },
};

/** Ratios and shares are of medians; lowest and highest are of rounds. `without`: peers that gave nothing. */
export function verdictOf({ part, figures }: Result, criterion: Criterion, without: readonly string[] = []): Verdict {
  const { of, againstPeers, atMost } = kinds[criterion.kind];
  const [own, peer] = [best(figures, true), best(figures, false)];
  const measured = own === undefined ? null : of(own, peer);
  const lacking = againstPeers ? [...without] : [];
  const reached = measured !== null && (atMost ? measured.median <= criterion.target : measured.median >= criterion.target);
  return {
    part, ...criterion, measured, met: reached && lacking.length === 0, ours: own?.contender ?? null,
    peer: againstPeers ? (peer?.contender ?? null) : null, without: lacking,
  };
}

/** Round by round; where no round has both, the quotient of the medians alone. */
function rangeOf(quotient: number, above: readonly (number | null)[], below: readonly (number | null)[]): Range {
  const quotients = above.flatMap((value, round) => {
    const other = below[round] ?? null;
    return value === null || other === null ? [] : [value / other];
  });
  return { median: quotient, low: Math.min(quotient, ...quotients), high: Math.max(quotient, ...quotients) };
}

/** "met", by how much it was missed, or why neither can be said. */
function outcome({ kind, target, measured, met, without }: Verdict): string {
  if (measured === null) return "not measured";
  if (met) return "met";
  const over = measured.median / target - 1;
  if (kinds[kind].atMost ? over <= 0 : over >= 0) return `open: without ${without.join(", ")}`;
  if (kind === "share") return `missed by ${(100 * (target - measured.median)).toFixed(1)} points`;
  return `missed by ${Math.max(1, Math.round(100 * Math.abs(over)))} %`;
}

/** A line of the table. */
export function lineOf(verdict: Verdict): Record<string, string> {
  const { part, kind, target, measured, ours, peer } = verdict;
  const { atMost, subject, quantity } = kinds[kind];
  return {
    row: part, target: `${atMost ? "at most " : ""}${quantity(target)} ${subject}`, measured: measured === null ? "-" : quantity(measured.median),
    "low - high": measured === null ? "-" : `${quantity(measured.low)} - ${quantity(measured.high)}`, verdict: outcome(verdict),
    compared: [ours, peer].filter((name) => name !== null).join(", "),
  };
}
