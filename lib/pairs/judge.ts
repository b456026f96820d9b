/** Judging one answer: the prompt, made to fit the judge's context. */
import type { ChatModel, ScoreRequest } from "../chat-models/types.js";
import { fitMessages } from "../chat-models/fit.js";
import type { Message } from "../conversations/types.js";
import { clip } from "../prompts/prompt.js";
import { rewardPrompt, rewardScale, rewardWithoutPersonaPrompt, rewriteJudgePrompt } from "../prompts/reward.js";

export interface JudgedAnswer {
  /** Rendered persona; null: the judge sees none. */
  persona: string | null;
  conversation: readonly Message[];
  /** What the user said about the logged answer (rewrites); null: none. */
  follow_up: string | null;
  answer: string;
}

/** Characters of one message and of the answer shown at first; halved until the prompt fits. */
const shown = { message: 4000, answer: 8000 };
/** The number, and the template's own tokens. */
const spareTokens = 16;

/** A request for the expected score of an answer. The oldest turns go first, then the middles of long texts. */
export function judgeRequest(model: ChatModel, judged: JudgedAnswer): ScoreRequest {
  const budget = model.context_length - spareTokens;
  for (let scale = 1; ; scale /= 2) {
    const answer = clip(judged.answer, Math.round(shown.answer * scale));
    const follow_up = judged.follow_up === null ? null : clip(judged.follow_up, Math.round(shown.message * scale));
    const conversation = judged.conversation.map(({ role, content }): Message => ({ role, content: clip(content, Math.round(shown.message * scale)) }));
    const render = (messages: Message[]): Message[] => promptFor({ ...judged, conversation: messages, answer, follow_up });
    const fitted = fitMessages(conversation, { budget, count: (messages) => model.countTokens(render(messages)) });
    if (fitted.fits || scale < 1 / 32) return { messages: render(fitted.messages), ...rewardScale };
  }
}

function promptFor({ persona, conversation, follow_up, answer }: JudgedAnswer): Message[] {
  if (follow_up !== null) return rewriteJudgePrompt.render({ persona: persona ?? "", conversation, follow_up, answer });
  // Without a profile both rewards are the same question.
  return persona === null || persona === "" ? rewardWithoutPersonaPrompt.render({ conversation, answer }) : rewardPrompt.render({ persona, conversation, answer });
}
