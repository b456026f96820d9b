/** Every command, in the order of --help. */
import type { Command } from "./command.js";
import { bench } from "./commands/bench.js";
import { chat } from "./commands/chat.js";
import { doctor } from "./commands/doctor.js";
import { evaluate } from "./commands/eval.js";
import { feedback } from "./commands/feedback.js";
import { generate } from "./commands/generate.js";
import { logps } from "./commands/logps.js";
import { mine } from "./commands/mine.js";
import { pairs } from "./commands/pairs.js";
import { personas } from "./commands/personas.js";
import { report } from "./commands/report.js";
import { reward } from "./commands/reward.js";
import { rewrite } from "./commands/rewrite.js";
import { run } from "./commands/run.js";
import { train } from "./commands/train.js";

export const commands: readonly Command[] = [run, mine, feedback, personas, rewrite, reward, pairs, train, evaluate, report, generate, chat, logps, bench, doctor];
