/**
 * Personas of many conversations in one batch: asked once, asked again where the answer cannot be read or rests on nothing.
 * A model that is too small even then gives way to the user's own words of feedback, or, where there are none, to its summary.
 */
import type { ChatModel, ChatRequest } from "../chat-models/types.js";
import type { RunConfig } from "../config.js";
import type { Conversation } from "../conversations/types.js";
import { personaPrompt, personaSchema } from "../prompts/persona.js";
import { hashSeed } from "../random.js";
import { feedbackQuotes, historyDigest } from "./history.js";
import type { FeedbackLookup, HistoryDigest } from "./history.js";
import { parsePersona, summaryOnly } from "./parse.js";
import type { ParsedPersona } from "./parse.js";
import type { PersonaRecord } from "./types.js";

export interface PersonaTask {
  conversation: Conversation;
  /** The latest that are strictly earlier, oldest first, at least one and at most `personas.max_conversations`. */
  earlier: Conversation[];
}

export interface InferOptions {
  settings: RunConfig["personas"];
  seed: number;
  feedback: FeedbackLookup;
  signal: AbortSignal;
  onResult: (record: PersonaRecord) => void;
}

/** Tokens of history shown at most, however long the model's context. */
const longestHistory = 6000;
/** The template's own tokens and the beginning of the answer. */
const spareTokens = 32;
/** What the answer begins with where the model can be made to; a small model then goes on in the form asked for. */
const subject = "This user";
const begun = `{"summary": "${subject}`;

interface Asked {
  task: PersonaTask;
  digest: HistoryDigest;
  request: ChatRequest;
}

export async function inferPersonas(model: ChatModel, tasks: readonly PersonaTask[], options: InferOptions): Promise<void> {
  const { signal, onResult } = options;
  const fingerprint = await model.fingerprint();
  const unread: Asked[] = [];
  const record = (task: PersonaTask, digest: HistoryDigest, made: Pick<PersonaRecord, "persona" | "outcome" | "dropped_preferences">): void => {
    onResult({
      user_id: task.conversation.user_id,
      conversation_id: task.conversation.conversation_id,
      ...made,
      from_conversations: [...digest.ids.values()],
      prompt_hash: personaPrompt.hash,
      model: fingerprint,
    });
  };
  const asked = tasks.map((task) => ask(model, task, options));
  await model.chat(asked.map(({ request }) => request), {
    signal,
    onResult(index, completions) {
      const one = asked[index] as Asked;
      const parsed = parsePersona(completions[0]?.text ?? "", one.digest.ids);
      if (parsed === undefined || !isGrounded(parsed)) unread.push(one);
      else record(one.task, one.digest, { persona: parsed.persona, outcome: "json", dropped_preferences: parsed.dropped });
    },
  });
  const again = unread.map((one): ChatRequest => ({ ...one.request, sampling: { ...one.request.sampling, temperature: 0.7, top_p: 0.9, seed: one.request.sampling.seed ^ 1 } }));
  await model.chat(again, {
    signal,
    onResult(index, completions) {
      const { task, digest } = unread[index] as Asked;
      const text = completions[0]?.text ?? "";
      const parsed = parsePersona(text, digest.ids);
      const dropped_preferences = parsed?.dropped ?? 0;
      if (parsed !== undefined && isGrounded(parsed)) return record(task, digest, { persona: parsed.persona, outcome: "json_retry", dropped_preferences });
      const preferences = feedbackQuotes(task.earlier, options.feedback);
      if (preferences.length > 0) return record(task, digest, { persona: { summary: "", preferences }, outcome: "quotes", dropped_preferences });
      const persona = parsed?.persona ?? summaryOnly(text.startsWith(begun) ? text.slice(begun.length - subject.length) : text);
      record(task, digest, { persona, outcome: persona === null ? "nothing" : "summary", dropped_preferences });
    },
  });
}

/** At least one preference rests on a conversation that was shown: what has none may be about anybody. */
function isGrounded({ persona }: ParsedPersona): boolean {
  return persona.preferences.length > 0;
}

function ask(model: ChatModel, task: PersonaTask, { settings, seed, feedback }: InferOptions): Asked {
  const { max_new_tokens, temperature, top_p, top_k, min_p } = settings;
  const budget = Math.min(longestHistory, model.context_length - max_new_tokens - spareTokens);
  const digest = historyDigest(task.earlier, feedback, {
    budget,
    count: (history) => model.countTokens(personaPrompt.render({ history })),
  });
  return {
    task,
    digest,
    request: {
      messages: personaPrompt.render({ history: digest.text }),
      n: 1,
      sampling: { max_new_tokens, temperature, top_p, top_k, min_p, seed: hashSeed(seed, "persona", task.conversation.conversation_id) },
      json_schema: personaSchema,
      prefix: begun,
    },
  };
}
