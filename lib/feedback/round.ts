/** Four decimals: what a probability or a share is told with in files and reports. */
export function rounded(value: number): number {
  return Math.round(value * 10_000) / 10_000;
}
