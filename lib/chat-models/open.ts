/** A chat model from its setting: native:PATH or openai:URL#model. */
import type { RunConfig } from "../config.js";
import type { BusyClock } from "../engine/busy-clock.js";
import { UsageError } from "../errors.js";
import type { CheckpointTokenizer } from "../tokens/chat-tokenizer.js";
import type { ChatModel } from "./types.js";

export interface OpenOptions {
  endpoint: RunConfig["endpoint"];
  dtype: RunConfig["dtype"];
  device?: RunConfig["device"] | undefined;
  threads: number;
  /** Told once about each thing a server cannot do, and about waits. */
  note?: ((text: string) => void) | undefined;
  /** Of the embedded engine: gives the model's tokenizer; default: opened from its path. */
  tokenizer?: (() => CheckpointTokenizer) | undefined;
  /** Of the embedded engine: counts its work. */
  clock?: BusyClock | undefined;
  /** Of endpoints: the first wait before asking again, default 1000; it doubles each time. */
  retryBaseMs?: number | undefined;
}

/** Loads the model (native) or prepares the client (endpoint: nothing is sent yet). */
export async function openChatModel(spec: string, options: OpenOptions): Promise<ChatModel> {
  if (spec.startsWith("native:")) {
    const { openNativeChatModel } = await import("./native.js");
    return openNativeChatModel(spec.slice("native:".length), options);
  }
  if (spec.startsWith("openai:")) {
    const { openEndpoint } = await import("./openai.js");
    return openEndpoint(spec, options);
  }
  throw new UsageError({ what: "not a chat model", where: spec, expected: "native:PATH or openai:URL#model", todo: "correct the setting under `models`" });
}
