import { defineStageCommand } from "../stage-command.js";

export const rewrite = defineStageCommand({
  name: "rewrite",
  describe: "answers rewritten as users' follow-ups asked (user-guided rewrites)",
  epilogue: "For every follow-up with a label in feedback.use: the policy answers the request (rewrites.rejected: logged takes the logged answer), and models.rewriter rewrites that answer by the follow-up. Appends to candidates.jsonl; `pairs` judges and filters them.",
  load: async () => (await import("../../run/stages/rewrite.js")).rewriteStage,
  title: (dir) => `rewrites in ${dir}/candidates.jsonl`,
});
