/** The pairs of a data file, for training. */
import type { PairSource } from "../engine/reference.js";
import { sha256, sha256File } from "../files.js";
import type { PairRow } from "./arrow.js";
import { pairRow, readPairs } from "./data-files.js";
import type { ChatTokenizer } from "./types.js";

/** Reads the file once to check every row, before any work is done. `maxLength` 0: the model's context. */
export async function filePairs(path: string, maxLength: number, openTokenizer: () => ChatTokenizer): Promise<PairSource> {
  let count = 0;
  for await (const _ of readPairs(path)) count += 1;
  let opened: ChatTokenizer | undefined;
  const tokenizer = (): ChatTokenizer => {
    opened ??= openTokenizer();
    return opened;
  };
  return {
    identity: sha256(JSON.stringify([await sha256File(path), maxLength])),
    count,
    async *rows({ vocabSize, context }): AsyncGenerator<PairRow> {
      const limits = maxLength > 0 ? { vocabSize, maxTokens: maxLength, limitName: "--max-length" } : { vocabSize, maxTokens: context, limitName: "the model's context" };
      for await (const pair of readPairs(path)) yield pairRow(pair, tokenizer, limits);
    },
  };
}
