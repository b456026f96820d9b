#!/usr/bin/env node
// What prebuildify calls in place of node-gyp: the same command line, built by cmake-js. It is run in a folder of its
// own, and the binary goes to build/Release in that folder, where prebuildify looks for it.
//   rebuild --target=VERSION --devdir=DIR --arch=ARCH --release|--debug
// The Node version and its headers do not matter to an addon built on Node-API; node-api-headers has all it needs.
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [command, ...flags] = process.argv.slice(2);
if (command !== "rebuild") {
  console.error(`cmake-js-as-node-gyp: expected the command "rebuild", found "${command ?? ""}"`);
  process.exit(2);
}
const arch = flags.find((flag) => flag.startsWith("--arch="))?.slice("--arch=".length) ?? process.arch;
const require = createRequire(import.meta.url);
const cmakeJs = join(dirname(require.resolve("cmake-js/package.json")), "bin", "cmake-js");
const args = [
  cmakeJs, "rebuild", "--directory", root, "--out", join(process.cwd(), "build"), "--arch", arch,
  "--parallel", String(availableParallelism()), ...(flags.includes("--debug") ? ["--debug"] : []),
];
// The addon carries its own C++ library, hidden from others': a prebuild then needs nothing of the machine but its libc.
const portable = process.platform === "linux" ? "-static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL" : "";
const env = { ...process.env, LDFLAGS: [process.env.LDFLAGS, portable].filter(Boolean).join(" ") };
process.exit(spawnSync(process.execPath, args, { stdio: "inherit", env }).status ?? 1);
