/** Work in stages of which each makes the next item while its reader is at work on the last. */
import { setImmediate as nextTurn } from "node:timers/promises";

/**
 * Yields what `source` yields, in its order. The next item is asked for before the reader gets this one, a turn of the event loop
 * ahead: what the source gives the engine for it stands in the queue before the reader's own preparations begin. When the reader
 * stops, the item under way is awaited and the source closed.
 */
export async function* readAhead<T>(source: AsyncIterable<T>): AsyncGenerator<T> {
  const iterator = source[Symbol.asyncIterator]();
  const ask = (): Promise<IteratorResult<T>> => {
    const item = iterator.next();
    // A failure is told where the item is awaited.
    item.catch(() => undefined);
    return item;
  };
  let next = ask();
  try {
    for (let item = await next; item.done !== true; item = await next) {
      next = ask();
      await nextTurn();
      yield item.value;
    }
  } finally {
    await next.catch(() => undefined);
    await iterator.return?.();
  }
}
