/** report.html in a real browser. Skipped, saying so, where there is no Chromium (CHROMIUM names one). */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import type { Browser, Page } from "playwright-core";
import { BusyClock } from "../lib/engine/busy-clock.js";
import { renderPage } from "../lib/report/page.js";
import { reportData } from "../lib/report/data.js";
import { headlineOf } from "../lib/report/headline.js";
import { reportStage } from "../lib/report/stage.js";
import { silent } from "../lib/progress.js";
import { hostileTexts, writeRunFolder } from "./helpers/run-folder.js";
import type { Fixture, FixtureOptions } from "./helpers/run-folder.js";

const executablePath = [process.env["CHROMIUM"], "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path !== undefined && existsSync(path));
const root = mkdtempSync(join(tmpdir(), "rlhi-report-"));
const unused = (): never => { throw new Error("a report asks no model"); };

async function report(name: string, options: FixtureOptions = {}): Promise<Fixture> {
  const fixture = await writeRunFolder(join(root, name), options);
  const facts = await reportStage({ folder: fixture.folder, config: fixture.config, progress: silent, signal: new AbortController().signal, model: unused, closeModels: unused, clock: new BusyClock(), tokenizer: unused });
  assert.equal(facts["bytes"], statSync(fixture.folder.report).size);
  return fixture;
}

/** Things a browser complains of or asks for, while the page loads and is used. */
interface Visit {
  page: Page;
  complaints: string[];
  requests: string[];
}

async function visit(browser: Browser, file: string, width: number, colorScheme: "light" | "dark" = "light"): Promise<Visit> {
  const page = await browser.newPage({ viewport: { width, height: 844 }, colorScheme });
  const complaints: string[] = [];
  const requests: string[] = [];
  page.on("console", (line) => complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(pathToFileURL(file).href);
  return { page, complaints, requests };
}

const overflow = (page: Page): Promise<number> => page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
const textsOf = async (page: Page, selector: string): Promise<string[]> => (await page.locator(selector).allTextContents()).map((text) => text.replace(/\s+/g, " ").trim());

const percent = (x: number | null | undefined): string => `${(100 * (x ?? Number.NaN)).toFixed(0)} %`;

/** Names and numbers of all bars inside `selector`. */
async function barsOf(page: Page, selector: string): Promise<[string, string][]> {
  const [names, counts] = [await textsOf(page, `${selector} .bars > li > .name`), await textsOf(page, `${selector} .bars > li > b`)];
  return names.map((name, i) => [name, counts[i] ?? ""]);
}

/** Relative luminance contrast (WCAG 2.2) of every visible text against its nearest background. */
const contrastScript = `(() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m[3] ?? 1 }; };
  const luminance = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const background = (e) => { for (let n = e; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor); if (c.a > 0.99) return c.rgb; } return [255, 255, 255]; };
  let worst = { ratio: 99, text: "" };
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim() !== "") || e.closest("svg") || e.getClientRects().length === 0) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color).rgb), luminance(background(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: e.textContent.slice(0, 60) };
  }
  return worst;
})()`;

describe("the report in a browser", { skip: executablePath === undefined ? "no Chromium found; name one in CHROMIUM" : false }, () => {
  let browser: Browser;
  before(async () => {
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"] });
  });
  after(async () => {
    await browser.close();
    rmSync(root, { recursive: true, force: true });
  });

  test("nothing is fetched, nothing is logged, nothing overflows on a desk or a phone", async () => {
    const { folder } = await report("full");
    for (const width of [1200, 768, 390, 320]) {
      const { page, complaints, requests } = await visit(browser, folder.report, width);
      await page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })");
      await page.waitForTimeout(50);
      assert.deepEqual(complaints, []);
      assert.deepEqual(requests.filter((url) => !url.startsWith("data:")), [pathToFileURL(folder.report).href]);
      assert.equal(await overflow(page), 0, `${width} pixels wide`);
      await page.close();
    }
  });

  test("text of the data stays text: no element, no attribute, no title of its making", async () => {
    const { folder } = await report("hostile");
    const { page } = await visit(browser, folder.report, 1200);
    assert.equal(await page.evaluate("window.pwned"), undefined);
    assert.equal(await page.title(), "hostile: rlhi-native report");
    const made = await page.evaluate<Record<string, number>>(`Object.fromEntries(["script", "img", "iframe", "input", "base", "form", "object", "video", "h1", "a[href^='javascript']", "[onerror],[onload],[onfocus],[onclick]", "section", "style", "main", "u"]
      .map((s) => [s, document.querySelectorAll(s).length]))`);
    assert.deepEqual(made, {
      script: 0, img: 0, iframe: 0, input: 0, base: 0, form: 0, object: 0, video: 0, h1: 1, "a[href^='javascript']": 0, "[onerror],[onload],[onfocus],[onclick]": 0, section: 6, style: 1, main: 1, u: 0,
    });
    const text = await page.evaluate<string>("document.body.textContent");
    for (const hostile of hostileTexts) assert.ok(text.includes(hostile), hostile);
    assert.ok((await page.locator("style").textContent())?.startsWith("\n:root"));
  });

  test("every number on the page is the run's", async () => {
    const { folder, mined, labels, pairs, candidates, filtered, losses, evaluation, heldOut } = await report("numbers");
    const { page } = await visit(browser, folder.report, 1200);
    const bars = (selector: string): Promise<[string, string][]> => barsOf(page, selector);
    const used = labels.filter(({ label }) => label === "reattempt_with_feedback").length;
    const training = pairs.filter((p) => !p.held_out).length;
    assert.deepEqual(await bars(".funnel"), [
      ["read", String(mined.read)], [`kept ${percent(mined.conversations / mined.read)}`, String(mined.conversations)],
      ["all", String(mined.follow_ups)], [`with feedback to learn from ${percent(used / mined.follow_ups)}`, String(used)],
      ["made", String(candidates.length)], [`became a pair ${percent(pairs.length / candidates.length)}`, String(pairs.length)], [`trained on ${pairs.length - training} held out`, String(training)],
    ]);
    assert.deepEqual((await bars("#funnel .grid")).map(([name, count]) => [name, Number(count)]), [
      ["malformed", 2], ["flagged", 3], ["short request", 1], ["duplicate", 1], ["few conversations", 14],
      ["small margin", filtered.filter((f) => f.filter === "small_margin").length], ["leaked feedback", filtered.filter((f) => f.filter === "leaked_feedback").length],
    ]);
    const labelBars = await bars("#labels");
    assert.equal(labelBars.length, 7);
    assert.equal(labelBars.reduce((sum, [, count]) => sum + Number(count), 0), labels.length);
    assert.deepEqual((await bars("#pairs")).map(([, count]) => Number(count)), (["rewrite", "reward"] as const).map((m) => pairs.filter((p) => p.method === m).length));
    const figures = await textsOf(page, ".figure .value");
    const overall = evaluation?.win_rates.overall.all;
    assert.deepEqual(figures, [
      String(mined.users), String(pairs.length), `${losses[0]?.toFixed(3)} → ${losses.at(-1)?.toFixed(3)}`, `+${heldOut.after["rewards/margins"].toFixed(3)}`, percent(overall?.rate),
    ]);
    const rows = await textsOf(page, ".rates tbody tr:not(:first-child) td.n");
    assert.equal(rows.length, 9);
    for (const [i, criterion] of (["personalization", "instruction_following", "overall"] as const).entries()) {
      for (const [j, kind] of (["all", "first", "follow_up"] as const).entries()) {
        const rate = evaluation?.win_rates[criterion][kind];
        assert.equal(rows[3 * i + j], `${percent(rate?.rate)} ${percent(rate?.interval?.low)} to ${percent(rate?.interval?.high)}${rate?.wins} won, ${rate?.ties} tied, ${rate?.losses} lostpreference ${(100 * (evaluation?.preferences[criterion][kind].mean ?? Number.NaN)).toFixed(1)} %`);
      }
    }
    assert.match((await textsOf(page, "#evaluation .lead"))[0] ?? "", new RegExp(`^${evaluation?.requests} real requests of ${evaluation?.users} users`));
  });

  test("pairs stand side by side on a desk and one under the other on a phone, with feedback and persona", async () => {
    const { folder, pairs, candidates } = await report("examples");
    const shown = (await reportData(folder, (await report("examples-again")).config)).pair_examples;
    assert.equal(shown.length, 6);
    const wide = await visit(browser, folder.report, 1200);
    const phone = await visit(browser, folder.report, 390);
    for (const [{ page }, beside] of [[wide, true], [phone, false]] as const) {
      const [left, right] = await Promise.all([".side.good", ".side.bad"].map((side) => page.locator("#pairs article").first().locator(side).boundingBox()));
      assert.equal((right?.x ?? 0) > (left?.x ?? 0) + 100, beside);
    }
    const texts = await wide.page.locator("#pairs article").allTextContents();
    for (const [i, example] of shown.entries()) {
      const record = pairs.find((p) => p.user_id === example.user_id && p.chosen[0].content === example.chosen);
      const origin = candidates.find((c) => c.id === record?.id);
      assert.ok(origin !== undefined);
      for (const text of [example.chosen, example.rejected, origin.follow_up, origin.persona]) assert.ok(texts[i]?.includes(text.slice(0, 200)), text.slice(0, 80));
    }
  });

  test("it can be read by keyboard and by ear: headings in order, named pictures, texts that open, enough contrast", async () => {
    const { folder } = await report("accessible");
    const { page } = await visit(browser, folder.report, 1200);
    const levels = await page.evaluate<number[]>("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((h) => Number(h.tagName[1]))");
    assert.equal(levels[0], 1);
    for (const [i, level] of levels.entries()) assert.ok(level <= (levels[i - 1] ?? 0) + 1, `heading ${i} skips a level`);
    const pictures = await page.locator("svg[role=img]").evaluateAll((all) => all.map((svg) => svg.getAttribute("aria-label") ?? ""));
    assert.equal(pictures.length, 3);
    assert.match(pictures[0] ?? "", /^Loss over 24 steps: from 0\.693 at step 1 to \d\.\d{3} at step 24$/);
    const fold = page.locator("#pairs details.fold").first();
    await fold.locator("summary").focus();
    await page.keyboard.press("Enter");
    assert.equal(await fold.getAttribute("open"), "");
    await page.keyboard.press("Space");
    assert.equal(await fold.getAttribute("open"), null);
    for (const scheme of ["light", "dark"] as const) {
      const other = await visit(browser, folder.report, 1200, scheme);
      const worst = await other.page.evaluate<{ ratio: number; text: string }>(contrastScript);
      assert.ok(worst.ratio >= 4.5, `${scheme}: ${worst.ratio.toFixed(2)} for "${worst.text}"`);
    }
    for (const [name, id] of [["Funnel", "funnel"], ["Training", "training"], ["How it was made", "made"]] as const) {
      await page.getByRole("link", { name, exact: true }).click();
      assert.equal(new URL(page.url()).hash, `#${id}`);
    }
  });

  test("thousands of steps make neither a heavy page nor a drawing outside its frame", async () => {
    const { folder } = await report("long", { steps: 5000 });
    assert.ok(statSync(folder.report).size < 250_000, `${statSync(folder.report).size} bytes`);
    const { page } = await visit(browser, folder.report, 390);
    assert.match((await textsOf(page, "#training .lead"))[0] ?? "", /^5,000 optimizer steps with the sigmoid loss, .*mean of 32 steps/);
    const [svg, line] = await Promise.all([page.locator("#training svg").first().boundingBox(), page.locator("#training svg .mark-line path").first().boundingBox()]);
    assert.ok(line !== null && svg !== null && line.width > 0.7 * svg.width && line.x >= svg.x && line.x + line.width <= svg.x + svg.width + 1);
  });

  test("values that hardly differ get an axis whose labels do", async () => {
    for (const steps of [1, 2]) {
      const { folder } = await report(`flat-${steps}`, { steps });
      const { page } = await visit(browser, folder.report, 1200);
      for (const i of [0, 1]) {
        const labels = await textsOf(page, `#training figure:nth-child(${i + 1}) svg .role-axis-label text`);
        const y = labels.filter((text) => text.includes("."));
        assert.ok(y.length >= 3 && new Set(y).size === y.length, labels.join(" "));
      }
      await page.close();
    }
  });

  test("one step draws one point", async () => {
    const { folder } = await report("one", { steps: 1 });
    const { page } = await visit(browser, folder.report, 390);
    assert.equal(await page.locator("#training figure").first().locator("svg .mark-symbol path").count(), 1);
    assert.equal((await textsOf(page, ".figure .value"))[2], "0.693");
  });

  test("an unfinished run says what is not there yet", async () => {
    for (const until of ["mine", "feedback", "pairs", "train"] as const) {
      const { folder } = await report(`until-${until}`, { until });
      const { page, complaints } = await visit(browser, folder.report, 390);
      const text = await page.evaluate<string>("document.body.innerText");
      assert.equal(text.includes("No step is made yet."), until !== "train");
      assert.ok(text.includes("Not evaluated yet."));
      assert.equal(text.includes("No follow-up is labelled yet."), until === "mine");
      assert.equal(await page.locator("section").count(), 6);
      assert.equal(/NaN|undefined|null|\[object/.exec(text)?.[0], undefined);
      assert.deepEqual([complaints, await overflow(page)], [[], 0]);
      await page.close();
    }
  });
});

test("the page names no folder, user or key of the machine it was made on", async () => {
  const { folder, config } = await writeRunFolder(mkdtempSync(join(tmpdir(), "rlhi-report-")));
  const page = await renderPage(await reportData(folder, config));
  for (const secret of [tmpdir(), folder.dir, "/models/", "127.0.0.1", "user:secret"]) assert.ok(!page.includes(secret), secret);
  assert.ok(page.includes("judge-&#60;b&#62;8b, at an endpoint"));
  rmSync(folder.dir, { recursive: true, force: true });
});

test("the same run gives the same page", async () => {
  const [a, b] = await Promise.all(["a", "b"].map(async () => {
    const dir = join(mkdtempSync(join(tmpdir(), "rlhi-report-")), "run");
    const { folder, config } = await writeRunFolder(dir);
    const page = await renderPage({ ...(await reportData(folder, config)), finished: "now", times: [] });
    assert.ok(readFileSync(folder.manifest, "utf8").length > 0);
    rmSync(dir, { recursive: true, force: true });
    return page;
  }));
  assert.equal(a, b);
});

/** Rows of the table of times: their cells' texts. */
function timeRows(page: string): string[][] {
  const table = /<h3>Time by stage<\/h3><table>(.*?)<\/table>/s.exec(page)?.[1] ?? "";
  return [...table.matchAll(/<tr>(.*?)<\/tr>/gs)].map(([, row]) => [...(row ?? "").matchAll(/<t[hd][^>]*>(.*?)<\/t[hd]>/gs)].map(([, cell]) => (cell ?? "").replaceAll("\u00a0", " ")));
}

test("the table of times has the engine's idle share of each stage that used it, and of all", async () => {
  const { folder, config } = await writeRunFolder(join(root, "times"));
  const data = await reportData(folder, config);
  assert.deepEqual(timeRows(await renderPage(data)), [
    ["stage", "time", "engine idle"], ["mine", "3.3 s", ""], ["feedback", "13.0 s", ""], ["personas", "29.3 s", "10.0 %"], ["rewrite", "52.0 s", "3.9 %"], ["reward", "81.3 s", "0.0 %"],
    ["pairs", "1.9 min", ""], ["train", "2.7 min", "10.0 %"], ["eval", "3.5 min", "50.0 %"], ["together", "11.1 min", "23.6 %"],
  ]);
  const facts = headlineOf(data);
  assert.deepEqual(facts["engine_idle_share_by_stage"], { personas: 0.1, rewrite: 0.0385, reward: 0, train: 0.1, eval: 0.5 });
  assert.equal(facts["engine_idle_share"], 0.2358);
  assert.deepEqual([facts["engine_busy_seconds"], facts["engine_load_seconds"]], [404.45, 0.5]);
});

test("where endpoints did all the work nothing is said of the engine", async () => {
  const { folder, config } = await writeRunFolder(join(root, "endpoints"), { until: "feedback" });
  const data = await reportData(folder, config);
  assert.deepEqual(timeRows(await renderPage(data)), [["mine", "3.3 s"], ["feedback", "13.0 s"], ["together", "16.3 s"]]);
  assert.deepEqual(Object.keys(headlineOf(data)).filter((name) => name.startsWith("engine")), []);
});
