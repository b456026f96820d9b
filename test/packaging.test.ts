/**
 * What a user of the npm package gets: the packed tarball, installed in an empty folder. Slow (it compiles the addon
 * twice), so RLHI_FAST_TESTS=1 leaves it out.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, parse, relative } from "node:path";
import { test } from "node:test";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

const root = clone(dirname(fileURLToPath(import.meta.url)));
const minutes = 60_000;

interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

test("the tarball with a prebuild runs where there is no compiler and no cmake", { timeout: 30 * minutes }, async (t) => {
  if (!(await prerequisites(t))) return;
  const dir = temporaryFolder(t);
  const stage = stagePackage(join(dir, "stage"));
  await succeeds(run(process.execPath, [join(root, "scripts", "prebuild.mjs"), "--out", stage], root));
  const tarball = await pack(stage);

  const path = pathWithoutCompiler(join(dir, "bin"));
  for (const tool of ["cmake", "make", "ninja", "cc", "c++", "gcc", "g++", "clang++"]) {
    const found = await run("sh", ["-c", `command -v ${tool}`], dir, { PATH: path });
    assert.notEqual(found.code, 0, `${tool} is not to be found there`);
  }
  const app = await install(join(dir, "app"), tarball, { PATH: path, PREBUILDS_ONLY: "1" });
  const facts = await doctor(app, { PATH: path, PREBUILDS_ONLY: "1" });
  const installed = join("node_modules", "rlhi-native", "prebuilds", `${process.platform}-${process.arch}`);
  assert.equal(dirname(relative(realpathSync(app), facts["binary"] as string)), installed);
  assert.match(facts["binary_reason"] as string, /^prebuilt/);
  assert.equal(facts["version"], packageVersion());
  await importable(app, { PATH: path, PREBUILDS_ONLY: "1" });
  assert.ok(!existsSync(join(app, "node_modules", "rlhi-native", "build")), "nothing was built");
  assert.ok(!existsSync(join(app, "node_modules", "rlhi-native", "dist", "test")), "tests are not shipped");
});

test("the tarball without a prebuild compiles on install where there is a compiler", { timeout: 30 * minutes }, async (t) => {
  if (!(await prerequisites(t))) return;
  const dir = temporaryFolder(t);
  const tarball = await pack(stagePackage(join(dir, "stage")));
  const app = await install(join(dir, "app"), tarball, {});
  const facts = await doctor(app, {});
  assert.equal(dirname(relative(realpathSync(app), facts["binary"] as string)), join("node_modules", "rlhi-native", "build", "Release"));
  assert.match(facts["binary_reason"] as string, /^built on this machine/);
  await importable(app, {});
  assert.equal(facts["version"], packageVersion());
});

async function prerequisites(t: TestContext): Promise<boolean> {
  if (process.env["RLHI_FAST_TESTS"] === "1") return skip(t, "RLHI_FAST_TESTS=1");
  if (process.platform === "win32") return skip(t, "written for POSIX systems");
  const registry = await run("npm", ["view", "node-gyp-build", "version", "--fetch-retries=0", "--fetch-timeout=15000"], tmpdir());
  return registry.code === 0 || skip(t, "the npm registry does not answer");
}

function skip(t: TestContext, why: string): false {
  t.skip(why);
  return false;
}

/** The folder above `dir` that is the clone, wherever the compiled tests lie in it. */
function clone(dir: string): string {
  if (existsSync(join(dir, "CMakeLists.txt")) && existsSync(join(dir, "package-lock.json"))) return dir;
  assert.notEqual(dir, parse(dir).root, "these tests run inside a clone");
  return clone(dirname(dir));
}

/** A folder with what package.json's `files` names, but no prebuilds; its tarball is the package's. The clone stays untouched. */
function stagePackage(stage: string): string {
  mkdirSync(stage);
  const { files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { files: string[] };
  for (const name of ["package.json", ...files]) {
    if (name === "prebuilds" || !existsSync(join(root, name))) continue;
    cpSync(join(root, name), join(stage, name), { recursive: true });
  }
  assert.ok(existsSync(join(stage, "dist", "lib", "cli", "main.js")), "the JavaScript is built");
  return stage;
}

async function pack(stage: string): Promise<string> {
  await succeeds(run("npm", ["pack", "--ignore-scripts"], stage));
  const [tarball, ...others] = readdirSync(stage).filter((name) => name.endsWith(".tgz"));
  assert.ok(tarball !== undefined && others.length === 0);
  return join(stage, tarball);
}

async function install(app: string, tarball: string, env: Record<string, string>): Promise<string> {
  mkdirSync(app);
  writeFileSync(join(app, "package.json"), '{ "name": "app", "version": "1.0.0", "private": true }\n');
  await succeeds(run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", tarball], app, env));
  return app;
}

async function doctor(app: string, env: Record<string, string>): Promise<Record<string, unknown>> {
  const { stdout } = await succeeds(run("npx", ["--no-install", "rlhi-native", "doctor", "--json"], app, env));
  return JSON.parse(stdout) as Record<string, unknown>;
}

/** The app imports the package by its name: the API is there, and its engine is the binary that was installed. */
async function importable(app: string, env: Record<string, string>): Promise<void> {
  const script = `
    const rlhi = await import("rlhi-native");
    const types = import.meta.resolve("rlhi-native").replace(/\\.js$/, ".d.ts");
    console.log(JSON.stringify({
      Engine: typeof rlhi.Engine.open, train: typeof rlhi.train, runPipeline: typeof rlhi.runPipeline, stages: rlhi.stageNames.length,
      engine: rlhi.loadAddon().systemInfo().addonVersion, types: (await import("node:fs")).existsSync(new URL(types)),
    }));`;
  const { stdout } = await succeeds(run("node", ["--input-type=module", "--eval", script], app, env));
  assert.deepEqual(JSON.parse(stdout), { Engine: "function", train: "function", runPipeline: "function", stages: 9, engine: packageVersion(), types: true });
}

/** A PATH that holds node, npm, npx and the shell npm runs scripts with, and nothing else. */
function pathWithoutCompiler(bin: string): string {
  mkdirSync(bin);
  const folder = dirname(process.execPath);
  for (const tool of ["node", "npm", "npx"]) symlinkSync(join(folder, tool), join(bin, tool));
  symlinkSync("/bin/sh", join(bin, "sh"));
  return bin;
}

function packageVersion(): string {
  return (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version;
}

function run(command: string, args: string[], cwd: string, env: Record<string, string> = {}): Promise<Result> {
  // The settings that an `npm test` around this one hands down are not the user's: the child is to see none of them.
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|NODE_TEST_CONTEXT$)/.test(name) || name.startsWith("npm_config_registry")));
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env: { ...own, ...env }, maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : 1, stdout, stderr });
    });
  });
}

async function succeeds(running: Promise<Result>): Promise<Result> {
  const result = await running;
  assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
  return result;
}

function temporaryFolder(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "rlhi-packaging-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
