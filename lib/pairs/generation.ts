/** What the stages that write answers share: the policy's request, personas by conversation, and what is already there. */
import { fitMessages, leastAnswer, promptBudget } from "../chat-models/fit.js";
import type { ChatModel, ChatRequest } from "../chat-models/types.js";
import type { RunConfig } from "../config.js";
import type { Message } from "../conversations/types.js";
import { readJsonl } from "../files.js";
import { renderPersona, withPersona } from "../personas/render.js";
import type { PersonaRecord } from "../personas/types.js";
import { hashSeed } from "../random.js";
import type { RunFolder } from "../run/folder.js";
import type { CandidateRecord } from "./types.js";

type Sampling = Pick<RunConfig["rewrites"], "max_new_tokens" | "temperature" | "top_p" | "top_k" | "min_p">;

/** Rendered persona of each conversation, for training: none where the configuration keeps personas out of it. */
export async function trainingPersonas(folder: RunFolder, config: RunConfig): Promise<ReadonlyMap<string, string>> {
  const personas = new Map<string, string>();
  if (!config.personas.enabled || config.personas.at === "inference_only") return personas;
  for await (const { conversation_id, persona } of readJsonl<PersonaRecord>(folder.personas)) {
    if (persona !== null) personas.set(conversation_id, renderPersona(persona, config.personas.max_words));
  }
  return personas;
}

/** Ids of the candidates that are already in the file. */
export async function candidatesDone(folder: RunFolder): Promise<Set<string>> {
  const done = new Set<string>();
  for await (const { id } of readJsonl<CandidateRecord>(folder.candidates)) done.add(id);
  return done;
}

export interface AnswerRequest {
  id: string;
  prompt: readonly Message[];
  persona: string;
  n: number;
}

/**
 * Asks the policy for answers within the context that training has; the oldest turns go first. undefined where persona and
 * request alone are too long: the model would answer a part of them and the pair hold the whole, or no pair would have room for
 * an answer. Between the budget and that, short answers may still make a pair: its filter knows them.
 */
export function answerRequest(model: ChatModel, request: AnswerRequest, sampling: Sampling, config: RunConfig): ChatRequest | undefined {
  const { temperature, top_p, top_k, min_p, max_new_tokens } = sampling;
  const { max_tokens } = config.pairs;
  const budget = promptBudget(Math.min(max_tokens, model.context_length), max_new_tokens);
  const { messages, fits } = fitMessages(withPersona(request.prompt, request.persona), { budget, count: (shorter) => model.countTokens(shorter) });
  const most = Math.min(promptBudget(model.context_length, max_new_tokens), max_tokens - leastAnswer);
  if (!fits && model.countTokens(messages) > most) return undefined;
  return { messages, n: request.n, sampling: { max_new_tokens, temperature, top_p, top_k, min_p, seed: hashSeed(config.seed, "policy", request.id) } };
}
