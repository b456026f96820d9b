/** The library behind `--device cuda` in tests: over emulated kernels, which the build of the native tests leaves, or the one that is named. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../lib/engine/addon.js";

/** RLHI_CUDA_LIBRARY: the real one, on a machine with a GPU. */
export const namedLibrary = process.env.RLHI_CUDA_LIBRARY;
export const gpuLibrary = namedLibrary ?? join(packageRoot, "build", "librlhi_cuda_emulated.so");
export const skipWithoutGpu = existsSync(gpuLibrary) ? false : `${gpuLibrary} is not built (RLHI_BUILD_TESTS)`;
