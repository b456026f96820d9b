/** One process at a time in a run folder: two would write the same records twice. */
import { linkSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RlhiError } from "../errors.js";

/** Takes the folder's lock; a lock left by a process that is gone is taken over. Returns what gives it back. */
export function lockRunFolder(dir: string): () => void {
  const path = join(dir, ".lock");
  for (let attempt = 0; ; attempt++) {
    // Linked, not created: a lock is never seen without its process id.
    const mine = `${path}-${process.pid}`;
    try {
      writeFileSync(mine, String(process.pid));
      linkSync(mine, path);
      return () => rmSync(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 2) throw cannotLock(path, error);
      const holder = holderOf(path);
      if (holder !== undefined && isAlive(holder)) {
        throw new RlhiError("ERR_RUN_IN_USE", { what: "another process works in this run folder", where: dir, found: `process ${holder}`, todo: "wait for it to end, or give another folder (--run DIR)" });
      }
      rmSync(path, { force: true });
    } finally {
      rmSync(mine, { force: true });
    }
  }
}

function holderOf(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, "utf8"));
    return Number.isInteger(pid) && pid > 0 && pid !== process.pid ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function cannotLock(path: string, cause: unknown): RlhiError {
  return new RlhiError("ERR_WRITE", { what: `cannot write: ${(cause as Error).message}`, where: path, todo: "check that the run folder exists and is writable", cause });
}
