/** Work as time on a processor: on a busy machine the clock goes on without this process, and this does not. */

/** Milliseconds that all threads of this process are at work until `work` ends. */
export async function processorTime(work: () => unknown): Promise<number> {
  const start = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}
