import { pairFilters } from "../../pairs/types.js";
import { stageCommand } from "../run-folder.js";

export const pairs = stageCommand({
  stage: "pairs",
  describe: "preference pairs from the candidates, filtered, every drop counted",
  details: `Reads candidates.jsonl (see \`rewrite\` and \`reward\`), writes pairs.jsonl (TRL's conversational form), filtered.jsonl (which filter dropped what, and why) and pairs.arrow (token ids). Filters, in order: ${pairFilters.join(", ")}; pairs.filters in run.yaml names those to run.`,
  load: async () => (await import("../../run/stages/pairs.js")).pairsStage,
});
