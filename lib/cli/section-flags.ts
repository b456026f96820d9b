/** A section of run.yaml from flags alone, checked against the same schema. */
import { sectionSettings } from "../config-file.js";
import type { Section } from "../config-file.js";
import type { RunConfig } from "../config.js";
import type { SettingFlags } from "./modes.js";

/** The values of those of `flags` that `settings` gives a key of `section`. Throws UsageError with every mistake, by the flag's name. */
export function sectionOfFlags<S extends Section>(section: S, settings: SettingFlags, flags: Readonly<Record<string, unknown>>): RunConfig[S] {
  const ofSection = Object.entries(settings).filter(([, key]) => key.startsWith(`${section}.`));
  const values = Object.fromEntries(ofSection.map(([flag, key]) => [key.slice(section.length + 1), flags[flag]]));
  return sectionSettings(section, values, (key) => `--${ofSection.find(([, name]) => name === key)?.[0] ?? key}`);
}
