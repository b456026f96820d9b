/** A short profile of a user, inferred from conversations strictly before the one it is used in. */
export interface Persona {
  summary: string;
  preferences: { dimension: string; value: string; evidence: string }[];
}

/** One line of personas.jsonl: what is known of a user when a conversation begins. */
export interface PersonaRecord {
  user_id: string;
  /** The conversation this persona may be used in (and no earlier one). */
  conversation_id: string;
  /** null: no earlier conversation, or nothing could be inferred; a supported case. */
  persona: Persona | null;
  /** The earlier conversations it came from, oldest first. */
  from_conversations: string[];
  /**
   * How it came about: the model's JSON at the first or the second asking; the user's own words of feedback, where neither
   * could be read; a summary, resting on nothing; nothing usable; nothing to learn from.
   */
  outcome: "json" | "json_retry" | "quotes" | "summary" | "nothing" | "no_history";
  /** Preferences left out because they named no conversation that was shown. */
  dropped_preferences: number;
  prompt_hash: string;
  model: string;
}
