/** Labels a run folder's follow-ups with a slow stand-in for a model: the process that a test kills. */
import { feedbackContext } from "./feedback-context.js";
import { feedbackStage } from "../../lib/run/stages/feedback.js";

const dir = process.argv[2];
if (dir !== undefined) await feedbackStage(feedbackContext(dir, 60));
