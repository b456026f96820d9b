/** Judging: every comparison by every criterion in both orders; resumable verdict by verdict. */
import { isUndecided } from "../chat-models/labels.js";
import type { ChatModel, LabelChoice, LabelRequest } from "../chat-models/types.js";
import type { JsonlAppender } from "../files.js";
import type { Progress } from "../progress.js";
import { clip } from "../prompts/prompt.js";
import { criteria, criterionQuestions, userEvalPrompt } from "../prompts/user-eval.js";
import type { Criterion } from "../prompts/user-eval.js";
import { combineOrders } from "./statistics.js";
import type { Verdict } from "./statistics.js";
import type { Comparison, EvalRequest, JudgementRecord, Side } from "./types.js";

export interface JudgeTask {
  request: EvalRequest;
  answers: Record<Side, string>;
}

export interface JudgeSetting {
  judge: ChatModel;
  /** Fingerprints of the models compared. */
  base: string;
  trained: string;
}

/**
 * What the judge is shown at most, in characters, the middle going first: an answer, the request, a message before it, and
 * how many of those (the latest). All but the last is halved until the prompt fits the judge's context: a character may be more
 * than a token.
 */
const shownAtMost = { answer: 6000, request: 4000, earlierMessage: 1500, earlierMessages: 8 } as const;

export function judgementKey(r: Pick<JudgementRecord, "id" | "criterion" | "shown_first" | "prompt_hash" | "judge" | "base" | "trained">): string {
  return [r.id, r.criterion, r.shown_first, r.prompt_hash, r.judge, r.base, r.trained].join("\u0000");
}

/** Below this share of shownAtMost nothing could be judged. */
const leastShown = 1 / 32;
/** The letter, and the template's own tokens. */
const spareTokens = 16;

interface Pending {
  task: JudgeTask;
  criterion: Criterion;
  shown_first: Side;
  request: LabelRequest;
}

/** Judges what is not yet in `done`, appends each verdict as it comes, and returns the new ones. */
export async function judgeAnswers(
  tasks: readonly JudgeTask[],
  setting: JudgeSetting,
  done: ReadonlySet<string>,
  output: JsonlAppender,
  progress: Progress,
  signal: AbortSignal,
): Promise<JudgementRecord[]> {
  const judge = await setting.judge.fingerprint();
  const identity = { prompt_hash: userEvalPrompt.hash, judge, base: setting.base, trained: setting.trained };
  const all = tasks.flatMap((task) => comparisonsOf(task, setting.judge));
  const pending = all.filter(({ task, criterion, shown_first }) => !done.has(judgementKey({ id: task.request.id, criterion, shown_first, ...identity })));
  const verdicts: JudgementRecord[] = [];
  progress.start("judging", all.length, all.length - pending.length);
  await setting.judge.chooseLabel(pending.map(({ request }) => request), {
    signal,
    onResult(index, choice) {
      const { task, criterion, shown_first, request } = pending[index] as Pending;
      const probabilityA = choice.probabilities[0] ?? 0.5;
      const record: JudgementRecord = {
        id: task.request.id,
        user_id: task.request.user_id,
        kind: task.request.kind,
        criterion,
        shown_first,
        winner: winnerOf(choice, shown_first),
        probability_trained: shown_first === "trained" ? probabilityA : 1 - probabilityA,
        prompt: request.messages,
        ...identity,
      };
      output.append(record);
      verdicts.push(record);
      progress.advance();
    },
  });
  progress.stop();
  return verdicts;
}

/** Probabilities all alike are no verdict, whichever label stands first. */
function winnerOf({ label, probabilities }: LabelChoice, shown_first: Side): JudgementRecord["winner"] {
  if (isUndecided(probabilities)) return "tie";
  return (label === "A") === (shown_first === "trained") ? "trained" : "base";
}

/** Every question about one task, all of them on the same texts. */
function comparisonsOf(task: JudgeTask, judge: ChatModel): Pending[] {
  // Two equal answers need no judge: combineVerdicts counts them as ties.
  if (task.answers.base === task.answers.trained) return [];
  const fits = ({ request }: Pending): boolean => judge.countTokens(request.messages) + spareTokens <= judge.context_length;
  for (let share = 1; ; share /= 2) {
    const comparisons = renderComparisons(task, share);
    if (share <= leastShown || comparisons.every(fits)) return comparisons;
  }
}

function renderComparisons(task: JudgeTask, share: number): Pending[] {
  const cut = (text: string, most: number): string => clip(text, Math.round(most * share));
  const conversation = task.request.messages.slice(-1 - shownAtMost.earlierMessages).map(({ role, content }, i, all) => ({
    role,
    content: cut(content, i === all.length - 1 ? shownAtMost.request : shownAtMost.earlierMessage),
  }));
  const shown = { base: cut(task.answers.base, shownAtMost.answer), trained: cut(task.answers.trained, shownAtMost.answer) };
  return criteria.flatMap((criterion) =>
    (["trained", "base"] as const).map((shown_first): Pending => ({
      task,
      criterion,
      shown_first,
      request: {
        labels: ["A", "B"],
        messages: userEvalPrompt.render({
          persona: task.request.persona,
          conversation,
          answer_a: shown[shown_first],
          answer_b: shown[shown_first === "trained" ? "base" : "trained"],
          question: criterionQuestions[criterion],
        }),
      },
    })),
  );
}

/** One comparison a request and criterion: the winner of both orders, or a tie. Requests with verdicts missing are left out. */
export function combineVerdicts(tasks: readonly JudgeTask[], verdicts: readonly JudgementRecord[]): Comparison[] {
  const given = new Map(verdicts.map((v) => [`${v.id}\u0000${v.criterion}\u0000${v.shown_first}`, v]));
  return tasks.flatMap(({ request, answers }) =>
    criteria.flatMap((criterion): Comparison[] => {
      const base = { id: request.id, user_id: request.user_id, kind: request.kind, criterion };
      if (answers.base === answers.trained) return [{ ...base, verdict: "tie", undecided: false, probability: 0.5 }];
      const one = given.get(`${request.id}\u0000${criterion}\u0000trained`);
      const other = given.get(`${request.id}\u0000${criterion}\u0000base`);
      if (one === undefined || other === undefined) return [];
      const undecided = one.winner === "tie" || other.winner === "tie";
      return [{ ...base, verdict: combineOrders(asVerdict(one.winner), asVerdict(other.winner)), undecided, probability: (one.probability_trained + other.probability_trained) / 2 }];
    }),
  );
}

function asVerdict(winner: JudgementRecord["winner"]): Verdict {
  return winner === "tie" ? "tie" : winner === "trained" ? "first" : "second";
}
