/** UserEval: held-out users' real requests, the trained model against its base, persona given to both. */
import { join } from "node:path";
import { isHeldOut, readConversations } from "../conversations/index.js";
import type { FeedbackRecord } from "../feedback/types.js";
import { JsonlAppender, readAllJsonl, readJsonl } from "../files.js";
import type { PersonaRecord } from "../personas/types.js";
import { renderPersona, withPersona } from "../personas/render.js";
import { criteria, userEvalPrompt } from "../prompts/user-eval.js";
import type { Criterion } from "../prompts/user-eval.js";
import { hashSeed } from "../random.js";
import type { StageContext, StageFacts } from "../run/stage.js";
import { RlhiError } from "../errors.js";
import { combineVerdicts, judgeAnswers, judgementKey } from "./judge.js";
import type { JudgeTask } from "./judge.js";
import { requestsOf, selectRequests } from "./requests.js";
import { meanOf, outcomeOf, winRate } from "./statistics.js";
import type { Mean, WinRate } from "./statistics.js";
import type { AnswerRecord, Comparison, EvalRequest, JudgementRecord, Side } from "./types.js";

export interface UserEvalFacts extends StageFacts {
  requests: number;
  users: number;
  base: string;
  trained: string;
  judge: string;
  /** By criterion, then by all, first and follow-up turns. */
  win_rates: Record<Criterion, Record<"all" | EvalRequest["kind"], WinRate>>;
  /**
   * The mean probability the judge gave the trained model's answer, both orders averaged, so that a leaning to one place
   * cancels out: tells more than verdicts where that leaning makes most of them ties.
   */
  preferences: Record<Criterion, Record<"all" | EvalRequest["kind"], Mean>>;
  /** Share of comparisons, of those decided in both orders, in which the judge named whichever answer stood first (or second) both times. */
  order_disagreement: number | null;
  /** Comparisons in which the judge leaned to neither answer in at least one order; they count as ties. */
  undecided: number;
}

export const answersFile = (dir: string): string => join(dir, "answers.jsonl");

export async function evalStage(context: StageContext): Promise<UserEvalFacts> {
  const requests = await heldOutRequests(context);
  if (requests.length === 0) {
    throw new RlhiError("ERR_NO_HELD_OUT", {
      what: "no held-out user has a request to evaluate on",
      where: context.folder.conversations,
      expected: "at least one user whose hash falls into data.held_out",
      found: `data.held_out = ${context.config.data.held_out}`,
      todo: "mine more users, or raise data.held_out (it decides which users are never trained on: start a new run folder)",
    });
  }
  await tellMissingPersonas(context, requests);
  const answers = new JsonlAppender(answersFile(context.folder.dir));
  let base: SideAnswers;
  let trained: SideAnswers;
  try {
    base = await answerAll(context, "base", requests, answers);
    trained = await answerAll(context, "trained", requests, answers);
  } finally {
    answers.close();
  }
  const tasks = requests.map((request): JudgeTask => ({ request, answers: { base: base.texts.get(request.id) ?? "", trained: trained.texts.get(request.id) ?? "" } }));
  return judgeStage(context, tasks, base.fingerprint, trained.fingerprint);
}

type RunFiles = Pick<StageContext, "folder" | "config">;

async function heldOutRequests({ folder, config }: RunFiles): Promise<EvalRequest[]> {
  const labels = new Map<string, Map<number, FeedbackRecord["label"]>>();
  for await (const { conversation_id, turn, label } of readJsonl<FeedbackRecord>(folder.feedback)) {
    const turns = labels.get(conversation_id) ?? new Map<number, FeedbackRecord["label"]>();
    labels.set(conversation_id, turns.set(turn, label));
  }
  const personas = new Map<string, string>();
  if (config.personas.enabled) {
    for await (const record of readJsonl<PersonaRecord>(folder.personas)) {
      personas.set(record.conversation_id, renderPersona(record.persona, config.personas.max_words));
    }
  }
  const requests: EvalRequest[] = [];
  for await (const conversation of readConversations(folder.conversations)) {
    if (!isHeldOut(conversation.user_id, config.data.held_out)) continue;
    const id = conversation.conversation_id;
    requests.push(...requestsOf(conversation, labels.get(id) ?? new Map(), personas.get(id) ?? ""));
  }
  return selectRequests(requests, config.eval.max_prompts, config.seed);
}

/** Personas are made for the requests that eval.max_prompts chose at that time; with more of them now, some have none. */
async function tellMissingPersonas({ folder, config, progress }: StageContext, requests: readonly EvalRequest[]): Promise<void> {
  if (!config.personas.enabled) return;
  const known = new Set<string>();
  for await (const { conversation_id } of readJsonl<PersonaRecord>(folder.personas)) known.add(conversation_id);
  const missing = requests.filter(({ conversation_id }) => !known.has(conversation_id)).length;
  if (missing > 0) progress.note(`${missing} of ${requests.length} requests are judged without a persona: the stage \`personas\` ran with another eval.max_prompts (--force personas makes them, and what follows, anew)`);
}

interface SideAnswers {
  fingerprint: string;
  texts: Map<string, string>;
}

/** Answers of one model to all requests; those already in the file (by the same weights) are taken from it. */
async function answerAll(context: StageContext, side: Side, requests: readonly EvalRequest[], output: JsonlAppender): Promise<SideAnswers> {
  const { config, progress, signal, folder } = context;
  const model = await context.model(side);
  const fingerprint = await model.fingerprint();
  const texts = new Map<string, string>();
  for await (const record of readJsonl<AnswerRecord>(answersFile(folder.dir))) {
    if (record.side === side && record.model === fingerprint) texts.set(record.id, record.text);
  }
  const pending = requests.filter(({ id }) => !texts.has(id));
  const { temperature, top_p, top_k, min_p, max_new_tokens } = config.eval;
  progress.start(`answers of the ${side} model`, requests.length, requests.length - pending.length);
  await model.chat(
    pending.map((request) => ({
      messages: withPersona(request.messages, request.persona),
      n: 1,
      // The same seed for both models: differences come from the weights.
      sampling: { temperature, top_p, top_k, min_p, max_new_tokens, seed: hashSeed(config.seed, "eval", request.id) },
    })),
    {
      signal,
      onResult(index, completions) {
        const request = pending[index] as EvalRequest;
        const text = completions[0]?.text ?? "";
        output.append({ id: request.id, side, model: fingerprint, text } satisfies AnswerRecord);
        texts.set(request.id, text);
        progress.advance();
      },
    },
  );
  progress.stop();
  await context.closeModels();
  return { fingerprint, texts };
}

async function judgeStage(context: StageContext, tasks: readonly JudgeTask[], base: string, trained: string): Promise<UserEvalFacts> {
  const { folder, config, progress, signal } = context;
  const judge = await context.model("judge");
  const judgeFingerprint = await judge.fingerprint();
  const earlier = await readAllJsonl<JudgementRecord>(folder.judgements);
  const same = earlier.filter((v) => v.judge === judgeFingerprint && v.base === base && v.trained === trained && v.prompt_hash === userEvalPrompt.hash);
  const output = new JsonlAppender(folder.judgements);
  let made: JudgementRecord[];
  try {
    made = await judgeAnswers(tasks, { judge, base, trained }, new Set(same.map(judgementKey)), output, progress, signal);
  } finally {
    output.close();
  }
  const verdicts = [...same, ...made];
  const comparisons = combineVerdicts(tasks, verdicts);
  return {
    requests: tasks.length,
    users: new Set(tasks.map(({ request }) => request.user_id)).size,
    base,
    trained,
    judge: judgeFingerprint,
    win_rates: winRates(comparisons, config.eval.bootstrap, config.seed),
    preferences: preferences(comparisons, config.eval.bootstrap, config.seed),
    order_disagreement: orderDisagreement(tasks, comparisons),
    undecided: comparisons.filter(({ undecided }) => undecided).length,
  };
}

/** The comparisons a finished evaluation was made of: its tasks with both answers, and their verdicts. */
export async function readEvaluation(context: RunFiles, facts: UserEvalFacts): Promise<{ tasks: JudgeTask[]; verdicts: JudgementRecord[] }> {
  const { folder } = context;
  const texts = { base: new Map<string, string>(), trained: new Map<string, string>() };
  for await (const { id, side, model, text } of readJsonl<AnswerRecord>(answersFile(folder.dir))) if (model === facts[side]) texts[side].set(id, text);
  const tasks = (await heldOutRequests(context)).flatMap((request): JudgeTask[] => {
    const base = texts.base.get(request.id);
    const trained = texts.trained.get(request.id);
    return base === undefined || trained === undefined ? [] : [{ request, answers: { base, trained } }];
  });
  const verdicts = await readAllJsonl<JudgementRecord>(folder.judgements);
  return { tasks, verdicts: verdicts.filter((v) => v.judge === facts.judge && v.base === facts.base && v.trained === facts.trained && v.prompt_hash === userEvalPrompt.hash) };
}

/** Win rates of the trained model, with intervals over users. */
export function winRates(comparisons: readonly Comparison[], resamples: number, seed: number): UserEvalFacts["win_rates"] {
  return byCriterion(comparisons, (some) => winRate(some.map((c) => ({ cluster: c.user_id, value: outcomeOf[c.verdict] })), { resamples, seed }));
}

export function preferences(comparisons: readonly Comparison[], resamples: number, seed: number): UserEvalFacts["preferences"] {
  return byCriterion(comparisons, (some) => meanOf(some.map((c) => ({ cluster: c.user_id, value: c.probability })), { resamples, seed }));
}

function byCriterion<Figure>(comparisons: readonly Comparison[], figure: (some: readonly Comparison[]) => Figure): Record<Criterion, Record<"all" | EvalRequest["kind"], Figure>> {
  const of = (criterion: Criterion, kind: EvalRequest["kind"] | "all"): Figure => figure(comparisons.filter((c) => c.criterion === criterion && (kind === "all" || c.kind === kind)));
  return Object.fromEntries(criteria.map((c) => [c, { all: of(c, "all"), first: of(c, "first"), follow_up: of(c, "follow_up") }])) as Record<Criterion, Record<"all" | EvalRequest["kind"], Figure>>;
}

function orderDisagreement(tasks: readonly JudgeTask[], comparisons: readonly Comparison[]): number | null {
  const equal = new Set(tasks.filter(({ answers }) => answers.base === answers.trained).map(({ request }) => request.id));
  const judged = comparisons.filter(({ id, undecided }) => !undecided && !equal.has(id));
  return judged.length === 0 ? null : judged.filter(({ verdict }) => verdict === "tie").length / judged.length;
}
