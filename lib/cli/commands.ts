/** Every command, in the order of --help. */
import type { Command } from "./command.js";
import { bench } from "./commands/bench.js";
import { chat } from "./commands/chat.js";
import { doctor } from "./commands/doctor.js";
import { generate } from "./commands/generate.js";
import { logps } from "./commands/logps.js";
import { train } from "./commands/train.js";

export const commands: readonly Command[] = [train, generate, chat, logps, bench, doctor];
