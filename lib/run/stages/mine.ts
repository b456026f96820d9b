import { mine } from "../../conversations/mining.js";
import type { Stage } from "../stage.js";

/** Mines data.path into conversations.parquet, whole or not at all: killed, it begins again. */
export const mineStage: Stage = async ({ config, folder, progress, signal }) => ({ ...await mine(config.data, folder.conversations, { progress, signal }) });
