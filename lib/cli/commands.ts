/** Every command, in the order of --help. */
import type { Command } from "./command.js";
import { doctor } from "./commands/doctor.js";

export const commands: readonly Command[] = [doctor];
