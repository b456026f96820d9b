import { readFileSync } from "node:fs";

/** Every f32 tensor of a safetensors file, flat, by name. */
export function readSafetensors(path: string): Map<string, Float32Array> {
  const file = readFileSync(path);
  const size = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + size).toString("utf8")) as Record<string, { dtype: string; data_offsets: [number, number] }>;
  const tensors = new Map<string, Float32Array>();
  for (const [name, tensor] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (tensor.dtype !== "F32") throw new Error(`${name} is ${tensor.dtype}, not F32`);
    const [from, to] = tensor.data_offsets;
    // A copy begins at an aligned address.
    tensors.set(name, new Float32Array(new Uint8Array(file.subarray(8 + size + from, 8 + size + to)).buffer));
  }
  return tensors;
}
