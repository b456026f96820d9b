/** A chat model that answers by a function of the messages: stands in for a real one where only the calls matter. */
import type { ChatModel, LabelRequest } from "../../lib/chat-models/types.js";
import type { Message } from "../../lib/conversations/types.js";

export interface FakeModel extends ChatModel {
  /** Every label request, in the order it came. */
  readonly asked: LabelRequest[];
}

/** `choose` gives weights in the order of the labels; `delayMs` is waited before each result. */
export function fakeModel(choose: (messages: readonly Message[], labels: readonly string[]) => number[], options: { delayMs?: number; contextLength?: number } = {}): FakeModel {
  const asked: LabelRequest[] = [];
  return {
    spec: "native:fake",
    asked,
    context_length: options.contextLength ?? Infinity,
    fingerprint: () => Promise.resolve("fake-0001"),
    countTokens: (messages) => messages.reduce((sum, { content }) => sum + Math.ceil(content.length / 4), 0),
    chat: () => Promise.reject(new Error("not asked for")),
    score: () => Promise.reject(new Error("not asked for")),
    close: () => Promise.resolve(),
    async chooseLabel(requests, batch) {
      const results = [];
      for (const [index, request] of requests.entries()) {
        batch?.signal?.throwIfAborted();
        if (options.delayMs !== undefined) await new Promise((resolve) => setTimeout(resolve, options.delayMs));
        asked.push(request);
        const weights = choose(request.messages, request.labels);
        const sum = weights.reduce((a, b) => a + b, 0);
        const probabilities = weights.map((weight) => weight / sum);
        const result = { label: request.labels[probabilities.indexOf(Math.max(...probabilities))] as string, probabilities };
        results.push(result);
        batch?.onResult?.(index, result);
      }
      return results;
    },
  };
}
