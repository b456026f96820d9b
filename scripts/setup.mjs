// Brings a clone to where its commands run: packages, addon, JavaScript. One line a step; nothing where nothing is to do.
// Plain JavaScript without dependencies, because it runs before anything is installed.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...parts) => join(root, ...parts);

checkNode();
installPackages();
buildAddon();
buildTypeScript();

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  fail(`Node ${process.versions.node} is too old: 20.19 or newer is needed.`);
}

function installPackages() {
  if (packagesInstalled()) return;
  // Our own install script would build the addon here already, without the tests.
  step("installing npm packages", "npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
}

/** Whether node_modules holds every package of package-lock.json in its version; optional ones may be for other machines. */
function packagesInstalled() {
  const installedLock = at("node_modules", ".package-lock.json");
  if (!existsSync(installedLock)) return false;
  const wanted = JSON.parse(readFileSync(at("package-lock.json"), "utf8")).packages;
  const installed = JSON.parse(readFileSync(installedLock, "utf8")).packages;
  return Object.entries(wanted).every(([path, entry]) =>
    path === "" || entry.optional || entry.devOptional || entry.peer || installed[path]?.version === entry.version);
}

function buildAddon() {
  const outputs = [at("build", "Release", "rlhi_native.node"), testProgram()];
  const stamp = at("build", ".setup-stamp");
  const newest = newestOf(["native", "bindings", "cmake", "CMakeLists.txt"]);
  if (outputs.every((path) => path && existsSync(path)) && isNewer(stamp, newest)) return;
  checkCompiler();
  const cache = existsSync(at("build", "CMakeCache.txt")) ? readFileSync(at("build", "CMakeCache.txt"), "utf8") : "";
  const moved = cache !== "" && !cache.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`);
  // cmake-js keeps the options of the first configuration, and an `npm install` configures without the tests.
  const withoutTests = cache !== "" && !/^RLHI_BUILD_TESTS:BOOL=ON$/m.test(cache);
  if (moved || withoutTests) rmSync(at("build"), { recursive: true, force: true });
  step("building the native engine", "npm", ["run", "--silent", "build:native"]);
  touch(stamp);
}

/** cmake-js leaves programs in build/ and libraries in build/Release/. */
function testProgram() {
  return [at("build", "rlhi_native_tests"), at("build", "Release", "rlhi_native_tests")].find((path) => existsSync(path));
}

function buildTypeScript() {
  const stamp = at("dist", ".setup-stamp");
  const newest = newestOf(["lib", "test", "bench", "tsconfig.json"]);
  if (existsSync(at("dist", "lib", "index.js")) && isNewer(stamp, newest)) return;
  step("compiling TypeScript", "npm", ["run", "--silent", "build:ts"]);
  touch(stamp);
}

function checkCompiler() {
  const missing = [];
  if (!runs("cmake", ["--version"])) missing.push("CMake 3.22 or newer");
  const compilers = process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"];
  const cxx20 = ["-std=c++20", "-fsyntax-only", "-x", "c++", "-"];
  if (!compilers.some((compiler) => runs(compiler, cxx20, "#include <concepts>\nint main() { return std::integral<int> ? 0 : 1; }\n"))) {
    missing.push("a C++20 compiler (g++ 12, clang 15 or newer; CXX names another)");
  }
  if (missing.length === 0) return;
  fail(`the native engine has to be built, but ${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} missing.\n` +
    "  Debian, Ubuntu: apt-get install cmake g++        Fedora: dnf install cmake gcc-c++        macOS: xcode-select --install; brew install cmake");
}

function runs(command, args, input = "") {
  const result = spawnSync(command, args, { input, stdio: ["pipe", "ignore", "ignore"] });
  return result.status === 0;
}

/** Runs a step with its output held back: shown whole when it fails, so that a quiet setup stays readable. */
function step(title, command, args) {
  process.stdout.write(`setup: ${title} ... `);
  const begin = Date.now();
  const env = { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env };
  const result = spawnSync(command, args, { cwd: root, encoding: "utf8", env, maxBuffer: 1 << 28 });
  const seconds = Math.round((Date.now() - begin) / 1000);
  if (result.status === 0) {
    console.log(`done (${seconds} s)`);
    return;
  }
  console.log(`failed (${seconds} s)`);
  fail(`\`${command} ${args.join(" ")}\` ${result.error ? result.error.message : `ended with ${result.status ?? result.signal}`}\n${result.stdout ?? ""}${result.stderr ?? ""}`);
}

/** Time of the newest file under these paths, in ms. */
function newestOf(paths) {
  let newest = 0;
  for (const path of paths.map((name) => at(name)).filter((name) => existsSync(name))) {
    const info = statSync(path);
    newest = Math.max(newest, info.mtimeMs);
    if (!info.isDirectory()) continue;
    for (const entry of readdirSync(path, { recursive: true })) newest = Math.max(newest, statSync(join(path, entry), { throwIfNoEntry: false })?.mtimeMs ?? 0);
  }
  return newest;
}

function isNewer(path, time) {
  return existsSync(path) && statSync(path).mtimeMs >= time;
}

function touch(path) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "");
  utimesSync(path, new Date(), new Date());
}

function fail(message) {
  console.error(`setup: ${message}`);
  process.exit(1);
}
