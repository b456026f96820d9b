// npm run quickstart [-- --data FILE] [--model PATH] [--run DIR]: sets everything up, then runs the whole method once.
// Plain JavaScript: on a fresh clone nothing is installed or built yet.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const node = (script, args) => spawnSync(process.execPath, [join(root, script), ...args], { stdio: "inherit" });

const setup = node("scripts/setup.mjs", []);
if (setup.status !== 0) process.exit(setup.status ?? 1);

// Ctrl-C reaches the child too; waiting for it lets it save its state and say how to go on.
process.on("SIGINT", () => {});
const run = node("dist/lib/quickstart/main.js", process.argv.slice(2));
process.exit(run.status ?? 130);
