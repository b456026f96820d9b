import { shortPath, stageCommand } from "../run-folder.js";

export const report = stageCommand({
  stage: "report",
  describe: "one page with the figures of a run: report.html, self-contained",
  details: [
    "Works at any time: parts of the run that are not there yet are named as such. The page has no scripts and fetches",
    "nothing; it names models and data by their file names only, so that it can be passed on. It does show conversations.",
  ].join(" "),
  examples: [["$0 report run.yaml", "writes runs/run/report.html"], ["$0 report runs/run", "the same by its folder"]],
  load: async () => (await import("../../report/stage.js")).reportStage,
  print: ({ folder }, _facts, _skipped, { out }) => out.text(`open in a browser: ${shortPath(folder.report)}`),
  always: true,
});
