// npm run check:sanitizers [-- --only asan,tsan --filter TEXT]: the native test program under AddressSanitizer with
// UndefinedBehaviorSanitizer (asan) and under ThreadSanitizer (tsan), built into build-sanitize/NAME/. A run ends at the first
// thing a sanitizer finds. Exit code 1 if any found something or a test failed. Needs Node, CMake and a C++20 compiler only.
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const everything = [{ what: "every test on the CPU", args: [] }, { what: "the CUDA backend, emulated", args: ["--device", "emulated"] }];
const checks = {
  asan: {
    sanitizers: "address,undefined,float-cast-overflow",
    environment: {
      ASAN_OPTIONS: "halt_on_error=1:detect_leaks=1:strict_string_checks=1:check_initialization_order=1",
      UBSAN_OPTIONS: "halt_on_error=1:print_stacktrace=1",
    },
    runs: everything,
  },
  tsan: {
    sanitizers: "thread",
    environment: { TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1" },
    runs: everything,
  },
};

const { only, filter } = parseArgs({ options: {
  only: { type: "string", default: Object.keys(checks).join(",") }, filter: { type: "string", multiple: true, default: [] },
} }).values;
const names = only.split(",");
for (const name of names) if (!checks[name]) end(`--only ${name}: expected ${Object.keys(checks).join(" or ")}`);

const results = [];
for (const name of names) results.push(...await check(name, checks[name]));
console.log("\nsummary");
for (const result of results) console.log(`  ${result.ok ? "clean " : "FAILED"}  ${result.name}: ${result.what}: ${result.outcome} (${result.minutes} min)`);
process.exit(results.every((result) => result.ok) ? 0 : 1);

/** Builds the tests with one set of sanitizers and runs them; a build that fails is the only result. */
async function check(name, { sanitizers, environment, runs }) {
  const folder = join(root, "build-sanitize", name);
  const options = ["CMAKE_BUILD_TYPE=RelWithDebInfo", "RLHI_BUILD_TESTS=ON", "RLHI_CUDA=off", `RLHI_SANITIZE=${sanitizers}`];
  const begin = Date.now();
  console.log(`\n${name}: building with -fsanitize=${sanitizers} in ${relative(root, folder)}/`);
  const configured = await run("cmake", ["-S", root, "-B", folder, ...options.map((option) => `-D${option}`)], {}, "ignore");
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism());
  const built = configured.ok ? await run("cmake", ["--build", folder, "--parallel", jobs, "--target", "rlhi_native_tests"]) : configured;
  if (!built.ok) return [{ name, what: "build", ok: false, outcome: built.outcome, minutes: minutesSince(begin) }];
  const all = [];
  for (const { what, args } of runs) {
    console.log(`\n${name}: ${what}${filter.length > 0 ? `, filter ${filter.join(" ")}` : ""}`);
    for (const [key, value] of Object.entries(environment)) console.log(`  ${key}=${value}`);
    const runBegin = Date.now();
    const { ok, outcome } = await run(join(folder, "rlhi_native_tests"), [...args, ...filter], environment);
    all.push({ name, what, ok, outcome, minutes: minutesSince(runBegin) });
  }
  return all;
}

/** A command with its output passed on; the outcome is its summary of tests or how it ended. */
function run(command, args, environment = {}, stdout = "pipe") {
  return new Promise((settle) => {
    let tail = "";
    const child = spawn(command, args, { cwd: root, env: { ...process.env, ...environment }, stdio: ["ignore", stdout, "inherit"] });
    child.stdout?.on("data", (data) => {
      process.stdout.write(data);
      tail = (tail + data).slice(-200);
    });
    child.on("error", (error) => settle({ ok: false, outcome: error.message }));
    child.on("close", (code, signal) => {
      const summary = /\d+ passed, \d+ failed, \d+ skipped(?=\s*$)/.exec(tail)?.[0];
      const ending = `ended with ${code ?? signal}`;
      settle({ ok: code === 0, outcome: code === 0 ? summary ?? ending : [summary, ending].filter(Boolean).join(", ") });
    });
  });
}

function minutesSince(begin) {
  return ((Date.now() - begin) / 60_000).toFixed(1);
}

function end(message) {
  console.error(`check-sanitizers: ${message}`);
  process.exit(1);
}
