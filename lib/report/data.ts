/** Reads a run folder into what the page shows. Every number comes from the run's own files. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { miningFilters } from "../conversations/index.js";
import type { MiningFacts } from "../conversations/index.js";
import { feedbackLabels } from "../conversations/types.js";
import type { RunConfig } from "../config.js";
import { readEvaluation } from "../eval/user-eval.js";
import type { UserEvalFacts } from "../eval/user-eval.js";
import { combineVerdicts } from "../eval/judge.js";
import type { TrainFacts } from "../engine/training.js";
import type { FeedbackRecord } from "../feedback/types.js";
import { readJsonl } from "../files.js";
import { pairFilters } from "../pairs/types.js";
import type { CandidateRecord, FilteredRecord, PairMethod, PairRecord } from "../pairs/types.js";
import { criteria } from "../prompts/user-eval.js";
import { hashUnit } from "../random.js";
import type { RunFolder } from "../run/folder.js";
import { engineTogether } from "../run/manifest.js";
import type { ManifestData } from "../run/manifest.js";
import { stageNames } from "../run/stage.js";
import { changedSettings, provenance } from "./provenance.js";
import type { AnswerExample, Count, LabelCount, MethodCount, MetricPoint, PairExample, ReportData } from "./types.js";

const examples = { pairs: 6, answers: 4 } as const;

/** @throws where manifest.json is missing or a file of the folder is damaged */
export async function reportData(folder: RunFolder, config: RunConfig): Promise<ReportData> {
  const manifest = JSON.parse(readFileSync(folder.manifest, "utf8")) as ManifestData;
  const { mine: mined, train: trained, eval: evaluated } = factsOf(manifest);
  const labels = await labelCounts(folder.feedback);
  return {
    name: basename(folder.dir),
    model: basename(config.model),
    finished: `${manifest.updated.replace("T", " ").slice(0, 16)} UTC`,
    version: manifest.versions.rlhi_native,
    mined: mined === undefined ? null : {
      read: mined.read, conversations: mined.conversations, follow_ups: mined.follow_ups, users: mined.users, held_out_users: mined.held_out_users,
    },
    dropped: mined === undefined ? [] : present(miningFilters.map((name) => ({ name: spaced(name), count: mined.dropped[name] }))),
    labels,
    used_follow_ups: labels.filter(({ name }) => config.feedback.use.some((used) => spaced(used) === name)).reduce((sum, { count }) => sum + count, 0),
    methods: await methodCounts(folder),
    filtered: await filteredCounts(folder.filtered),
    metrics: await metrics(folder.metrics),
    loss_type: config.train.loss_type,
    loss_at_reference: lossAtReference(config),
    held_out: trained === undefined || trained.held_out_after === null ? null : { before: trained.held_out_before, after: trained.held_out_after },
    win_rates: evaluated === undefined ? [] : winRates(evaluated),
    order_disagreement: evaluated?.order_disagreement ?? null,
    eval_requests: evaluated?.requests ?? 0,
    eval_users: evaluated?.users ?? 0,
    pair_examples: await pairExamples(folder),
    answer_examples: evaluated === undefined ? [] : await answerExamples({ folder, config }, evaluated),
    times: stageNames.flatMap((name) => {
      const record = manifest.stages[name];
      return record === undefined || name === "report" ? [] : [{ name, seconds: record.duration_s, engine: record.engine ?? null }];
    }),
    engine: engineTogether(Object.values(manifest.stages).flatMap(({ engine }) => engine ?? [])),
    provenance: provenance(manifest),
    settings: changedSettings(config),
  };
}

function winRates({ win_rates, preferences }: UserEvalFacts): ReportData["win_rates"] {
  return criteria.flatMap((criterion) => (["all", "first", "follow_up"] as const).map((kind) => ({ criterion, kind, rate: win_rates[criterion][kind], preference: preferences[criterion][kind] })));
}

interface KnownFacts {
  mine: MiningFacts;
  train: TrainFacts;
  eval: UserEvalFacts;
}

/** Facts of the stages that are finished. */
function factsOf({ stages }: ManifestData): Partial<KnownFacts> {
  const finished = Object.entries(stages).flatMap(([name, { facts }]) => (facts === null ? [] : [[name, facts]]));
  return Object.fromEntries(finished) as Partial<KnownFacts>;
}

export const spaced = (name: string): string => name.replace(/_/g, " ");
const present = (counts: readonly Count[]): Count[] => counts.filter(({ count }) => count > 0);

/** The sigmoid losses begin at ln 2 (docs/method.md); with a reference of its own, or an added term, no value is known beforehand. */
function lossAtReference({ reference, train }: RunConfig): number | null {
  return train.loss_type === "sigmoid" && train.rpo_alpha === 0 && reference === undefined ? Math.LN2 : null;
}

async function labelCounts(path: string): Promise<LabelCount[]> {
  const counts = new Map<string, { rules: number; model: number }>();
  for (const name of [...feedbackLabels, "left open"]) counts.set(name, { rules: 0, model: 0 });
  for await (const { label, decided_by } of readJsonl<FeedbackRecord>(path)) {
    const entry = counts.get(label ?? "left open");
    if (entry !== undefined) entry[decided_by] += 1;
  }
  return [...counts].map(([name, { rules, model }]) => ({ name: spaced(name), count: rules + model, rules, model })).filter(({ count }) => count > 0);
}

export const methodNames: Record<PairMethod, string> = { rewrite: "user-guided rewrites", rewrite_from_scratch: "rewrites from scratch", reward: "user-based rewards" };

async function methodCounts({ candidates, pairs }: RunFolder): Promise<MethodCount[]> {
  const counts = new Map<PairMethod, MethodCount>();
  const of = (method: PairMethod): MethodCount => {
    const known = counts.get(method) ?? { method, name: methodNames[method], sets: 0, pairs: 0, held_out: 0 };
    counts.set(method, known);
    return known;
  };
  for await (const { method } of readJsonl<CandidateRecord>(candidates)) of(method).sets += 1;
  for await (const { method, held_out } of readJsonl<PairRecord>(pairs)) {
    of(method).pairs += 1;
    if (held_out) of(method).held_out += 1;
  }
  return Object.keys(methodNames).flatMap((method) => counts.get(method as PairMethod) ?? []);
}

async function filteredCounts(path: string): Promise<Count[]> {
  const counts = new Map<string, number>();
  for await (const { filter } of readJsonl<FilteredRecord>(path)) counts.set(filter, (counts.get(filter) ?? 0) + 1);
  return present(pairFilters.map((name) => ({ name: spaced(name), count: counts.get(name) ?? 0 })));
}

async function metrics(path: string): Promise<MetricPoint[]> {
  const points: MetricPoint[] = [];
  for await (const line of readJsonl<Record<string, number | null>>(path)) {
    points.push({
      step: line["step"] ?? points.length + 1,
      loss: line["loss"] ?? Number.NaN,
      margin: line["rewards/margins"] ?? Number.NaN,
      accuracy: line["rewards/accuracies"] ?? Number.NaN,
      tokens_per_second: line["tokens_per_second"] ?? null,
    });
  }
  return points;
}

/** A fixed choice by a hash of the ids, and not of the best-looking ones. */
const byHash = (a: { id: string }, b: { id: string }): number => hashUnit("example", a.id) - hashUnit("example", b.id);

async function pairExamples({ pairs, candidates }: RunFolder): Promise<PairExample[]> {
  const chosen: PairRecord[] = [];
  for await (const pair of readJsonl<PairRecord>(pairs)) {
    chosen.push(pair);
    chosen.sort(byHash).splice(examples.pairs);
  }
  const origins = new Map<string, CandidateRecord>();
  const wanted = new Set(chosen.map(({ id }) => id));
  for await (const record of readJsonl<CandidateRecord>(candidates)) if (wanted.has(record.id)) origins.set(record.id, record);
  return chosen.map((pair): PairExample => {
    const origin = origins.get(pair.id);
    return {
      method: pair.method,
      user_id: pair.user_id,
      persona: origin?.persona ?? "",
      persona_used: pair.persona_used,
      held_out: pair.held_out,
      prompt: origin?.prompt ?? pair.prompt,
      follow_up: origin?.follow_up ?? "",
      chosen: pair.chosen[0].content,
      rejected: pair.rejected[0].content,
      score_chosen: pair.score_chosen,
      score_rejected: pair.score_rejected,
      candidates: origin?.answers.length ?? 2,
    };
  });
}

const winnerOf = { first: "trained", second: "base", tie: "tie" } as const;

async function answerExamples(run: { folder: RunFolder; config: RunConfig }, facts: UserEvalFacts): Promise<AnswerExample[]> {
  const { tasks, verdicts } = await readEvaluation(run, facts);
  const chosen = tasks
    .filter(({ answers }) => answers.base !== answers.trained)
    .sort((a, b) => byHash(a.request, b.request))
    .slice(0, examples.answers);
  const comparisons = combineVerdicts(chosen, verdicts);
  return chosen.map(({ request, answers }): AnswerExample => ({
    user_id: request.user_id,
    persona: request.persona,
    prompt: request.messages,
    trained: answers.trained,
    base: answers.base,
    kind: request.kind,
    verdicts: comparisons.filter(({ id }) => id === request.id).map(({ criterion, verdict }) => ({ criterion, winner: winnerOf[verdict] })),
  }));
}
