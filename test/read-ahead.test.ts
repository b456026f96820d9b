import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { readAhead } from "../lib/read-ahead.js";

/** Numbers up to `last`, each noted when its making begins and ends. */
async function* counting(last: number, log: string[], failAt = Infinity): AsyncGenerator<number> {
  try {
    for (let n = 1; n <= last; n += 1) {
      log.push(`make ${n}`);
      await nextTurn();
      if (n === failAt) throw new Error(`no ${n}`);
      yield n;
    }
  } finally {
    log.push("closed");
  }
}

test("the next item is begun before the reader works on this one, and no more than one", async () => {
  const log: string[] = [];
  for await (const n of readAhead(counting(3, log))) {
    log.push(`use ${n}`);
    for (let turn = 0; turn < 5; turn += 1) await nextTurn();
    log.push(`used ${n}`);
  }
  assert.deepEqual(log, ["make 1", "make 2", "use 1", "used 1", "make 3", "use 2", "used 2", "closed", "use 3", "used 3"]);
});

test("a failure comes where its item would have, after those before it", async () => {
  const log: string[] = [];
  const used: number[] = [];
  await assert.rejects(async () => {
    for await (const n of readAhead(counting(3, log, 3))) used.push(n);
  }, /no 3/);
  assert.deepEqual(used, [1, 2]);
});

test("a reader that stops waits for what is under way, and the source is closed", async () => {
  const log: string[] = [];
  await assert.rejects(async () => {
    for await (const n of readAhead(counting(9, log))) throw new Error(`enough at ${n}`);
  }, /enough at 1/);
  assert.deepEqual(log, ["make 1", "make 2", "closed"]);
});

test("nothing gives nothing", async () => {
  for await (const n of readAhead(counting(0, []))) assert.fail(String(n));
});
