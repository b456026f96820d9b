import { defineStageCommand } from "../stage-command.js";

export const personas = defineStageCommand({
  name: "personas",
  describe: "what is known of each user, from strictly earlier conversations only",
  epilogue: "Reads conversations.parquet and feedback.jsonl (see `mine`), writes personas.jsonl: one line for each conversation in which a later stage uses a persona. The model is models.persona, by default the policy itself.",
  load: async () => (await import("../../run/stages/personas.js")).personasStage,
  title: (dir) => `personas in ${dir}/personas.jsonl`,
});
