// The style and the script of report.html: everything that makes the page look and move, nothing that it says.
#pragma once

namespace dapt::report {

/// Light, dark and printed; colours are those of a palette that colour-blind people can tell apart, and nothing is told by colour alone.
inline constexpr const char* page_style = R"css(
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --accent: #0b6bcb;
  --good: #0a7a4b; --good-fill: #bfe6d2; --new-fill: #0a7a4b; --new-ink: #ffffff; --bad: #b3400a; --lost-fill: #ffd9b8; --lost-ink: #7a2900;
  --s0: #0072b2; --s1: #d55e00; --s2: #00805c; --s3: #a6418f; --s4: #8a6a00; --s5: #4d4d4d; --s6: #3b8fc4; --s7: #882255; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1d2127; --ink: #e6e9ed; --soft: #a0a9b3; --line: #363c44; --accent: #6cb2ff;
  --good: #5fd0a0; --good-fill: #1d4a38; --new-fill: #5fd0a0; --new-ink: #06231a; --bad: #ff9d66; --lost-fill: #5a2f14; --lost-ink: #ffc8a3;
  --s0: #58b0ea; --s1: #ff8a3d; --s2: #3fc99a; --s3: #e08ccc; --s4: #d9b33c; --s5: #c2c2c2; --s6: #9fd4f5; --s7: #e57aa6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; }
h3 { font-size: 1rem; margin: 20px 0 4px; }
p { margin: 4px 0 12px; max-width: 100ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
#script-error { border: 2px solid var(--bad); padding: 8px 12px; border-radius: 6px; }
.values .unmeasured { white-space: normal; }
.unmeasured { color: var(--soft); font-style: italic; font-size: .85rem; font-weight: 400; }
.up { color: var(--good); font-weight: 600; } .down { color: var(--bad); font-weight: 600; } .same { color: var(--soft); }

.verdict { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--accent); border-radius: 8px; padding: 14px 18px; margin: 18px 0; }
.verdict h2 { margin: 0 0 10px; font-size: 1.3rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px 18px; margin: 0 0 6px; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); } .tiles small > span { white-space: nowrap; }

.scroll { overflow-x: auto; margin: 8px 0; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
.values { width: 100%; font-size: .92rem; }
.values th, .values td { padding: 7px 10px; border-top: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap; }
.values thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .82rem; white-space: normal; vertical-align: bottom; }
.values tbody th { text-align: left; font-weight: 600; }
.values tr > :first-child { position: sticky; left: 0; background: var(--paper); z-index: 1; text-align: left; border-right: 1px solid var(--line); min-width: 150px; max-width: 230px; white-space: normal; overflow-wrap: break-word; }
.values tr.best > * { background: color-mix(in srgb, var(--accent) 9%, var(--paper)); }
.values small { display: block; font-size: .8rem; font-weight: 400; }
.values .top { font-weight: 700; } .values .top::after { content: " \2605"; color: var(--accent); }
.values.left td, .values.left th { text-align: left; white-space: normal; min-width: 96px; overflow-wrap: break-word; }
.fit { width: fit-content; max-width: 100%; }
.bar { display: block; height: 4px; margin-top: 4px; border-radius: 2px; background: linear-gradient(to right, var(--soft) var(--share), var(--line) 0); }

.controls { display: flex; flex-wrap: wrap; gap: 8px 22px; align-items: center; margin: 8px 0; font-size: .92rem; }
.controls fieldset { border: 0; margin: 0; padding: 0; display: flex; gap: 12px; } .controls legend { float: left; color: var(--soft); margin-right: 10px; }
.controls select, .controls input { accent-color: var(--accent); font: inherit; }
#legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 6px 0; font-size: .92rem; }
#legend svg { width: 34px; height: 10px; margin-right: 6px; vertical-align: middle; }
.plot { position: relative; margin: 0; } .plot svg { display: block; width: 100%; touch-action: pan-y; }
.plot svg text { fill: var(--soft); font-size: 13px; } .plot svg .label { font-weight: 600; }
.gridline { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .raw { fill: none; stroke-width: 1; opacity: .28; }
#hover { position: absolute; pointer-events: none; background: var(--paper); border: 1px solid var(--soft); border-radius: 6px; padding: 6px 10px; font-size: .85rem; box-shadow: 0 2px 8px rgb(0 0 0 / .2); white-space: nowrap; }
#hover td { padding: 0 0 0 10px; text-align: right; } #hover td:first-child { padding: 0; text-align: left; font-weight: 600; }

.grid { font-size: .8rem; }
.grid th, .grid td { padding: 0; }
.grid thead th { font-weight: 400; color: var(--soft); }
.grid .id { writing-mode: vertical-rl; transform: rotate(180deg); padding: 4px 0; font-size: .72rem; line-height: 1; text-align: left; }
.grid .group { text-align: left; padding: 4px 8px; font-weight: 600; border-left: 1px solid var(--line); white-space: nowrap; }
.grid tbody th { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: left; padding: 3px 10px; min-width: 92px; max-width: 150px; line-height: 1.2; overflow-wrap: anywhere; border-right: 1px solid var(--line); }
.grid .tally { padding: 0 7px; text-align: left; white-space: nowrap; border-left: 1px solid var(--line); }
.grid td:not(.tally), .grid thead th { text-align: center; }
.cell { display: inline-block; width: 16px; height: 20px; line-height: 20px; margin: 1px .5px; border-radius: 3px; text-align: center; color: var(--soft); cursor: default; font-size: .75rem; }
.cell.narrow { font-size: .6rem; }
.cell.right { background: var(--good-fill); color: var(--ink); }
.cell.new { background: var(--new-fill); color: var(--new-ink); font-weight: 700; }
.cell.lost { background: var(--lost-fill); color: var(--lost-ink); font-weight: 700; box-shadow: inset 0 0 0 1.5px var(--bad); }
.cell.none { font-style: italic; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 6px 0 8px; font-size: .88rem; }
.detail { min-height: 3.2em; margin: 8px 0 0; padding: 8px 12px; background: var(--card); border-radius: 6px; font-size: .9rem; overflow-wrap: anywhere; max-width: none; white-space: pre-line; }
dl.facts { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 2px 18px; font-size: .92rem; margin: 6px 0; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 40px; }
@media (max-width: 600px) { main { padding: 16px 12px 48px; } .values tr > :first-child { min-width: 112px; max-width: 130px; } .values th, .values td { padding: 6px 8px; } .tiles { grid-template-columns: 1fr 1fr; }
  .tiles dd { font-size: 1.15rem; } .controls fieldset { flex-wrap: wrap; } .grid tbody th { max-width: 100px; } dl.facts { grid-template-columns: 1fr; } dl.facts dd { margin-bottom: 6px; } }
@media print { body { font-size: 10pt; } main { max-width: none; padding: 0; } .controls, .detail { display: none; } .scroll { overflow: visible; border: 0; }
  section, figure, tr { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } .values { font-size: 7.5pt; } .values th, .values td { padding: 3px 4px; }
  .cell { width: 10px; height: 13px; line-height: 13px; margin: .5px 0; font-size: 6.5pt; } .cell.narrow { font-size: 4.5pt; } .grid { font-size: 7pt; } .grid .id { font-size: 5.5pt; } }
)css";

/// Runs first: whatever goes wrong later is told on the page, and in <html data-error> for programs.
inline constexpr const char* page_guard = R"js(
addEventListener("error", event => {
  document.documentElement.dataset.error = event.message;
  const note = document.getElementById("script-error");
  if (note) { note.hidden = false; note.textContent = "A part of this page could not be drawn: " + event.message; }
});
)js";

/// Draws the curves and shows what is in a cell. Sets <html data-drawn> at its end.
inline constexpr const char* page_script = R"js(
const byId = id => document.getElementById(id);
const svgElement = (parent, name, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
};
const dashes = ["none", "9 3", "3 3", "12 3 3 3", "6 2 2 2 2 2", "16 4"];
const look = index => ({ stroke: `var(--s${index % 8})`, "stroke-dasharray": dashes[index % dashes.length] });
const commas = value => Math.round(value).toLocaleString("en-US");
const clock = seconds => {
  const s = Math.round(seconds), pad = n => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${pad(s % 60)}` : `${Math.floor(s / 3600)}:${pad(Math.floor(s / 60) % 60)}:${pad(s % 60)}`;
};
const short = value => value >= 1e6 ? +(value / 1e6).toFixed(2) + "M" : value >= 1e4 ? +(value / 1e3).toFixed(1) + "k" : commas(value);
const number = value => value === 0 ? "0" : Math.abs(value) < 1e-3 ? value.toExponential(2) : Math.abs(value) >= 1e4 ? commas(value) : String(+value.toPrecision(4));
const axes = { step: ["optimizer steps", commas, "step "], tokens: ["tokens trained on", short, "token "], seconds: ["time since the start of training (min:s)", clock, ""] };

// `whole`: only at whole numbers, for labels that are rounded to them.
const niceTicks = (low, high, wanted, whole, steps) => {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = whole && rough <= 1 ? 1 : (steps || [1, 2, 2.5, 5, 10].map(n => n * power).filter(n => !whole || Number.isInteger(n))).find(n => n >= rough) || Math.ceil(rough / 3600) * 3600;
  const ticks = [];
  const first = Math.ceil(low / step - 1e-9), count = Math.min(Math.floor(high / step + 1e-9) - first + 1, 100);
  for (let i = 0; i < count; i++) ticks.push((first + i) * step);
  return ticks;
};
const minuteSteps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
// Exponential moving average with the start's bias taken out; a step without a value leaves a gap.
const smooth = (values, weight) => {
  let mean = 0, share = 0;
  return values.map(value => value === null ? null : (mean = weight * mean + (1 - weight) * value, share = weight * share + 1 - weight, mean / share));
};

// Of a measure of steps, or of one that was taken now and then, an object with its own steps.
const seriesOf = (setting, name) => Array.isArray(setting[name]) ? { ...setting, value: setting[name] } : setting[name] || { step: [], tokens: [], seconds: [], value: [] };

const drawCurves = () => {
  const source = byId("curve-data");
  if (!source) return;
  const settings = JSON.parse(source.textContent), plot = byId("plot"), svg = byId("curves"), hover = byId("hover"), hidden = new Set();
  const chosen = name => document.querySelector(`input[name=${name}]:checked`).value;
  let frame = null;

  const draw = () => {
    const xName = chosen("x"), yName = byId("measure").value, isEvaluation = yName.startsWith("eval/"), weight = isEvaluation ? 0 : +byId("smoothing").value;
    const width = Math.max(300, plot.clientWidth || 800), height = width < 600 ? 320 : 420, wide = width >= 760;
    const left = 64, right = wide ? 190 : 14, top = 12, bottom = 48;
    byId("smoothing-value").textContent = weight === 0 ? "off" : weight.toFixed(2);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    hover.hidden = true;
    const lines = settings.map((setting, index) => {
      const series = seriesOf(setting, yName);
      return { name: setting.name, index, step: series.step, x: series[xName], raw: series.value, value: smooth(series.value, weight) };
    }).filter(line => !hidden.has(line.index));
    const xs = lines.flatMap(line => line.x), inner = lines.flatMap(line => line.raw.filter(v => v !== null)).sort((a, b) => a - b);
    if (!inner.length) { svgElement(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing was measured"); return; }
    const smoothed = lines.flatMap(line => line.value.filter(v => v !== null)), at = share => inner[Math.round(share * (inner.length - 1))];
    const xLow = xName === "step" ? xs.reduce((a, b) => Math.min(a, b)) : 0, xHigh = xs.reduce((a, b) => Math.max(a, b), xLow + 1e-9);
    let yLow = Math.min(at(.01), smoothed.reduce((a, b) => Math.min(a, b))), yHigh = Math.max(at(.99), smoothed.reduce((a, b) => Math.max(a, b)));
    const most = Math.max(Math.abs(yLow), Math.abs(yHigh)), flat = yHigh - yLow <= 1e-9 * most;  // the mean of equal values rounds
    const margin = (flat ? most || 1 : yHigh - yLow) * .06;
    yLow -= margin; yHigh += margin;
    const X = v => left + (v - xLow) / (xHigh - xLow || 1) * (width - left - right), Y = v => top + (yHigh - v) / (yHigh - yLow) * (height - top - bottom);
    for (const v of niceTicks(yLow, yHigh, 7, false)) {
      svgElement(svg, "line", { class: "gridline", x1: left, x2: width - right, y1: Y(v), y2: Y(v) });
      svgElement(svg, "text", { x: left - 8, y: Y(v) + 4, "text-anchor": "end" }, number(+v.toPrecision(12)));
    }
    for (const v of niceTicks(xLow, xHigh, width < 600 ? 4 : 8, true, xName === "seconds" && xHigh > 10 ? minuteSteps : null)) {
      svgElement(svg, "line", { class: "axis", x1: X(v), x2: X(v), y1: height - bottom, y2: height - bottom + 5 });
      svgElement(svg, "text", { x: X(v), y: height - bottom + 20, "text-anchor": "middle" }, axes[xName][1](v));
    }
    svgElement(svg, "line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
    svgElement(svg, "text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, axes[xName][0]);
    svgElement(svg, "text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, byId("measure").selectedOptions[0].textContent);
    svgElement(svgElement(svg, "clipPath", { id: "inside" }), "rect", { x: left, y: top - 2, width: width - left - right + 2, height: height - top - bottom + 4 });
    const inside = svgElement(svg, "g", { "clip-path": "url(#inside)" });
    const path = (line, values, name) => {
      let open = false, points = 0, d = "";
      values.forEach((v, i) => { if (v === null) { open = false; return; } d += `${open ? "L" : "M"}${X(line.x[i]).toFixed(1)} ${Y(v).toFixed(1)}`; open = true; points++; });
      const drawn = svgElement(inside, "path", { class: name, d, "data-setting": line.name, "data-points": points, ...look(line.index) });
      if (name === "raw") drawn.removeAttribute("stroke-dasharray");
      return points;
    };
    if (weight > 0) for (const line of lines) path(line, line.raw, "raw");
    for (const line of lines) path(line, line.value, "curve");
    if (isEvaluation) for (const line of lines) line.value.forEach((v, i) => { if (v !== null) svgElement(inside, "circle", { cx: X(line.x[i]).toFixed(1), cy: Y(v).toFixed(1), r: 3, fill: `var(--s${line.index % 8})` }); });
    if (wide) {
      const labels = lines.map(line => { const last = line.value.findLastIndex(v => v !== null); return last < 0 ? null : { line, y: Y(line.value[last]), x: X(line.x[last]) }; }).filter(Boolean).sort((a, b) => a.y - b.y);
      if (top + 6 + 17 * (labels.length - 1) > height - bottom) labels.length = 0;  // more than fit: the legend has them
      labels.forEach((label, i) => { label.at = Math.max(label.y, top + 6, i ? labels[i - 1].at + 17 : 0); });
      for (let i = labels.length - 1, limit = height - bottom; i >= 0; i--, limit -= 17) labels[i].at = Math.min(labels[i].at, limit);
      for (const { line, y, x, at } of labels) {
        svgElement(svg, "line", { x1: x + 3, y1: y, x2: width - right + 10, y2: at, stroke: `var(--s${line.index % 8})`, opacity: .5 });
        const text = svgElement(svg, "text", { class: "label", x: width - right + 14, y: at + 4, style: `fill: var(--s${line.index % 8})` }, line.name.length > 22 ? line.name.slice(0, 21) + "\u2026" : line.name);
        svgElement(text, "title", {}, line.name);
      }
    }
    const cross = svgElement(svg, "line", { class: "axis", y1: top, y2: height - bottom, x1: -9, x2: -9 });
    frame = { lines, X, xLow, xHigh, left, right, width, xName, cross };
  };

  let position = null;
  const point = x => {
    if (!frame) return;
    position = Math.min(frame.xHigh, Math.max(frame.xLow, x));
    const rows = frame.lines.map(line => {
      let best = -1;
      line.x.forEach((v, i) => { if (line.value[i] !== null && (best < 0 || Math.abs(v - position) < Math.abs(line.x[best] - position))) best = i; });
      return best < 0 ? null : { line, value: line.value[best], raw: line.raw[best], step: line.step[best] };
    }).filter(Boolean).sort((a, b) => b.value - a.value);
    frame.cross.setAttribute("x1", frame.X(position)); frame.cross.setAttribute("x2", frame.X(position));
    hover.replaceChildren();
    const [, format, unit] = axes[frame.xName];
    hover.append(unit + format(position));
    const table = hover.appendChild(document.createElement("table"));
    for (const row of rows) {
      const tr = table.insertRow();
      tr.insertCell().textContent = row.line.name;
      tr.cells[0].style.color = `var(--s${row.line.index % 8})`;
      tr.insertCell().textContent = number(row.value);
      tr.insertCell().textContent = `raw ${number(row.raw)}`;
      tr.insertCell().textContent = `step ${commas(row.step)}`;
    }
    hover.hidden = false;
    const scale = plot.clientWidth / frame.width, x0 = frame.X(position) * scale;
    hover.style.left = Math.max(0, Math.min(x0 + 14, plot.clientWidth - hover.offsetWidth)) + "px";
    if (x0 + 14 + hover.offsetWidth > plot.clientWidth && x0 - 14 - hover.offsetWidth > 0) hover.style.left = x0 - 14 - hover.offsetWidth + "px";
    hover.style.top = "14px";
  };
  const leave = () => { hover.hidden = true; if (frame) { frame.cross.setAttribute("x1", -9); frame.cross.setAttribute("x2", -9); } };
  const follow = event => {
    if (!frame) return;
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * frame.width / box.width;
    point(frame.xLow + (x - frame.left) / (frame.width - frame.left - frame.right) * (frame.xHigh - frame.xLow));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !frame) return;
    event.preventDefault();
    point((position ?? frame.xLow) + step * (frame.xHigh - frame.xLow) / 50);
  });

  settings.forEach((setting, index) => {
    const label = byId("legend").appendChild(document.createElement("li")).appendChild(document.createElement("label"));
    const box = label.appendChild(document.createElement("input"));
    box.type = "checkbox"; box.checked = true;
    box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](index); draw(); });
    svgElement(svgElement(label, "svg", { viewBox: "0 0 34 10", "aria-hidden": "true" }), "line", { x1: 0, x2: 34, y1: 5, y2: 5, "stroke-width": 2.5, ...look(index) });
    label.append(setting.name);
  });
  for (const input of document.querySelectorAll(".controls input, .controls select")) input.addEventListener("input", draw);
  let drawnWidth = -1;
  new ResizeObserver(() => { if (plot.clientWidth !== drawnWidth) { drawnWidth = plot.clientWidth; draw(); } }).observe(plot);
  drawnWidth = plot.clientWidth;
  draw();
};

// One cell of a grid is in the tab order; the arrow keys move between cells.
const watchGrids = () => {
  for (const grid of document.querySelectorAll(".grid")) {
    const detail = byId(grid.dataset.detail), rows = [...grid.tBodies[0].rows].map(row => [...row.querySelectorAll(".cell")]);
    const show = cell => { if (cell) detail.textContent = cell.title; };
    if (rows[0] && rows[0][0]) rows[0][0].tabIndex = 0;
    for (const event of ["pointerover", "focusin", "click"]) grid.addEventListener(event, e => show(e.target.closest(".cell")));
    grid.addEventListener("keydown", event => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const r = rows.findIndex(row => row.includes(event.target));
      if (!move || r < 0) return;
      event.preventDefault();
      const next = rows[r + move[0]]?.[rows[r].indexOf(event.target) + move[1]];
      if (next) { event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    });
  }
};
drawCurves();
watchGrids();
document.documentElement.dataset.drawn = "yes";
)js";

}  // namespace dapt::report
