/** The report stage: report.html from the run folder's files. */
import { writeFileAtomic } from "../files.js";
import type { StageContext, StageFacts } from "../run/stage.js";
import { reportData } from "./data.js";
import { renderPage } from "./page.js";

export async function reportStage({ folder, config }: StageContext): Promise<StageFacts> {
  const data = await reportData(folder, config);
  const page = await renderPage(data);
  writeFileAtomic(folder.report, page);
  return { report: folder.report, bytes: Buffer.byteLength(page) };
}
