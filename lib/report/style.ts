/** The page's style sheet: one column on a phone, two where there is room; light or dark as the reader's system says. */
export const style = `
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6773; --line: #d9dee5; --paper: #ffffff; --card: #f6f8fa; --main: #2f7fd1; --good: #2a9d6f; --bad: #d1603d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa5b1; --line: #333c47; --paper: #14181d; --card: #1c2229; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 44px 0 4px; padding-top: 18px; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 0 0 8px; }
p { margin: 6px 0 12px; max-width: 72ch; }
.soft { color: var(--soft); }
small, .small { font-size: .84rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0 0; padding: 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.figure b { display: block; font-size: 1.55rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 18px; align-items: start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; min-width: 0; overflow-x: auto; }
.card svg { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
td, th { padding: 4px 8px 4px 0; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars { display: grid; grid-template-columns: minmax(7.5em, max-content) 1fr max-content; gap: 5px 10px; align-items: center; font-size: .9rem; }
.bars i { display: block; height: 13px; border-radius: 3px; background: var(--main); min-width: 2px; }
.bars i.rules { background: var(--good); }
.bars .stack { display: flex; gap: 2px; }
.bars b { font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin: 0 .3em 0 .8em; vertical-align: -.05em; background: var(--main); }
.key.rules { background: var(--good); }
article { border: 1px solid var(--line); border-radius: 10px; margin: 14px 0; padding: 14px 16px; background: var(--card); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .92rem; max-height: 22em; overflow-y: auto; }
.side { border-left: 3px solid var(--line); padding: 2px 0 2px 12px; min-width: 0; }
.side.good { border-color: var(--good); } .side.bad { border-color: var(--bad); }
.turn { margin: 8px 0; } .turn > .small { color: var(--soft); }
details > summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.quote { border-left: 3px solid var(--main); padding: 2px 0 2px 12px; margin: 10px 0; }
.tag { display: inline-block; border: 1px solid var(--line); border-radius: 99px; padding: 0 9px; font-size: .78rem; margin-right: 6px; color: var(--soft); }
@media print { .text { max-height: none; } }
`;
