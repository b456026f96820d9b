// npm test [-- FILTER ...]: the native test program, then every test file under test/ (or those whose path contains one
// of the filters; the filter "native" is the native program). Ends with one line that sums both; exit code 1 if either fails.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const filters = process.argv.slice(2);
const total = { passed: 0, failed: 0, skipped: 0 };

const files = testFiles();
const native = filters.length === 0 || filters.includes("native");
if (!native && files.length === 0) fail(`no test file's path contains ${filters.map((filter) => `"${filter}"`).join(" or ")}`);
if (native) {
  runNative("native", []);
  // The CUDA backend's host code over emulated kernels, wherever there is no GPU to run them.
  runNative("native, CUDA emulated", ["--device", "emulated"]);
}
if (files.length > 0) runNode(files);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);

/** The compiled file of every source: a test whose source is gone is not run from an old dist/. Node 20's --test takes no globs. */
function testFiles() {
  return readdirSync(join(root, "test"), { recursive: true })
    .filter((name) => name.endsWith(".test.ts"))
    .filter((name) => filters.length === 0 || filters.some((filter) => filter !== "native" && join("test", name).includes(filter)))
    .map((name) => join("dist", "test", name.replace(/\.ts$/, ".js")))
    .toSorted();
}

function runNative(title, options) {
  const program = [join(root, "build", "rlhi_native_tests"), join(root, "build", "Release", "rlhi_native_tests")].find((path) => existsSync(path));
  if (!program) fail("the native test program is not built: npm run build:native");
  console.log(title);
  const result = spawnSync(program, options, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 1 << 28 });
  process.stdout.write(result.stdout);
  const summary = /(\d+) passed, (\d+) failed, (\d+) skipped\s*$/.exec(result.stdout);
  add(summary ? summary.slice(1).map(Number) : [0, 0, 0]);
  // A crash has no summary, or one of the tests before it.
  if (result.status !== 0 && !(summary && Number(summary[2]) > 0)) {
    console.error(`the native test program ended with ${result.status ?? result.signal}`);
    total.failed += 1;
  }
}

function runNode(paths) {
  const missing = paths.filter((path) => !existsSync(join(root, path)));
  if (missing.length > 0) fail(`not compiled: ${missing.join(", ")}: npm run build:ts`);
  const folder = mkdtempSync(join(tmpdir(), "rlhi-tests-"));
  const tap = join(folder, "tap");
  try {
    // Two reporters: one for people, one whose last lines are counts.
    const reporters = ["--test-reporter=spec", "--test-reporter-destination=stdout", "--test-reporter=tap", `--test-reporter-destination=${tap}`];
    const result = spawnSync(process.execPath, ["--test", ...reporters, ...paths], { cwd: root, stdio: "inherit" });
    const text = existsSync(tap) ? readFileSync(tap, "utf8") : "";
    const count = (name) => Number(text.match(new RegExp(`^# ${name} (\\d+)$`, "m"))?.[1] ?? 0);
    const failed = count("fail") + count("cancelled");
    add([count("pass"), failed, count("skipped") + count("todo")]);
    if (result.status !== 0 && failed === 0) {
      console.error(`node --test ended with ${result.status ?? result.signal}`);
      total.failed += 1;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function add([passed, failed, skipped]) {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
}

function fail(message) {
  console.error(`run-tests: ${message}`);
  process.exit(1);
}
