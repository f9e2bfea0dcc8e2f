/** The page's style sheet. Colours are variables, for light, dark and paper. */
export const STYLE = `
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2329;--soft:#5b6670;--line:#dfe3e6;--grid:#eceff1;
--rd:#1f6fd6;--rp:#7a3fd0;--rb:#0d8a96;--rl:#1a8f4c;--fu:#f0b23c;--pu:#c3a6ee;--du:#a9ced6;--no:#e6e9ec;--bad:#c62f3b;
--l0:#3b6fb6;--l1:#d9822b;--l2:#3f9a5a;--l3:#b4466c;--l4:#7d62c1;--l5:#8a6d3b;--l6:#2b9aa0;--l7:#c65d4b;--l8:#7a8b2e;--l9:#6b7785}
@media (prefers-color-scheme:dark){:root{--bg:#14181c;--card:#1c2228;--ink:#e6eaed;--soft:#9aa6b0;--line:#323b44;--grid:#28313a;
--rd:#5c9dff;--rp:#ab80f5;--rb:#3fbecb;--rl:#49c07c;--fu:#e0a32e;--pu:#65488f;--du:#2f5b66;--no:#2b343c;--bad:#ff6b76;
--l0:#6f9fe0;--l1:#eba052;--l2:#67bd80;--l3:#dc7299;--l4:#a690e4;--l5:#b99a66;--l6:#52c2c8;--l7:#e58674;--l8:#a5b655;--l9:#95a2b0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:1240px;margin:0 auto;padding:0 28px}
header{padding-top:30px}
h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 4px}
.sub{color:var(--soft);margin:4px 0 0;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:18px 0}
.lead{color:var(--soft);margin:0 0 12px;max-width:80ch}
.note{color:var(--soft);font-size:13.5px;margin:8px 0 0}
.warn{border-left:4px solid var(--fu);padding:6px 12px;margin:14px 0 0;background:var(--card)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin:20px 0 0;padding:0}
.cards div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.cards dt{color:var(--soft);font-size:13px}
.cards dd{margin:0;font-size:25px;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.3}
.cards dd+dd{font-size:13px;font-weight:400;color:var(--soft)}
svg{display:block;width:100%;height:auto}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:6px 0 12px;font-size:13.5px;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:6px}
.legend svg{width:auto;flex:none}
.legend b{color:var(--ink);font-weight:600}
.axis{font-size:11px;fill:var(--soft)}.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--grid);fill:none}.base{stroke:var(--line);fill:none}.frame{fill:none;stroke:var(--grid)}
.cut{fill:var(--grid)}
.line-fetched,.line-read{fill:none;stroke-width:2.2;stroke-linejoin:round}
.line-fetched{stroke:var(--rd)}.area-fetched{fill:var(--rd);opacity:.1}.line-read{stroke:var(--rl)}
.dot-wait,.dot-local{fill:none;stroke-linecap:round;stroke-width:4}.legend .dot-wait,.legend .dot-local{stroke-width:7}
.dot-wait{stroke:var(--rd)}.dot-local{stroke:var(--rl)}
.c-open{fill:var(--l9)}.c-read{fill:var(--rd)}.c-prefetch{fill:var(--rp)}.c-download{fill:var(--rb)}.c-failed{fill:var(--bad)}
.rd{fill:var(--rd)}.rp{fill:var(--rp)}.rb{fill:var(--rb)}.rl{fill:var(--rl)}.fu{fill:var(--fu)}.pu{fill:var(--pu)}.du{fill:var(--du)}.no{fill:var(--no)}
${Array.from({ length: 10 }, (_, i) => `.l${i}{fill:var(--l${i})}`).join('')}.faint{opacity:.28}
.map label{display:inline-block;padding:3px 12px;border:1px solid var(--line);border-radius:99px;font-size:13.5px;cursor:pointer;margin-right:4px}
.map input{position:absolute;opacity:0}
.map input:checked+label{background:var(--ink);color:var(--card);border-color:var(--ink)}
.map input:focus-visible+label{outline:2px solid var(--rd);outline-offset:2px}
#map-state:checked~.by-layer,#map-state:checked~svg .by-layer,#map-layer:checked~.by-state,#map-layer:checked~svg .by-state{display:none}
.over rect{fill:transparent}.over rect:hover{stroke:var(--ink);stroke-width:1.5}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:13.5px;padding-bottom:6px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:13px;border-bottom:1px solid var(--line);padding:5px 10px 5px 0;white-space:nowrap}
td{border-bottom:1px solid var(--grid);padding:5px 10px 5px 0;vertical-align:top}
th.n,td.n{text-align:right;white-space:nowrap;padding-right:22px}
td.path,td.code{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,monospace;font-size:13px;overflow-wrap:anywhere}
.bar{display:inline-block;vertical-align:middle;width:90px;height:9px;border-radius:3px;margin-right:8px}
.bar .back{fill:var(--no)}
.key{width:12px;height:12px;display:inline-block;vertical-align:-1px;margin-right:6px}
details summary{cursor:pointer;color:var(--soft)}
footer{color:var(--soft);font-size:13px;padding-bottom:36px}
@media print{body{background:#fff;font-size:11px}main,header,footer{max-width:none;padding:0}
section{border:0;padding:10px 0;break-inside:auto}h2,.legend,svg,tr{break-inside:avoid}h2{break-after:avoid}
svg *{print-color-adjust:exact;-webkit-print-color-adjust:exact}.map label{display:none}}
`;
