import { stageCommand } from "../run-folder.js";

export const rewrite = stageCommand({
  stage: "rewrite",
  describe: "answers rewritten as users' follow-ups asked (user-guided rewrites)",
  details: "For every follow-up with a label in feedback.use: the policy answers the request (rewrites.rejected: logged takes the logged answer), and models.rewriter rewrites that answer by the follow-up. Appends to candidates.jsonl; `pairs` judges and filters them.",
  load: async () => (await import("../../run/stages/rewrite.js")).rewriteStage,
});
