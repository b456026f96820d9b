import { stageCommand } from "../run-folder.js";

export const personas = stageCommand({
  stage: "personas",
  describe: "what is known of each user, from strictly earlier conversations only",
  details: "Reads conversations.parquet and feedback.jsonl (see `mine`), writes personas.jsonl: one line for each conversation in which a later stage uses a persona. The model is models.persona, by default the policy itself.",
  load: async () => (await import("../../run/stages/personas.js")).personasStage,
});
