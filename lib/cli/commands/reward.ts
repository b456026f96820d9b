import { stageCommand } from "../run-folder.js";

export const reward = stageCommand({
  stage: "reward",
  describe: "answers sampled and scored for each user (user-based rewards)",
  details: "For first messages and follow-ups without feedback: rewards.n answers of the policy, each with the expected score (1 to 9) of models.judge, with and without the user's persona. Appends to candidates.jsonl; `pairs` takes the best and the worst.",
  load: async () => (await import("../../run/stages/reward.js")).rewardStage,
});
