import { fitMessages, promptBudget } from "../../chat-models/fit.js";
import type { ChatModel, ChatRequest, Completion } from "../../chat-models/types.js";
import { JsonlAppender, readJsonl } from "../../files.js";
import type { Message } from "../../conversations/types.js";
import { answerRequest, candidatesDone, trainingPersonas } from "../../pairs/generation.js";
import { withoutPreamble } from "../../pairs/preamble.js";
import { readFeedbackLabels, rewriteMethod, selectRequests, withTexts } from "../../pairs/requests.js";
import type { PairRequest } from "../../pairs/requests.js";
import type { CandidateRecord } from "../../pairs/types.js";
import { withPersona } from "../../personas/render.js";
import { rewriteFromScratchPrompt, rewritePrompt } from "../../prompts/rewrite.js";
import { hashSeed } from "../../random.js";
import type { Stage, StageContext } from "../stage.js";

/** Requests answered, then rewritten, at once. */
const windowSize = 256;

interface Rejected {
  text: string;
  origin: "policy" | "logged";
  finish_reason: "stop" | "length";
}

/** Requests that no candidate was made for; run again, the stage counts them anew (the cache knows their answers). */
interface Skipped {
  /** The rewriter's endpoint would not answer. */
  refused: number;
  /** Persona and request, for the rewriter also the answer and the follow-up, do not fit into the context. */
  too_long: number;
}

/** For each follow-up that says how an answer should have been: the answer as it is, and its rewrite, into candidates.jsonl. */
export const rewriteStage: Stage = async (context) => {
  const { folder, config, progress, signal } = context;
  const appender = new JsonlAppender(folder.candidates);
  const skipped: Skipped = { refused: 0, too_long: 0 };
  let leftOut = 0;
  try {
    if (config.rewrites.enabled) {
      const { refs, beside_held_out } = await selectRequests("rewrite", folder, config, await readFeedbackLabels(folder.feedback));
      leftOut = beside_held_out;
      const done = await candidatesDone(folder);
      const left = refs.filter(({ id }) => !done.has(id));
      const personas = await trainingPersonas(folder, config);
      progress.start("rewriting answers", refs.length, refs.length - left.length);
      for await (const requests of withTexts(left, folder.conversations, windowSize)) {
        signal.throwIfAborted();
        await rewriteAll(context, requests.map((request) => ({ request, persona: personas.get(request.conversation_id) ?? "" })), appender, skipped);
      }
    }
  } finally {
    appender.close();
    progress.stop();
  }
  return { ...await factsOf(context, leftOut), ...skipped };
};

interface Task {
  request: PairRequest;
  persona: string;
}

async function rewriteAll(context: StageContext, tasks: readonly Task[], appender: JsonlAppender, skipped: Skipped): Promise<void> {
  const { config, signal, progress } = context;
  const answered = await withRejected(context, tasks);
  const rewriter = await context.model("rewriter");
  const asked = answered.flatMap(({ task, rejected }) => {
    const chat = rewriterRequest(context, rewriter, task, rejected);
    return chat === undefined ? [] : [{ ...task, rejected, chat }];
  });
  skipped.too_long += tasks.length - asked.length;
  progress.advance(tasks.length - asked.length);
  const policy = config.rewrites.rejected === "policy" ? await (await context.model("policy")).fingerprint() : "logged";
  const models = { policy, rewriter: await rewriter.fingerprint() };
  const prompt = config.rewrites.from_scratch ? rewriteFromScratchPrompt : rewritePrompt;
  await rewriter.chat(asked.map(({ chat }) => chat), {
    signal,
    onResult(index, completions) {
      const { request, persona, rejected } = asked[index] as (typeof asked)[number];
      const { logged: _, ...provenance } = request;
      const rewrite = completions[0] as Completion;
      progress.advance();
      if (rewrite.finish_reason === "refused") {
        skipped.refused += 1;
        return;
      }
      const unscored = { reward: null, reward_no_persona: null };
      appender.append({
        ...provenance,
        persona,
        answers: [
          { ...rejected, ...unscored },
          { text: withoutPreamble(rewrite.text), origin: "rewrite", finish_reason: rewrite.finish_reason, ...unscored },
        ],
        models,
        prompt_hashes: { [prompt.id]: prompt.hash },
      } satisfies CandidateRecord);
    },
  });
}

/** Each task with the policy's own answer to persona and context (default), or the logged one; without those too long to be answered. */
async function withRejected(context: StageContext, tasks: readonly Task[]): Promise<{ task: Task; rejected: Rejected }[]> {
  const { config, signal } = context;
  if (config.rewrites.rejected === "logged") return tasks.map((task) => ({ task, rejected: { text: task.request.logged, origin: "logged", finish_reason: "stop" } }));
  const policy = await context.model("policy");
  const asked = tasks.flatMap((task) => {
    const { request, persona } = task;
    const chat = answerRequest(policy, { id: request.id, prompt: request.prompt, persona, n: 1 }, config.rewrites, config);
    return chat === undefined ? [] : [{ task, chat }];
  });
  const answers = await policy.chat(asked.map(({ chat }) => chat), { signal });
  return asked.map(({ task }, index) => {
    const [answer] = answers[index] ?? [];
    return { task, rejected: { text: (answer?.text ?? "").trim(), origin: "policy", finish_reason: answer?.finish_reason === "stop" ? "stop" : "length" } };
  });
}

/**
 * The conversation, the rejected answer, and what to do: with the user's follow-up, or (comparison) without it. undefined where what
 * must stay is too long: it would be rewritten without having been read.
 */
function rewriterRequest({ config }: StageContext, rewriter: ChatModel, { request, persona }: Task, rejected: Rejected): ChatRequest | undefined {
  const { temperature, top_p, top_k, min_p, max_new_tokens, from_scratch } = config.rewrites;
  const [system, last] = from_scratch ? rewriteFromScratchPrompt.render({}) : [...rewritePrompt.render({}), { role: "user" as const, content: request.follow_up }];
  const chat: Message[] = [...request.prompt, { role: "assistant", content: rejected.text }, last as Message];
  // The instructions stand after the persona and ahead of a system message of the log.
  const { messages, fits } = fitMessages(withPersona(withPersona(chat, (system as Message).content), persona), {
    budget: promptBudget(rewriter.context_length, max_new_tokens),
    count: (shorter) => rewriter.countTokens(shorter),
    // The request, the answer, and the follow-up.
    keepLast: 3,
  });
  if (!fits) return undefined;
  return { messages, n: 1, sampling: { max_new_tokens, temperature, top_p, top_k, min_p, seed: hashSeed(config.seed, "rewriter", request.id) } };
}

async function factsOf({ folder, config }: StageContext, beside_held_out: number): Promise<Record<string, unknown>> {
  const method = rewriteMethod(config);
  const users = new Set<string>();
  let rewrites = 0;
  let unfinished = 0;
  let withPersonas = 0;
  for await (const record of readJsonl<CandidateRecord>(folder.candidates)) {
    if (record.method !== method) continue;
    rewrites += 1;
    users.add(record.user_id);
    if (record.answers.some(({ finish_reason }) => finish_reason === "length")) unfinished += 1;
    if (record.persona !== "") withPersonas += 1;
  }
  const prompt = config.rewrites.from_scratch ? rewriteFromScratchPrompt : rewritePrompt;
  return { enabled: config.rewrites.enabled, method, rejected: config.rewrites.rejected, rewrites, users: users.size, with_persona: withPersonas, unfinished, beside_held_out, prompts: { [prompt.id]: prompt.hash } };
}
