// npm run prebuild [-- --out DIR]: makes DIR/prebuilds/PLATFORM-ARCH/ (DIR: this folder), which npm pack puts into the
// tarball and node-gyp-build loads.
// Built in .cache/prebuild, so that build/ (with its test program) stays as it is: prebuildify moves the binary away.
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const staging = join(root, ".cache", "prebuild");
const out = resolve(parseArgs({ options: { out: { type: "string", default: root } } }).values.out);
const folder = join(out, "prebuilds", `${process.platform}-${process.arch}`);
const require = createRequire(import.meta.url);
const prebuildify = require("prebuildify");

mkdirSync(staging, { recursive: true });
rmSync(folder, { recursive: true, force: true }); // a file of an older name would be loaded in place of the new one
prebuildify({
  name: "rlhi-native", cwd: staging, out, napi: true, strip: true, tagLibc: true,
  nodeGyp: join(root, "scripts", "cmake-js-as-node-gyp.mjs"),
}, (error) => {
  if (error) fail(error.message ?? String(error));
  // A fresh process: it loads the file as an installed package would.
  const check = "const addon = require('node-gyp-build')(process.argv[1]); console.log(addon.systemInfo().addonVersion)";
  const loaded = spawnSync(process.execPath, ["-e", check, out], { cwd: root, encoding: "utf8", env: { ...process.env, PREBUILDS_ONLY: "1" } });
  if (loaded.status !== 0) fail(`the prebuild does not load:\n${loaded.stderr}`);
  for (const file of readdirSync(folder)) {
    console.log(`prebuilds/${process.platform}-${process.arch}/${file}  ${(statSync(join(folder, file)).size / 2 ** 20).toFixed(1)} MiB  version ${loaded.stdout.trim()}`);
  }
});

function fail(message) {
  console.error(`prebuild: ${message}`);
  process.exit(1);
}
