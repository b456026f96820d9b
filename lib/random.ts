/** Seeded random numbers for everything outside the engine: the same seed gives the same choices on every machine. */
import { createHash } from "node:crypto";

/** A generator of uniform numbers in [0, 1), by splitmix32 (Steele et al., "Fast splittable pseudorandom number generators", 2014). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 0x1_0000_0000;
  };
}

/** The first 48 bits of SHA-256 as a number in [0, 1): a stable way to split users or to order them without a state. */
export function hashUnit(...parts: (string | number)[]): number {
  return createHash("sha256").update(parts.join("\u0000")).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** A 32-bit seed from text and numbers. */
export function hashSeed(...parts: (string | number)[]): number {
  return createHash("sha256").update(parts.join("\u0000")).digest().readUInt32BE(0);
}

/** Fisher-Yates; returns a new array. */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1));
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}
