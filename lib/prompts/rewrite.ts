/**
 * The rewriter's chat: these instructions, the conversation up to the request, the answer to be rewritten as the assistant's last
 * one, and then the user's follow-up as the user's own turn. Nothing of it is quoted inside an instruction, so a small model does not
 * repeat quotes, and the follow-up has no more say than users have in any chat.
 */
import { definePrompt } from "./prompt.js";

const form = "complete, in the language of the request, without mentioning remarks or an earlier answer, without an apology, a greeting or an announcement. Write only that answer.";

/** Guided by the user's follow-up, which is the last message. */
export const rewritePrompt = definePrompt({
  id: "rewrite",
  version: 2,
  messages: [{ role: "system", text: `The user's last message says how your last answer should have been. Reply with the answer that the user should have got in the first place: ${form}` }],
  slots: {},
});

/** The comparison without feedback: the same task, the follow-up not shown. The second message is the last of the chat. */
export const rewriteFromScratchPrompt = definePrompt({
  id: "rewrite-from-scratch",
  version: 2,
  messages: [
    { role: "system", text: `Reply to the user's request with a better answer than your last one: ${form}` },
    { role: "user", text: "Please answer that again, better." },
  ],
  slots: {},
});
