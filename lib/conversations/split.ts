/** Which users are kept for evaluation. */
import { hashUnit } from "../random.js";

/**
 * True for `share` (0..1) of all users, by a hash of the user id alone: the same users in every run, on every machine and
 * whatever else the data holds; a larger share keeps those of a smaller one.
 */
export function isHeldOut(user_id: string, share: number): boolean {
  return hashUnit("held-out", user_id) < share;
}
