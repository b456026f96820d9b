/** Takes the lock of the folder in argv[2] as its stdin says "go", prints "held" or the error's code, and gives it back when stdin ends. */
import { createInterface } from "node:readline";
import { RlhiError } from "../../lib/errors.js";
import { lockRunFolder } from "../../lib/run/lock.js";

process.stdout.write("ready\n");
let unlock: (() => void) | undefined;
for await (const _ of createInterface({ input: process.stdin })) {
  try {
    unlock = lockRunFolder(process.argv[2] ?? "");
    process.stdout.write("held\n");
  } catch (error) {
    process.stdout.write(`${error instanceof RlhiError ? error.code : String(error)}\n`);
  }
}
unlock?.();
