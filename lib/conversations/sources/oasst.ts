/**
 * OpenAssistant (OASST1, OASST2): trees of messages, in which nearly every prompter message is by another person. Two file
 * forms: flat (one message a line, `parent_id`) and nested (one tree a line, `replies`).
 *
 * From trees to conversations. Every prompter message that is not deleted belongs to exactly one conversation: that of its
 * author. A conversation is the path from the root to the author's message and the best reply to it; where the same
 * author also wrote the follow-up to that reply, it goes on. What lies before the author's first message is context
 * (`context_messages`): it is read, but it is nobody's request or follow-up a second time. So n prompter messages give n
 * requests, each follow-up counts once and for the person who wrote it, and a persona comes from one person's words.
 * Alternative replies to which nobody wrote a follow-up are left out.
 */
import { languageName } from "../language.js";
import { isRecord, listOf, textOf, timeOf } from "./source.js";
import type { Notes, RawConversation, RawMessage, Source } from "./source.js";

interface Node {
  id: string;
  parent: string;
  user: string;
  time: number | null;
  prompter: boolean;
  text: string;
  language: string;
  /** null: not ranked. */
  rank: number | null;
  model: string;
  deleted: boolean;
  flagged: boolean;
  where: string;
  replies: Node[];
}

const messageColumns = ["message_id", "parent_id", "user_id", "created_date", "text", "role"] as const;

export const oasstFlat: Source = {
  name: "oasst",
  about: "OASST messages: message_id, parent_id, user_id, created_date, text, role prompter | assistant; also lang, rank, deleted, review_result, labels, detoxify (JSONL or Parquet)",
  required: messageColumns,
  optional: ["lang", "rank", "deleted", "review_result", "labels", "detoxify", "model_name"],
  async *convert(records, notes) {
    const nodes = new Map<string, Node>();
    for await (const { value, where } of records) {
      const node = nodeOf(value, where);
      if (nodes.has(node.id)) notes.add("duplicate_messages");
      else nodes.set(node.id, node);
    }
    const roots: Node[] = [];
    for (const node of nodes.values()) {
      const parent = nodes.get(node.parent);
      if (parent !== undefined) parent.replies.push(node);
      else if (node.parent === "") roots.push(node);
      else notes.add("messages_without_parent", 1);
    }
    for (const root of roots) yield* conversationsOf(root, notes);
  },
};

export const oasstTrees: Source = {
  name: "oasst",
  about: "OASST trees: message_tree_id, prompt {message_id, user_id, created_date, text, role, replies [...]} (JSONL)",
  required: ["message_tree_id", "prompt"],
  optional: [],
  async *convert(records, notes) {
    const trees = new Map<string, { root: Node; size: number }>();
    for await (const { value, where } of records) {
      const id = textOf(value["message_tree_id"]);
      const root = isRecord(value["prompt"]) ? treeOf(value["prompt"], where) : undefined;
      if (root === undefined) {
        notes.add("trees_without_prompt");
        continue;
      }
      const size = sizeOf(root);
      const known = trees.get(id);
      if (known !== undefined) notes.add("duplicate_trees");
      // Copies of one tree can be of different ages: the fuller one is the newer.
      if (known === undefined || known.size < size) trees.set(id, { root, size });
    }
    for (const { root } of trees.values()) yield* conversationsOf(root, notes);
  },
};

// Trees are walked without recursion: they are shallow, but files are not trusted to be, and the stack is short.

function treeOf(value: Record<string, unknown>, where: string): Node {
  const root = nodeOf({ ...value, parent_id: "" }, where);
  const open = [{ node: root, value }];
  for (let item = open.pop(); item !== undefined; item = open.pop()) {
    for (const reply of listOf(item.value["replies"]).filter(isRecord)) {
      const node = nodeOf({ ...reply, parent_id: item.node.id }, where);
      item.node.replies.push(node);
      open.push({ node, value: reply });
    }
  }
  return root;
}

function sizeOf(root: Node): number {
  let size = 0;
  const open = [root];
  for (let node = open.pop(); node !== undefined; node = open.pop()) {
    size += 1;
    for (const reply of node.replies) open.push(reply);
  }
  return size;
}

function nodeOf(value: Record<string, unknown>, where: string): Node {
  return {
    id: textOf(value["message_id"]),
    parent: textOf(value["parent_id"]),
    user: textOf(value["user_id"]),
    time: timeOf(value["created_date"]),
    prompter: value["role"] === "prompter",
    text: textOf(value["text"]),
    language: languageName(textOf(value["lang"])),
    rank: typeof value["rank"] === "number" ? value["rank"] : null,
    model: textOf(value["model_name"]),
    deleted: value["deleted"] === true,
    flagged: isFlagged(value),
    where,
    replies: [],
  };
}

const unsafeLabels = ["spam", "not_appropriate", "hate_speech", "sexual_content", "violence"];

/** Rejected in review, labelled unsafe by at least half of its annotators, or toxic by the data set's own classifier. */
function isFlagged(value: Record<string, unknown>): boolean {
  const { labels, detoxify } = value;
  const toxicity = isRecord(detoxify) ? detoxify["toxicity"] : undefined;
  if (value["review_result"] === false || (typeof toxicity === "number" && toxicity >= 0.8)) return true;
  return isRecord(labels) && unsafeLabels.some((name) => labelValue(labels, name) >= 0.5);
}

/** Both forms in use: {name: [...], value: [...]} and {name: {value, count}}. */
function labelValue(labels: Record<string, unknown>, name: string): number {
  const own = labels[name];
  if (isRecord(own)) return Number(own["value"] ?? 0);
  const at = listOf(labels["name"]).indexOf(name);
  return at < 0 ? 0 : Number(listOf(labels["value"])[at] ?? 0);
}

/** A message on the way down, with those above it. */
interface Place {
  node: Node;
  above: Place | undefined;
}

/** The messages above a place, the root first. */
function pathTo({ above }: Place): Node[] {
  const path: Node[] = [];
  for (let place = above; place !== undefined; place = place.above) path.push(place.node);
  return path.toReversed();
}

/** Depth first, parents before replies. */
function* conversationsOf(root: Node, notes: Notes): Generator<RawConversation> {
  if (!root.prompter) {
    notes.add("trees_without_prompt");
    return;
  }
  const claimed = new Set<Node>();
  const open: Place[] = [{ node: root, above: undefined }];
  for (let item = open.pop(); item !== undefined; item = open.pop()) {
    const { node } = item;
    if (node.deleted) {
      notes.add("messages_deleted_or_below", sizeOf(node));
      continue;
    }
    if (node.prompter && !claimed.has(node)) {
      const own = ownMessages(node);
      for (const message of own) claimed.add(message);
      yield conversationOf(pathTo(item), own);
    }
    for (const reply of node.replies.toReversed()) {
      // Two requests in a row would become one message: of two authors, that is nobody's.
      if (reply.prompter === node.prompter) notes.add("messages_out_of_turn_or_below", sizeOf(reply));
      else open.push({ node: reply, above: item });
    }
  }
}

/** The author's message, the best reply, and so on while the follow-up is by the same author. */
function ownMessages(start: Node): Node[] {
  const own = [start];
  for (let prompt: Node | undefined = start; prompt !== undefined; ) {
    const answer = best(prompt.replies.filter((reply) => !reply.prompter));
    if (answer === undefined) break;
    own.push(answer);
    prompt = best(answer.replies.filter((reply) => reply.prompter && reply.user === start.user));
    if (prompt !== undefined) own.push(prompt);
  }
  return own;
}

/** By the annotators' rank (0 is best, unranked last); flagged ones after all others; then the earliest, then by id. */
function best(nodes: readonly Node[]): Node | undefined {
  return nodes.filter((node) => !node.deleted).sort((a, b) =>
    Number(a.flagged) - Number(b.flagged)
    || (a.rank ?? Infinity) - (b.rank ?? Infinity) || (a.time ?? 0) - (b.time ?? 0) || (a.id < b.id ? -1 : 1)).at(0);
}

function conversationOf(context: readonly Node[], own: readonly Node[]): RawConversation {
  const [first] = own as [Node];
  const path = [...context, ...own];
  return {
    conversation_id: first.id,
    user_id: first.user,
    time: first.time,
    model: path.find((node) => node.model !== "")?.model ?? "",
    language: first.language,
    flagged: false,
    context_messages: context.length,
    other_authors: [...new Set(path.map(({ user }) => user))].filter((user) => user !== "" && user !== first.user),
    messages: path.map(({ prompter, text, language, flagged, time }): RawMessage => ({ role: prompter ? "user" : "assistant", content: text, language, flagged, gold_label: null, time })),
    where: first.where,
  };
}
