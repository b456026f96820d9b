/** The engine's idle share: what counts as work, as loading and as waiting, by a clock that the test moves. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BusyClock, idleShare, timeBetween } from "../lib/engine/busy-clock.js";

/** A clock that moves when told. */
function handMoved(): { clock: BusyClock; pass: (seconds: number) => void } {
  let now = 1000;
  return { clock: new BusyClock(() => now), pass: (seconds) => { now += seconds; } };
}

/** Work under way until `end` or `fail` is called. */
class OpenWork {
  end!: () => void;
  fail!: (error: Error) => void;
  readonly #promise = new Promise<string>((resolve, reject) => {
    this.end = () => resolve("done");
    this.fail = reject;
  });
  readonly work = (): Promise<string> => this.#promise;
}

test("calls count while they are outstanding, the time between them does not", async () => {
  const { clock, pass } = handMoved();
  pass(5);
  const first = new OpenWork();
  const running = clock.call(first.work);
  pass(2);
  assert.deepEqual(clock.read(), { busy_seconds: 2, load_seconds: 0 }, "what is under way counts so far");
  pass(1);
  first.end();
  assert.equal(await running, "done");
  pass(4);
  await clock.call(async () => pass(0.5));
  pass(8);
  assert.deepEqual(clock.read(), { busy_seconds: 3.5, load_seconds: 0 });
});

test("calls that overlap count once", async () => {
  const { clock, pass } = handMoved();
  const [one, two] = [new OpenWork(), new OpenWork()];
  const first = clock.call(one.work);
  pass(1);
  const second = clock.call(two.work);
  pass(1);
  one.end();
  await first;
  pass(1);
  two.end();
  await second;
  pass(1);
  assert.equal(clock.read().busy_seconds, 3);
});

test("loading is told apart, and where a call runs beside it the engine is busy", async () => {
  const { clock, pass } = handMoved();
  const load = new OpenWork();
  const loading = clock.load(load.work);
  pass(2);
  await clock.call(async () => pass(3));
  pass(1);
  load.end();
  await loading;
  pass(1);
  assert.deepEqual(clock.read(), { busy_seconds: 3, load_seconds: 3 });
});

test("a call that fails ends, and its error goes on", async () => {
  const { clock, pass } = handMoved();
  const failing = new OpenWork();
  const running = clock.call(failing.work);
  pass(2);
  failing.fail(new Error("no memory"));
  await assert.rejects(running, /no memory/);
  pass(2);
  await assert.rejects(clock.call(() => { throw new Error("bad argument"); }), /bad argument/);
  pass(2);
  assert.deepEqual(clock.read(), { busy_seconds: 2, load_seconds: 0 });
});

test("the idle share is of the wall time without loading", () => {
  assert.equal(idleShare(10, { busy_seconds: 6, load_seconds: 2 }), 0.25);
  assert.equal(idleShare(10, { busy_seconds: 10, load_seconds: 0 }), 0);
  assert.equal(idleShare(3, { busy_seconds: 0, load_seconds: 3 }), null, "nothing but loading");
  assert.equal(idleShare(1, { busy_seconds: 1.0000001, load_seconds: 0 }), 0, "two clocks may differ by a rounding");
  assert.deepEqual(timeBetween({ busy_seconds: 1, load_seconds: 2 }, { busy_seconds: 4, load_seconds: 2 }), { busy_seconds: 3, load_seconds: 0 });
});
