"""How a page looks: light or dark as the reader's device has it, on a phone and on a desk."""

CSS = """
:root { color-scheme: light dark; --back: #fff; --fore: #1d2330; --soft: #5b6475; --line: #d9dde5;
  --card: #f6f7f9; --good: #1a7f4b; --bad: #c8372d; --c0: #2563c9; --c1: #c8372d; --c2: #1a7f4b;
  --c3: #b26a00; --c4: #7a3fb8; --c5: #0b7f8c; --c6: #b8327f; --c7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --back: #14171d; --fore: #e6e9ef; --soft: #9aa4b5;
  --line: #323946; --card: #1c212a; --good: #4cc38a; --bad: #ff7a6e; --c0: #6ea8ff; --c1: #ff7a6e;
  --c2: #4cc38a; --c3: #f0a840; --c4: #b88cf0; --c5: #4cc4d0; --c6: #f083b8; --c7: #a3abb8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 16px; background: var(--back);
  color: var(--fore); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 8px 0; } h2 { font-size: 1.2rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 16px 0 6px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 8px 0; font-size: .95rem; }
a { color: var(--c0); } section { border-top: 1px solid var(--line); padding: 16px 0; }
.note { color: var(--soft); font-size: .9rem; margin: 4px 0; max-width: 75ch; }
.state { background: var(--card); border-left: 4px solid var(--c3); padding: 6px 12px; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 16px; } .row > * { min-width: 0; } figure { margin: 0; }
figcaption { font-size: .9rem; margin-bottom: 4px; }
svg { display: block; width: 100%; max-width: 560px; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid, .axis { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); }
.box { fill: var(--card); stroke: var(--line); } .bar { fill: var(--c0); }
.mean { stroke: var(--c1); stroke-width: 2; } .line { fill: none; stroke-width: 2; }
.line.second { stroke-dasharray: 5 3; } .band { fill-opacity: .18; stroke: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .85rem; margin: 4px 0; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 5px; vertical-align: -1px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: 4px 12px 4px 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; } td { white-space: nowrap; }
td:first-child { white-space: normal; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft);
  font-weight: 600; } .facts td { text-align: left; overflow-wrap: anywhere; white-space: normal; }
.facts td:first-child { color: var(--soft); white-space: nowrap; }
.meter { display: inline-block; width: 60px; height: .7em; background: var(--line);
  border-radius: 2px; margin-left: 4px; } .meter i { display: block; height: 100%;
  background: var(--c0); border-radius: 2px; }
details { background: var(--card); border-radius: 6px; padding: 6px 12px; margin: 8px 0; }
summary { cursor: pointer; }
img { width: 44px; height: 44px; object-fit: cover; border-radius: 3px; display: block; }
.photos { display: flex; flex-wrap: wrap; gap: 4px; }
img.right { outline: 2px solid var(--good); } img.wrong { outline: 3px dashed var(--bad); }
.sheet .photos { gap: 8px; }
.sheet { display: grid; grid-template-columns: max-content 1fr; gap: 8px 14px; margin: 6px 0; }
.sheet .support { border-right: 2px solid var(--line); padding-right: 12px; max-width: 250px; }
.sheet h4 { grid-column: 1 / -1; margin: 4px 0 -4px; font-size: .85rem; font-weight: 500;
  color: var(--soft); }
.matrix td { text-align: center; padding: 3px; min-width: 2em; }
.matrix td:first-child { text-align: right; padding-right: 8px; position: sticky; left: 0;
  background: var(--back); }
.matrix span { display: block; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.matrix td span { max-width: 9em; } .matrix th span { max-height: 9em; }
.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  font-weight: 500; padding: 4px 2px; border: 0; }
.matrix a { display: block; color: inherit; text-decoration: none; border-radius: 3px; }
.matrix a.right { background: color-mix(in srgb, var(--good) var(--share), transparent); }
.matrix a.wrong { background: color-mix(in srgb, var(--bad) var(--share), transparent); }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr));
  gap: 12px; margin-top: 12px; } .cells figure { padding: 8px; border-radius: 6px;
  background: var(--card); } .cells figure:target { outline: 2px solid var(--c0); }
.cells .asked:not(:target) { display: none; }
.left td, .left th { text-align: left; } .words td { white-space: nowrap; }
.words td:not(:nth-child(2)), .words th:not(:nth-child(2)) {
  text-align: left; }
""" + '\n'.join(f'.k{i} {{ background: var(--c{i}); }} .line.k{i} {{ stroke: var(--c{i}); }} '
                f'.dot.k{i}, .band.k{i} {{ fill: var(--c{i}); }}' for i in range(8))
