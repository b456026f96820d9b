/** One process at a time in a folder: two runs would write the same records twice, two trainings remove each other's checkpoints. */
import { randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RlhiError } from "../errors.js";
import { writeError } from "../files.js";

/** Locks that this process holds: where the system tells no start times, an earlier process may have had its id. */
const held = new Set<string>();

/** What holds a folder, in the words of its messages. */
interface Kind {
  code: string;
  /** "another process works in this run folder" */
  folder: string;
  verb: string;
  /** How another folder is chosen. */
  flag: string;
  /** What to do where it is this process itself that holds it. */
  own: string;
}

const runKind: Kind = { code: "ERR_RUN_IN_USE", folder: "run folder", verb: "works in", flag: "--run DIR", own: "close the run that is open before it is opened again" };
const trainingKind: Kind = { code: "ERR_TRAINING_IN_USE", folder: "folder of checkpoints", verb: "trains into", flag: "--out DIR", own: "wait for that training to end" };

/** Takes the run folder's lock; a lock left by a process that is gone is taken over. Returns what gives it back. */
export function lockRunFolder(dir: string): () => void {
  return lockFolder(dir, runKind);
}

/** The same for a training's folder of checkpoints, alone or of a run: every training has its own. */
export function lockCheckpoints(dir: string): () => void {
  return lockFolder(dir, trainingKind);
}

function lockFolder(dir: string, kind: Kind): () => void {
  const path = join(dir, ".lock");
  const token = randomUUID();
  const mine = `${process.pid} ${startOf(process.pid)} ${token}\n`;
  for (let attempt = 0; attempt < 4; attempt += 1) {
    if (take(path, mine, token)) {
      held.add(token);
      return () => {
        held.delete(token);
        if (contentOf(path) === mine) rmSync(path, { force: true });
      };
    }
    const theirs = contentOf(path);
    // Given back since.
    if (theirs === undefined) continue;
    if (isHeld(theirs)) throw inUse(kind, dir, path, theirs);
    removeStale(path, theirs, token);
  }
  throw inUse(kind, dir, path, contentOf(path) ?? "");
}

/** Linked, not created: a lock is never seen without its content. False where there is one already. */
function take(path: string, content: string, token: string): boolean {
  const prepared = `${path}-${token}`;
  try {
    writeFileSync(prepared, content);
    linkSync(prepared, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw writeError(path, error);
  } finally {
    rmSync(prepared, { force: true });
  }
}

/** Moved away first, then compared: the lock that another process has taken in the meantime is put back. */
function removeStale(path: string, stale: string, token: string): void {
  const aside = `${path}-stale-${token}`;
  try {
    renameSync(path, aside);
    if (contentOf(aside) !== stale) linkSync(aside, path);
  } catch (error) {
    // Another one was faster.
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EEXIST") throw writeError(path, error);
  } finally {
    rmSync(aside, { force: true });
  }
}

function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** Whether the process that wrote the lock is at work: one that took its id later has another start time. */
function isHeld(content: string): boolean {
  const { pid, start, token } = holderOf(content);
  if (!Number.isInteger(pid) || pid <= 0) return false;
  const now = startOf(pid);
  if (start !== undefined && start !== unknown && now !== unknown) return start === now;
  return pid === process.pid ? held.has(token ?? "") : isAlive(pid);
}

function holderOf(content: string): { pid: number; start: string | undefined; token: string | undefined } {
  const [pid, start, token] = content.trim().split(" ");
  return { pid: Number(pid), start, token };
}

const unknown = "-";

/** When a process began, in clock ticks since the system did: field 22 of /proc/PID/stat, whose second may hold spaces and brackets. */
function startOf(pid: number): string {
  const stat = contentOf(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? unknown;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function inUse({ code, folder, verb, flag, own: advice }: Kind, dir: string, path: string, content: string): RlhiError {
  const { pid } = holderOf(content);
  const own = pid === process.pid;
  return new RlhiError(code, {
    what: own ? `this process has this ${folder} open already` : `another process ${verb} this ${folder}`,
    where: dir,
    found: `process ${pid} in ${path}`,
    todo: own ? advice : `wait for it to end, or give another folder (${flag}); if that process is another program, remove ${path}`,
  });
}
