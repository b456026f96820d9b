import { setImmediate as nextTurn } from "node:timers/promises";
import type { ChatRequest, Completion, ScoreRequest } from "../../chat-models/types.js";
import { JsonlAppender, readJsonl } from "../../files.js";
import { answerRequest, candidatesDone, trainingPersonas } from "../../pairs/generation.js";
import { judgeRequest } from "../../pairs/judge.js";
import { readFeedbackLabels, selectRequests, withTexts } from "../../pairs/requests.js";
import type { PairRequest } from "../../pairs/requests.js";
import type { CandidateRecord } from "../../pairs/types.js";
import { rewardPrompt, rewardWithoutPersonaPrompt } from "../../prompts/reward.js";
import { readAhead } from "../../read-ahead.js";
import type { Stage, StageContext } from "../stage.js";

/** Requests sampled, then judged, at once. */
const windowSize = 64;

type Answer = CandidateRecord["answers"][number];

interface Task {
  request: PairRequest;
  persona: string;
}

interface Sampled extends Task {
  answers: Answer[];
}

/** For each request without feedback: n answers of the policy with the judge's expected score of each, into candidates.jsonl. */
export const rewardStage: Stage = async (context) => {
  const { folder, config, progress, signal } = context;
  const appender = new JsonlAppender(folder.candidates);
  let too_long = 0;
  let leftOut = 0;
  try {
    if (config.rewards.enabled) {
      const { refs, beside_held_out } = await selectRequests("reward", folder, config, await readFeedbackLabels(folder.feedback));
      leftOut = beside_held_out;
      const done = await candidatesDone(folder);
      const left = refs.filter(({ id }) => !done.has(id));
      const personas = await trainingPersonas(folder, config);
      progress.start("sampling and scoring answers", refs.length, refs.length - left.length);
      const windows = withTexts(left, folder.conversations, windowSize);
      // While a window is scored, the answers of the next are sampled, and the requests of the one after are made.
      for await (const { answered, unanswerable } of readAhead(sampled(context, readAhead(answerRequests(context, windows, personas))))) {
        signal.throwIfAborted();
        too_long += unanswerable;
        progress.advance(unanswerable);
        await scoreAll(context, answered, appender);
      }
    }
  } finally {
    appender.close();
    progress.stop();
  }
  // Of these no candidate is written: run again, the stage counts them anew.
  return { ...await factsOf(context, leftOut), too_long };
};

/** One score to ask for: of which task's which answer, into which field. */
interface Wanted {
  task: number;
  answer: number;
  field: "reward" | "reward_no_persona";
  request: ScoreRequest;
}

async function scoreAll(context: StageContext, tasks: readonly Sampled[], appender: JsonlAppender): Promise<void> {
  const { signal, progress } = context;
  const policy = await context.model("policy");
  const judge = await context.model("judge");
  const models = { policy: await policy.fingerprint(), judge: await judge.fingerprint() };
  const wanted = await scoresWanted(context, tasks);
  const missing = tasks.map((_, index) => wanted.filter(({ task }) => task === index).length);
  const finish = (index: number): void => {
    const { request, persona, answers } = tasks[index] as Sampled;
    const { logged: _, ...provenance } = request;
    appender.append({
      ...provenance,
      persona,
      answers,
      models,
      prompt_hashes: { [rewardPrompt.id]: rewardPrompt.hash, [rewardWithoutPersonaPrompt.id]: rewardWithoutPersonaPrompt.hash },
    } satisfies CandidateRecord);
    progress.advance();
  };
  await judge.score(wanted.map(({ request }) => request), {
    signal,
    onResult(position, { expected }) {
      const { task, answer, field } = wanted[position] as Wanted;
      ((tasks[task] as Sampled).answers[answer] as Answer)[field] = expected;
      missing[task] = (missing[task] as number) - 1;
      if (missing[task] === 0) finish(task);
    },
  });
}

/** What the policy is asked in a window, and how many of its requests are too long to be answered. */
interface Window {
  asked: { task: Task; chat: ChatRequest }[];
  unanswerable: number;
}

async function* answerRequests(context: StageContext, windows: AsyncIterable<PairRequest[]>, personas: ReadonlyMap<string, string>): AsyncGenerator<Window> {
  const { config } = context;
  for await (const requests of windows) {
    const policy = await context.model("policy");
    // The window before this one goes to the engine first.
    await nextTurn();
    const asked = requests.flatMap((request) => {
      const persona = personas.get(request.conversation_id) ?? "";
      const chat = answerRequest(policy, { id: request.id, prompt: request.prompt, persona, n: config.rewards.n }, config.rewards, config);
      return chat === undefined ? [] : [{ task: { request, persona }, chat }];
    });
    yield { asked, unanswerable: requests.length - asked.length };
  }
}

/** Each window's tasks with the policy's answers. */
async function* sampled(context: StageContext, windows: AsyncIterable<Window>): AsyncGenerator<{ answered: Sampled[]; unanswerable: number }> {
  const { signal } = context;
  for await (const { asked, unanswerable } of windows) {
    const policy = await context.model("policy");
    const samples = await policy.chat(asked.map(({ chat }) => chat), { signal });
    yield { answered: asked.map(({ task }, index) => ({ ...task, answers: (samples[index] ?? []).map(answerOf) })), unanswerable };
  }
}

function answerOf({ text, finish_reason }: Completion): Answer {
  return { text: text.trim(), origin: "policy", finish_reason: finish_reason === "stop" ? "stop" : "length", reward: null, reward_no_persona: null };
}

async function scoresWanted(context: StageContext, tasks: readonly Sampled[]): Promise<Wanted[]> {
  const { user_agnostic, score_without_persona } = context.config.rewards;
  const judge = await context.model("judge");
  const wanted: Wanted[] = [];
  tasks.forEach(({ request, persona, answers }, task) => {
    answers.forEach(({ text }, answer) => {
      const add = (field: Wanted["field"], shown: string | null): void => {
        wanted.push({ task, answer, field, request: judgeRequest(judge, { persona: shown, conversation: request.prompt, follow_up: null, answer: text }) });
      };
      if (!user_agnostic || score_without_persona) add("reward", persona);
      if (user_agnostic || score_without_persona) add("reward_no_persona", null);
    });
  });
  return wanted;
}

async function factsOf({ folder, config }: StageContext, beside_held_out: number): Promise<Record<string, unknown>> {
  const users = new Set<string>();
  let requests = 0;
  let answers = 0;
  let unfinished = 0;
  let unscored = 0;
  let spread = 0;
  for await (const record of readJsonl<CandidateRecord>(folder.candidates)) {
    if (record.method !== "reward") continue;
    requests += 1;
    users.add(record.user_id);
    answers += record.answers.length;
    unfinished += record.answers.filter(({ finish_reason }) => finish_reason === "length").length;
    const rewards = record.answers.flatMap((answer) => (config.rewards.user_agnostic ? answer.reward_no_persona : answer.reward) ?? []);
    unscored += record.answers.length - rewards.length;
    if (rewards.length > 0) spread += Math.max(...rewards) - Math.min(...rewards);
  }
  return {
    enabled: config.rewards.enabled, requests, users: users.size, answers, unfinished, unscored, beside_held_out, user_agnostic: config.rewards.user_agnostic,
    mean_spread: requests === 0 ? null : Math.round((spread / requests) * 1000) / 1000,
    prompts: { [rewardPrompt.id]: rewardPrompt.hash, [rewardWithoutPersonaPrompt.id]: rewardWithoutPersonaPrompt.hash },
  };
}
