/**
 * The end of the rewriter's chat. Before it stand the conversation up to the request and the answer to be rewritten, as a
 * chat, so that even a small model knows where it is.
 */
import { definePrompt } from "./prompt.js";

/** Guided by the user's follow-up. */
export const rewritePrompt = definePrompt({
  id: "rewrite",
  version: 1,
  messages: [
    {
      role: "user",
      text: `The user was not content with your last answer and said:
{{follow_up}}

Write the answer that they should have got in the first place: it does what the request and these remarks ask for, in the language of the request. It will stand in place of your last answer, so do not mention the remarks, do not apologise, do not say that it is a new version, and do not greet. Write only the answer.`,
    },
  ],
  slots: { follow_up: "text" },
});

/** The comparison without feedback: the same task, the remarks not shown. */
export const rewriteFromScratchPrompt = definePrompt({
  id: "rewrite-from-scratch",
  version: 1,
  messages: [
    {
      role: "user",
      text: "Write a better answer to my last request, in the language of the request. It will stand in place of your last answer, so do not mention that one, do not apologise, do not say that it is a new version, and do not greet. Write only the answer.",
    },
  ],
  slots: {},
});
