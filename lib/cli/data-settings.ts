/** The `data` section of run.yaml from flags alone, checked against the same schema. */
import { z } from "zod";
import { runConfigSchema } from "../config.js";
import type { RunConfig } from "../config.js";
import { UsageError } from "../errors.js";

/** Undefined values take their defaults. Throws UsageError with every mistake. */
export function dataSettings(values: Record<string, unknown>): RunConfig["data"] {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  const checked = runConfigSchema.shape.data.safeParse(given);
  if (checked.success) return checked.data;
  throw new UsageError({ what: z.prettifyError(checked.error), todo: "correct the flags; run.yaml's data section takes the same values" });
}
