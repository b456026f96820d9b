/** The page's style sheet: one column on a phone, more where there is room; light or dark as the reader's system says. */
export const style = `
:root { color-scheme: light dark; --ink: #1d2530; --soft: #586371; --line: #dde2e8; --paper: #f5f6f8; --card: #ffffff; --inset: #f2f4f7; --link: #2565a8;
  --main: #3b82c4; --good: #2f9e6e; --bad: #d1603d; --light: #c9d6e4; --quiet: #8a93a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #a0abb8; --line: #323b46; --paper: #12161b; --card: #1b2128; --inset: #242b34; --link: #7db4ec; --light: #3a4a5c; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
.wrap { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
main.wrap { padding-bottom: 72px; }
header.top { background: var(--card); border-bottom: 1px solid var(--line); padding: 36px 0 0; }
.kicker { text-transform: uppercase; letter-spacing: .09em; font-size: .75rem; font-weight: 600; color: var(--link); margin: 0 0 6px; }
h1 { font-size: clamp(1.55rem, 5vw, 2.2rem); line-height: 1.15; letter-spacing: -.015em; margin: 0 0 8px; }
h2 { font-size: 1.35rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 6px; }
h3 { font-size: .95rem; margin: 0 0 10px; }
h3.examples { margin: 28px 0 0; }
h4 { font-size: .95rem; margin: 0; }
h5 { font-size: .85rem; margin: 0 0 6px; }
h5 .soft { font-weight: 400; }
p { margin: 6px 0 12px; }
.lead { color: var(--soft); max-width: 72ch; margin: 0 0 16px; }
.soft { color: var(--soft); }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; border-radius: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 0 22px; margin-top: 18px; }
nav a { padding: 8px 0 10px; font-size: .9rem; font-weight: 550; text-decoration: none; color: var(--soft); border-bottom: 2px solid transparent; }
nav a:hover { color: var(--ink); border-color: var(--main); }
section { margin-top: 56px; scroll-margin-top: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0; margin: 0; }
.card + .card, .grid + .card, .funnel + .grid, .verdict + .card { margin-top: 16px; }
.grid > .card + .card { margin-top: 0; }
.card > :last-child { margin-bottom: 0; }
.grid { display: grid; gap: 16px; }
.grid.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); }
.grid.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr)); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(175px, 1fr)); gap: 1px; margin: 28px 0 0; background: var(--line); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.figure { background: var(--card); padding: 16px 18px; }
.figure dt { font-size: .82rem; color: var(--soft); }
.figure dd { margin: 0; }
.figure .value { font-size: 1.35rem; font-weight: 650; line-height: 1.4; letter-spacing: -.03em; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figure .note { font-size: .8rem; line-height: 1.4; color: var(--soft); }
.funnel { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px 30px; list-style: none; margin: 0; padding: 0; }
.funnel > li { position: relative; }
.funnel > li.card + li.card { margin-top: 0; }
.funnel > li + li::before { content: "→"; position: absolute; left: -24px; top: 38%; color: var(--quiet); font-size: 1.2rem; line-height: 1; }
@media (max-width: 760px) { .funnel { grid-template-columns: 1fr; } .funnel > li + li::before { content: "↓"; left: 50%; top: -17px; font-size: .95rem; } }
.bars { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px; font-size: .9rem; }
.bars li { display: grid; grid-template-columns: 1fr max-content; gap: 4px 12px; align-items: baseline; }
.bars .name .soft { font-size: .82rem; }
.bars b { font-weight: 650; font-variant-numeric: tabular-nums; }
.bars .track { grid-column: 1 / -1; display: flex; gap: 2px; height: 8px; background: var(--inset); border-radius: 4px; overflow: hidden; }
.bars i { display: block; min-width: 2px; }
i.main { background: var(--main); } i.rules { background: var(--good); } i.light { background: var(--light); } i.gone { background: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: .84rem; color: var(--soft); margin: 0 0 14px; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 3px; margin-right: .45em; }
figure { margin: 0; }
figcaption h3 { margin: 0; }
figcaption p { font-size: .82rem; margin: 2px 0 12px; }
figure svg { display: block; width: 100%; height: auto; max-width: 420px; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 500; }
thead th { font-size: .8rem; color: var(--soft); }
td, th { padding: 6px 10px 6px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td:last-child, th:last-child { padding-right: 0; }
tbody:last-child tr:last-child > *, tfoot tr:last-child > * { border-bottom: 0; }
tfoot th, tfoot td { font-weight: 650; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.rates { table-layout: fixed; }
.rates th:nth-child(1) { width: 7em; } .rates th.n { width: 13.5em; }
.rates th[scope=rowgroup] { font-weight: 650; padding-top: 18px; }
.rates tr > * { vertical-align: middle; }
.rates .soft { font-size: .8rem; }
.rates + p { font-size: .82rem; margin-top: 12px; }
.scale { display: flex; justify-content: space-between; margin: 0 6px; }
.forest { display: block; position: relative; height: 22px; margin: 0 6px; background: linear-gradient(var(--quiet), var(--quiet)) 50% 0 / 1px 100% no-repeat, linear-gradient(var(--line), var(--line)) 0 50% / 100% 1px no-repeat; }
.forest i { position: absolute; background: var(--quiet); }
.forest .range { top: 8px; height: 6px; border-radius: 3px; opacity: .55; }
.forest .dot { top: 5px; width: 12px; height: 12px; margin-left: -6px; border-radius: 50%; }
.forest.strong i { background: var(--main); }
.nowrap { white-space: nowrap; }
@media (max-width: 560px) { .rates th.n { width: 9.6em; } .rates .soft { font-size: .74rem; } .rates th:nth-child(1) { width: 4.6em; } .scale span:nth-child(2) { display: none; } .rates td.n b { display: block; } }
.verdict { border-left: 4px solid var(--main); background: var(--card); padding: 12px 16px; border-radius: 0 10px 10px 0; font-weight: 550; margin: 0 0 16px; }
article { margin-top: 16px !important; padding: 0 !important; overflow: hidden; }
article > header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; padding: 12px 18px; border-bottom: 1px solid var(--line); background: var(--inset); }
article > header h4 { margin-right: 6px; }
article h4::first-letter { text-transform: uppercase; }
article > .turn, article > .earlier { padding: 12px 18px 0; }
.tag { border: 1px solid var(--line); background: var(--card); border-radius: 99px; padding: 1px 10px; font-size: .78rem; color: var(--soft); }
.tag b { font-weight: 600; color: var(--ink); }
.who { display: block; font-size: .78rem; font-weight: 600; color: var(--soft); margin-bottom: 2px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font-size: .92rem; text-align: start; }
.text.empty { color: var(--soft); font-style: italic; }
.text code { display: block; white-space: pre-wrap; unicode-bidi: isolate; direction: ltr; text-align: left; font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--inset); border-radius: 8px; padding: 8px 10px; margin: 6px 0; }
.persona .text, .earlier .text { font-size: .86rem; color: var(--soft); }
.earlier .turn { border-left: 2px solid var(--line); padding-left: 12px; margin-top: 10px; }
.sides { padding: 16px 18px 18px; gap: 14px; align-items: start; }
.side { border: 1px solid var(--line); border-top: 3px solid var(--quiet); border-radius: 8px; padding: 10px 14px 12px; min-width: 0; }
.side.good { border-top-color: var(--good); } .side.bad { border-top-color: var(--bad); }
.side h5::first-letter { text-transform: uppercase; }
.feedback > .text, .feedback > .fold { border-left: 3px solid var(--main); padding-left: 12px; }
summary { cursor: pointer; border-radius: 4px; }
.earlier > summary { font-size: .86rem; color: var(--link); }
.fold > summary { list-style: none; }
.fold > summary::-webkit-details-marker { display: none; }
.fold > summary > .text { display: block; }
.fold[open] > summary > .text, .fold[open] > summary > .more, .fold:not([open]) > summary > .less { display: none; }
.more, .less { display: inline-block; font-size: .82rem; color: var(--link); text-decoration: underline; text-underline-offset: 2px; padding: 4px 0; }
.list { margin: 0; font-size: .88rem; }
.list > div { display: grid; grid-template-columns: minmax(8.5em, 34%) 1fr; gap: 0 14px; padding: 5px 0; border-bottom: 1px solid var(--line); }
.list > div:last-child { border-bottom: 0; }
.list dt { color: var(--soft); } .list dd { margin: 0; }
.list + p { font-size: .82rem; margin-top: 12px; }
@media (max-width: 560px) { .wrap { padding: 0 14px; } .card { padding: 14px; } section { margin-top: 44px; } .figures { grid-template-columns: 1fr 1fr; } .figure { padding: 12px 14px; } .figure:last-child:nth-child(odd) { grid-column: 1 / -1; } .figure .value { font-size: 1.25rem; }
  article > header, article > .turn, article > .earlier,  .sides { padding-left: 14px !important; padding-right: 14px !important; } .list > div { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } nav { display: none; } .card, article { break-inside: avoid; } }
`;
