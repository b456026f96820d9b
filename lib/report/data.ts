/** Reads a run folder into what the page shows. Every number comes from the run's own files. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { miningFilters } from "../conversations/index.js";
import type { MiningFacts } from "../conversations/index.js";
import { feedbackLabels } from "../conversations/types.js";
import { combineVerdicts } from "../eval/judge.js";
import { readEvaluation } from "../eval/user-eval.js";
import type { UserEvalFacts } from "../eval/user-eval.js";
import type { TrainFacts } from "../engine/training.js";
import type { FeedbackRecord } from "../feedback/types.js";
import { readJsonl } from "../files.js";
import { pairFilters } from "../pairs/types.js";
import type { CandidateRecord, FilteredRecord, PairRecord } from "../pairs/types.js";
import { hashUnit } from "../random.js";
import type { RunFolder } from "../run/folder.js";
import type { ManifestData } from "../run/manifest.js";
import { stageNames } from "../run/stage.js";
import type { RunConfig } from "../config.js";
import type { AnswerExample, Count, MetricPoint, PairExample, ReportData } from "./types.js";

const examples = { pairs: 6, answers: 4 } as const;

export async function reportData(folder: RunFolder, config: RunConfig): Promise<ReportData> {
  const manifest = JSON.parse(readFileSync(folder.manifest, "utf8")) as ManifestData;
  const facts = <T>(stage: keyof ManifestData["stages"]): T | undefined => (manifest.stages[stage]?.facts ?? undefined) as T | undefined;
  const mined = facts<MiningFacts>("mine");
  const evaluated = facts<UserEvalFacts>("eval");
  const labels = await labelCounts(folder.feedback);
  const pairs = await pairCounts(folder.pairs);
  const candidates = await candidateCount(folder.candidates);
  return {
    name: basename(folder.dir),
    model: basename(config.model),
    finished: manifest.updated.replace("T", " ").slice(0, 16) + " UTC",
    version: manifest.versions.rlhi_native,
    funnel: funnel(mined, labels, candidates, pairs),
    dropped: mined === undefined ? [] : miningFilters.map((name) => ({ name: name.replace(/_/g, " "), count: mined.dropped[name] })).filter(({ count }) => count > 0),
    labels,
    users: { all: mined?.users ?? 0, heldOut: mined?.held_out_users ?? 0 },
    pairs,
    filtered: await filteredCounts(folder.filtered),
    metrics: await metrics(folder.metrics),
    heldOut: facts<TrainFacts>("train")?.held_out ?? null,
    winRates: evaluated === undefined ? [] : Object.entries(evaluated.win_rates).flatMap(([criterion, kinds]) => Object.entries(kinds).map(([kind, rate]) => ({ criterion, kind, rate }))),
    orderDisagreement: evaluated?.order_disagreement ?? null,
    evalRequests: evaluated?.requests ?? 0,
    pairExamples: await pairExamples(folder),
    answerExamples: evaluated === undefined ? [] : await answerExamples({ folder, config }, evaluated),
    times: stageNames.flatMap((name) => {
      const record = manifest.stages[name];
      return record === undefined || name === "report" ? [] : [{ name, seconds: record.duration_s }];
    }),
    provenance: provenance(manifest),
  };
}

function funnel(mined: MiningFacts | undefined, labels: readonly Count[], candidates: number, pairs: readonly Count[]): Count[] {
  const withFeedback = labels.find(({ name }) => name === "reattempt with feedback")?.count ?? 0;
  return [
    { name: "conversations read", count: mined?.read ?? 0 },
    { name: "conversations kept", count: mined?.conversations ?? 0 },
    { name: "follow-ups in them", count: mined?.follow_ups ?? 0 },
    { name: "of these, feedback", count: withFeedback },
    { name: "candidate sets", count: candidates },
    { name: "preference pairs", count: pairs.reduce((sum, { count }) => sum + count, 0) },
  ];
}

async function labelCounts(path: string): Promise<ReportData["labels"]> {
  const counts = new Map([...feedbackLabels, "left open"].map((name) => [name as string, { rules: 0, model: 0 }]));
  for await (const { label, decided_by } of readJsonl<FeedbackRecord>(path)) {
    const entry = counts.get(label ?? "left open");
    if (entry !== undefined) entry[decided_by] += 1;
  }
  return [...counts].map(([name, { rules, model }]) => ({ name: name.replace(/_/g, " "), count: rules + model, rules, model })).filter(({ count }) => count > 0);
}

const methodNames: Record<string, string> = { rewrite: "user-guided rewrites", rewrite_from_scratch: "rewrites from scratch", reward: "user-based rewards" };

async function pairCounts(path: string): Promise<Count[]> {
  const counts = new Map<string, { train: number; heldOut: number }>();
  for await (const { method, held_out } of readJsonl<PairRecord>(path)) {
    const entry = counts.get(method) ?? { train: 0, heldOut: 0 };
    entry[held_out ? "heldOut" : "train"] += 1;
    counts.set(method, entry);
  }
  return [...counts].map(([method, { train, heldOut }]) => ({ name: methodNames[method] ?? method, count: train + heldOut, detail: `${heldOut} held out` }));
}

async function candidateCount(path: string): Promise<number> {
  let count = 0;
  for await (const _ of readJsonl(path)) count += 1;
  return count;
}

async function filteredCounts(path: string): Promise<Count[]> {
  const counts = new Map<string, number>();
  for await (const { filter } of readJsonl<FilteredRecord>(path)) counts.set(filter, (counts.get(filter) ?? 0) + 1);
  return pairFilters.flatMap((name) => {
    const count = counts.get(name) ?? 0;
    return count === 0 ? [] : [{ name: name.replace(/_/g, " "), count }];
  });
}

async function metrics(path: string): Promise<MetricPoint[]> {
  const points: MetricPoint[] = [];
  for await (const line of readJsonl<Record<string, number>>(path)) {
    points.push({
      step: line["step"] ?? points.length + 1,
      loss: line["loss"] ?? Number.NaN,
      margin: line["rewards/margins"] ?? Number.NaN,
      accuracy: line["rewards/accuracies"] ?? Number.NaN,
      tokensPerSecond: line["tokens_per_second"] ?? null,
    });
  }
  return points;
}

/** A fixed choice of pairs, by a hash of their ids: not the best-looking ones. */
async function pairExamples({ pairs, candidates }: RunFolder): Promise<PairExample[]> {
  const chosen: PairRecord[] = [];
  for await (const pair of readJsonl<PairRecord>(pairs)) {
    chosen.push(pair);
    chosen.sort((a, b) => hashUnit("example", a.id) - hashUnit("example", b.id)).splice(examples.pairs);
  }
  const origins = new Map<string, CandidateRecord>();
  const wanted = new Set(chosen.map(({ id }) => id));
  for await (const record of readJsonl<CandidateRecord>(candidates)) if (wanted.has(record.id)) origins.set(record.id, record);
  return chosen.map((pair) => {
    const origin = origins.get(pair.id);
    return {
      method: methodNames[pair.method] ?? pair.method,
      persona: origin?.persona ?? "",
      prompt: origin?.prompt ?? pair.prompt,
      followUp: origin?.follow_up ?? "",
      chosen: pair.chosen[0].content,
      rejected: pair.rejected[0].content,
      scoreChosen: pair.score_chosen,
      scoreRejected: pair.score_rejected,
      user: pair.user_id,
    };
  });
}

async function answerExamples(run: { folder: RunFolder; config: RunConfig }, facts: UserEvalFacts): Promise<AnswerExample[]> {
  const { tasks, verdicts } = await readEvaluation(run, facts);
  const chosen = [...tasks]
    .filter(({ answers }) => answers.base !== answers.trained)
    .sort((a, b) => hashUnit("example", a.request.id) - hashUnit("example", b.request.id))
    .slice(0, examples.answers);
  const comparisons = combineVerdicts(chosen, verdicts);
  return chosen.map(({ request, answers }) => ({
    persona: request.persona,
    prompt: request.messages,
    trained: answers.trained,
    base: answers.base,
    kind: request.kind,
    user: request.user_id,
    verdicts: comparisons
      .filter(({ id }) => id === request.id)
      .map(({ criterion, verdict }) => ({ criterion, winner: verdict === "first" ? ("trained" as const) : verdict === "second" ? ("base" as const) : ("tie" as const) })),
  }));
}

function provenance(manifest: ManifestData): ReportData["provenance"] {
  return [
    { name: "seed", value: String(manifest.seed) },
    ...Object.entries(manifest.inputs).map(([path, { sha256 }]) => ({ name: "data", value: `${basename(path)} (sha256 ${sha256.slice(0, 16)})` })),
    ...Object.entries(manifest.models).map(([role, { spec, fingerprint }]) => ({ name: `${role} model`, value: `${shortSpec(spec)} (${fingerprint.slice(0, 16)})` })),
    ...Object.entries(manifest.prompts).map(([id, hash]) => ({ name: `prompt ${id}`, value: hash })),
  ];
}

/** A page that is passed on names models, not the folders of the machine it was made on. */
function shortSpec(spec: string): string {
  return spec.startsWith("native:") ? `native: ${basename(spec)}` : spec;
}
