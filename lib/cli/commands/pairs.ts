import { pairFilters } from "../../pairs/types.js";
import { defineStageCommand } from "../stage-command.js";

export const pairs = defineStageCommand({
  name: "pairs",
  describe: "preference pairs from the candidates, filtered, every drop counted",
  epilogue: `Reads candidates.jsonl (see \`rewrite\` and \`reward\`), writes pairs.jsonl (TRL's conversational form), filtered.jsonl (which filter dropped what, and why) and pairs.arrow (token ids). Filters, in order: ${pairFilters.join(", ")}; pairs.filters in run.yaml names those to run.`,
  load: async () => (await import("../../run/stages/pairs.js")).pairsStage,
  title: (dir) => `pairs in ${dir}/pairs.jsonl`,
});
