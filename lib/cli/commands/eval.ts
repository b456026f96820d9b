import type { UserEvalFacts } from "../../eval/user-eval.js";
import type { Criterion } from "../../prompts/user-eval.js";
import type { RunContext } from "../../run/context.js";
import type { StageFacts } from "../../run/stage.js";
import type { Tools } from "../command.js";
import { shortPath, stageCommand } from "../run-folder.js";

export const evaluate = stageCommand({
  stage: "eval",
  describe: "the trained model against its base, on real requests of users it never saw",
  details: [
    "Held-out users' first messages and follow-ups go to both models, with the persona. The judge (models.judge in run.yaml)",
    "names the better answer on personalization, instruction following and overall, in both orders: two different verdicts",
    "are a tie. Win rates come with bootstrap intervals over users. Settings: eval.max_prompts, eval.max_new_tokens,",
    "eval.bootstrap. Answers are in answers.jsonl, every verdict with its prompt in judgements.jsonl.",
  ].join(" "),
  examples: [["$0 eval run.yaml", "in runs/run, after training"], ["$0 eval runs/run --json", "the same by its folder, facts as JSON"]],
  load: async () => (await import("../../eval/user-eval.js")).evalStage,
  print: printRates,
});

const kinds = { all: "all turns", first: "first turns", follow_up: "follow-ups" } as const;
const percent = (x: number | null): string => (x === null ? "-" : `${(100 * x).toFixed(1)} %`);

function printRates({ folder }: RunContext, stageFacts: StageFacts, skipped: boolean, { out }: Tools): void {
  const facts = stageFacts as unknown as UserEvalFacts;
  out.facts({ requests: facts.requests, users: facts.users, "order disagreement": percent(facts.order_disagreement) }, `trained model against its base${skipped ? " (judged before)" : ""}`);
  const rows = Object.entries(facts.win_rates).flatMap(([criterion, rates]) => Object.entries(kinds).map(([kind, name]) => {
    const { rate, interval, wins, ties, losses } = rates[kind as keyof typeof kinds];
    return {
      criterion: criterion.replace(/_/g, " "), turns: name, won: wins, tied: ties, lost: losses, "win rate": percent(rate),
      "95 % interval": interval === null ? "-" : `${percent(interval.low)} to ${percent(interval.high)}`,
      "mean preference": percent(facts.preferences[criterion as Criterion][kind as keyof typeof kinds].mean),
    };
  }));
  out.table(rows);
  out.text(`every verdict with its prompt: ${shortPath(folder.judgements)}`);
}
