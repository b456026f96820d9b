/** Chat models without a model: answers and verdicts that depend on the request alone, and can fail in the middle of a batch. */
import type { ChatModel, ChatRequest, Completion, LabelChoice, LabelRequest } from "../../lib/chat-models/types.js";
import { hashSeed, hashUnit } from "../../lib/random.js";

export interface StandInOptions {
  fingerprint?: string;
  /** Everything asked, in order. */
  asked?: (ChatRequest | LabelRequest)[];
  /** Results given before the model dies; all models that share it die together. */
  lifetime?: { left: number };
}

const unused = (): never => { throw new Error("not asked for"); };

const sentences = [
  "A process has memory of its own; threads share it.", "```sql\nSELECT name FROM users WHERE age > 30;\n```", "房東您好，冷氣已三天無法使用。", "مع خالص التحية", "1. Risotto\n2. Trout 🐟",
  "<script>window.pwned = true</script>", "</div></section><img src=x onerror=\"window.pwned = true\">", "Read each value twice, then write it down. ".repeat(30), "",
];

/** `role` is told apart in the answers: "trained" ends its answers with a mark that the judge may like. */
export function standInModel(role: string, options: StandInOptions = {}): ChatModel {
  const give = <Result>(index: number, result: Result, onResult: ((index: number, result: Result) => void) | undefined): Result => {
    if (options.lifetime !== undefined && (options.lifetime.left -= 1) < 0) throw new Error("the model died");
    onResult?.(index, result);
    return result;
  };
  return {
    spec: `native:${role}`, context_length: Infinity, fingerprint: async () => options.fingerprint ?? `${role}-weights`, countTokens: () => 0, score: unused, close: async () => {},
    async chat(requests, batch) {
      options.asked?.push(...requests);
      return requests.map((request, i) => {
        const text = sentences[hashSeed(role, JSON.stringify(request.messages)) % sentences.length] ?? "";
        const completion: Completion = { text: role === "trained" ? `${text}\n\n(trained)` : text, finish_reason: "stop", tokens: 10 };
        return give(i, [completion], batch?.onResult);
      });
    },
    async chooseLabel(requests, batch) {
      options.asked?.push(...requests);
      return requests.map((request, i) => give(i, verdict(request), batch?.onResult));
    },
  };
}

/** Likes the trained model's answer in most cases, the base's in some, and in the rest whichever stands first. */
function verdict({ messages }: LabelRequest): LabelChoice {
  const prompt = messages.map((m) => m.content).join("\n");
  const [before = "", answers = ""] = prompt.split("Answer A:\n");
  const trainedFirst = (answers.split("Answer B:\n")[0] ?? "").includes("(trained)");
  const taste = hashUnit(before, prompt.split("Question:").at(-1) ?? "");
  const label = taste > 0.75 || (taste < 0.55) === trainedFirst ? "A" : "B";
  return { label, probabilities: label === "A" ? [0.8, 0.2] : [0.2, 0.8] };
}
