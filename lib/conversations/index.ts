/** Conversations for the rest of the project: mine them, read them, tell held-out users from the others. */
export { guessLanguage, languageName } from "./language.js";
export { funnelLines, mine, miningFilters } from "./mining.js";
export type { DataSettings, MiningFacts, MiningFilter } from "./mining.js";
export { isHeldOut } from "./split.js";
export { conversationFacts, readConversations, writeConversations } from "./store.js";
export { followUpTurns, userTurns } from "./types.js";
export type { Conversation, FeedbackLabel, LoggedMessage, Message, Role } from "./types.js";
