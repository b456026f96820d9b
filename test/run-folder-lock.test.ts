/** Who may work in a run folder: one run at a time, whatever processes that are gone have left. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { RlhiError } from "../lib/errors.js";
import { lockRunFolder } from "../lib/run/lock.js";
import { temporaryFolder } from "./helpers/conversations.js";

const linux = { skip: process.platform !== "linux" && "start times of processes are in /proc" };
const inUse = (pattern: RegExp) => (error: unknown): boolean => error instanceof RlhiError && error.code === "ERR_RUN_IN_USE" && error.exitCode === 1 && pattern.test(error.message);
const startOf = (pid: number): string => readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ")[19] ?? "";

/** A process that locks at the word. */
class Contender {
  readonly #child;
  readonly #lines;

  constructor(dir: string) {
    this.#child = spawn(process.execPath, [fileURLToPath(new URL("helpers/lock-process.js", import.meta.url)), dir], { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async says(): Promise<string> {
    return (await this.#lines.next()).value as string;
  }

  lock(): void {
    this.#child.stdin.write("go\n");
  }

  async ends(signal?: NodeJS.Signals): Promise<void> {
    const ended = once(this.#child, "close");
    if (signal === undefined) this.#child.stdin.end();
    else this.#child.kill(signal);
    await ended;
  }
}

describe("the lock of a run folder", () => {
  it("is held by one run of a process at a time, and left behind by none", (t) => {
    const dir = temporaryFolder(t);
    const unlock = lockRunFolder(dir);
    assert.match(readFileSync(join(dir, ".lock"), "utf8"), new RegExp(`^${process.pid} (\\d+|-) [0-9a-f-]{36}\n$`));
    assert.throws(() => lockRunFolder(dir), inUse(/this process has this run folder open already[\s\S]*close the run/));
    unlock();
    assert.deepEqual(readdirSync(dir), []);
    lockRunFolder(dir)();
    unlock();
    assert.deepEqual(readdirSync(dir), []);
  });

  it("of a process at work names that process and the file; of one that was killed it is taken over", async (t) => {
    const dir = temporaryFolder(t);
    const other = new Contender(dir);
    await other.says();
    other.lock();
    assert.equal(await other.says(), "held");
    assert.throws(() => lockRunFolder(dir), inUse(new RegExp(`another process[\\s\\S]*process ${other.pid} in .*\\.lock\n[\\s\\S]*remove .*\\.lock`)));
    await other.ends("SIGKILL");
    assert.ok(existsSync(join(dir, ".lock")));
    lockRunFolder(dir)();
    assert.deepEqual(readdirSync(dir), []);
  });

  it("of a process whose id another program has now is taken over", linux, (t) => {
    const dir = temporaryFolder(t);
    const path = join(dir, ".lock");
    writeFileSync(path, `${process.ppid} ${startOf(process.ppid)} token\n`);
    assert.throws(() => lockRunFolder(dir), inUse(/another process/));
    for (const pid of [process.ppid, process.pid, 1]) {
      writeFileSync(path, `${pid} ${Number(startOf(pid)) + 1} token\n`);
      lockRunFolder(dir)();
      assert.ok(!existsSync(path), `process ${pid}`);
    }
  });

  it("without a start time is judged by the process alone, and without a process taken over", (t) => {
    const dir = temporaryFolder(t);
    for (const content of [`${process.ppid}`, `${process.ppid} - token\n`]) {
      writeFileSync(join(dir, ".lock"), content);
      assert.throws(() => lockRunFolder(dir), inUse(/another process/));
    }
    for (const content of ["999999999", `${process.pid} - token\n`, "", "nonsense", "-1 5 token\n"]) {
      writeFileSync(join(dir, ".lock"), content);
      lockRunFolder(dir)();
    }
    assert.deepEqual(readdirSync(dir), []);
  });

  it("given back, leaves the lock of another alone", (t) => {
    const dir = temporaryFolder(t);
    const unlock = lockRunFolder(dir);
    writeFileSync(join(dir, ".lock"), "999999999 1 token\n");
    unlock();
    assert.equal(readFileSync(join(dir, ".lock"), "utf8"), "999999999 1 token\n");
  });

  it("left behind, is taken over by one of several that come at once", async (t) => {
    const dir = temporaryFolder(t);
    const contenders = Array.from({ length: 4 }, () => new Contender(dir));
    await Promise.all(contenders.map((contender) => contender.says()));
    writeFileSync(join(dir, ".lock"), "999999999 1 token\n");
    for (const contender of contenders) contender.lock();
    const words = await Promise.all(contenders.map((contender) => contender.says()));
    assert.deepEqual(words.toSorted(), ["ERR_RUN_IN_USE", "ERR_RUN_IN_USE", "ERR_RUN_IN_USE", "held"]);
    await Promise.all(contenders.map((contender) => contender.ends()));
    assert.deepEqual(readdirSync(dir), []);
  });
});
