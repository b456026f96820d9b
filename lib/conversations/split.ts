/** Which users are kept for evaluation. */
import { hashUnit } from "../random.js";
import type { Conversation } from "./types.js";

/**
 * True for `share` (0..1) of all users, by a hash of the user id alone: the same users in every run, on every machine and
 * whatever else the data holds; a larger share keeps those of a smaller one.
 */
export function isHeldOut(user_id: string, share: number): boolean {
  return hashUnit("held-out", user_id) < share;
}

/**
 * True where a user who is trained on has a conversation in which somebody held out wrote (OASST's shared trees): training on
 * it would train on text that is kept for evaluation, as context or as a logged answer.
 */
export function holdsHeldOutText({ user_id, other_authors = [] }: Conversation, share: number): boolean {
  return !isHeldOut(user_id, share) && other_authors.some((author) => isHeldOut(author, share));
}
