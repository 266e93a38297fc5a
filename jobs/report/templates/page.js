"use strict";
// The page's behaviour: the table of statistics, and the browser of sets. All data is in #run; thumbnails of a set are
// in #thumbs-<n>, or in thumbs/<set>.js, which is loaded when the set is chosen.

const run = JSON.parse(document.getElementById("run").textContent);
const $ = (id) => document.getElementById(id);
const cellAt = new Map(run.cells.map((cell) => [`${cell[0]} ${cell[1]} ${cell[2]}`, cell]));
const seeds = [...new Set(run.cells.map((cell) => cell[2]))].sort((a, b) => a - b);
const blocks = new Map(), waiting = new Map();
const chosen = { set: 0, methods: new Set(run.methods.keys()), seeds: new Set(seeds.slice(0, 2)) };

const svdstory = window.svdstory = {
  // Called by thumbs/<set>.js.
  thumbs(n, block) { blocks.set(n, block); waiting.get(n)?.(); },
};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "style") element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Thumbnails of set n, as a promise of {unit key: [data URI, ...]}.
function thumbnails(n) {
  if (blocks.has(n)) return Promise.resolve(blocks.get(n));
  const inline = $(`thumbs-${n}`);
  if (inline) {
    blocks.set(n, JSON.parse(inline.textContent));
    return Promise.resolve(blocks.get(n));
  }
  return new Promise((resolve) => {
    waiting.set(n, () => resolve(blocks.get(n)));
    document.head.append(make("script", { src: `thumbs/${encodeURIComponent(run.sets[n].file)}.js`,
      onerror: () => resolve({}) }));
  });
}

// ---- the table of statistics

const table = { group: run.groups[0], axis: null, worst: false };

function drawTable() {
  const axes = Object.keys(run.axes);
  if (!axes.length) return;
  const label = (metric) => run.metrics.find((m) => m.name === metric);
  const tabs = make("div", { className: "tabs" }, ...run.groups.map((group) => make("button", {
    textContent: `${group} sets`, ariaPressed: String(group === table.group),
    onclick() { table.group = group; drawTable(); },
  })));
  const head = make("tr", {}, make("th", {}, "method"), ...axes.map((axis) => {
    const metric = label(run.axes[axis]);
    return make("th", { title: `${metric.name}: ${metric.better > 0 ? "higher" : "lower"} is better` }, make("button", {
      textContent: `${metric.label} ${metric.better > 0 ? "↑" : "↓"}`,
      onclick() { table.worst = table.axis === axis && !table.worst; table.axis = axis; drawTable(); },
    }), metric.random ? " (random weights)" : "");
  }));
  $("table").replaceChildren(tabs, make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head),
    make("tbody", {}, ...sortedMethods(axes).map((m) => tableRow(m, axes))))),
  make("p", { className: "setting" }, `Mean over ${setsOf(axes).length > 1 ? "n" : setsOf(axes)[0]} sets [95 % bootstrap interval]; difference to ${run.methods.find((m) => m.name === run.baseline).label} on the ` +
    "same sets and seeds, coloured where Holm-corrected p < 0.05. Click a heading to sort."));
}

function sortedMethods() {
  const order = [...run.methods.keys()];
  if (!table.axis) return order;
  const rows = run.statistics[table.group][table.axis];
  const sign = run.metrics.find((m) => m.name === run.axes[table.axis]).better * (table.worst ? 1 : -1);
  const value = (m) => rows[m][0] === null ? Infinity : sign * rows[m][0];
  return order.sort((a, b) => value(a) - value(b));
}

function tableRow(m, axes) {
  const rows = axes.map((axis) => run.statistics[table.group][axis][m]);
  const cells = rows.map((row, i) =>
    numberCell(row, run.metrics.find((x) => x.name === run.axes[axes[i]]).better, setsOf(axes).length > 1));
  return make("tr", { className: run.methods[m].name === run.baseline ? "baseline" : "" },
    make("td", { title: run.methods[m].name }, run.methods[m].label), ...cells);
}

// The different numbers of sets that the table's means are over: n stands beside each mean if there are several.
function setsOf(axes) {
  return [...new Set(axes.flatMap((axis) => run.statistics[table.group][axis].map((row) => row[7])))].filter(Boolean);
}

function numberCell([mean, low, high, gap, gapLow, gapHigh, p, sets], better, tellSets) {
  if (mean === null) return make("td", {}, "-");
  const digits = Math.max(...[mean, low, high].map(Math.abs)) < 0.05 ? 4 : 3;  // as in report.md
  const told = (x) => x.toFixed(digits).replace("-", "−").replace(/^−(?=[0.]*$)/, "");
  const signed = (x) => `+${told(x)}`.replace("+−", "−");
  const cell = make("td", {}, told(mean), " ");
  if (low !== null) cell.append(make("small", {}, `[${told(low)}, ${told(high)}]`));
  if (tellSets) cell.append(make("small", {}, ` n = ${sets}`));
  if (gap !== null) {
    const sure = p !== null && p < 0.05 ? (gap * better > 0 ? "better" : "worse") : "";
    const bounds = gapLow === null ? "" : ` [${signed(gapLow)}, ${signed(gapHigh)}]`;
    cell.append(" ", make("span", { className: sure, title: `difference${bounds}, Holm p = ${p}` }, signed(gap)));
  }
  return cell;
}

// ---- the browser of sets

function drawControls() {
  const groups = [...new Set(run.sets.map((s) => s.group))];
  $("set").append(...groups.map((group) => make("optgroup", { label: group || "sets" }, ...run.sets.flatMap((s, i) =>
    s.group === group ? [make("option", { value: i }, s.name)] : []))));
  $("set").onchange = () => choose(Number($("set").value));
  $("previous").onclick = () => choose(chosen.set - 1);
  $("next").onclick = () => choose(chosen.set + 1);
  const families = [...new Set(run.methods.map((m) => m.name.split("-")[0]))];
  const only = (name, test) => make("button", { textContent: name, onclick() {
    chosen.methods = new Set([...run.methods.keys()].filter((m) => test(run.methods[m].name)));
    drawMethods(); drawSet();
  } });
  $("methods").append(make("div", { className: "tabs" }, only("all", () => true), only("none", () => false),
    ...families.map((family) => only(family, (name) => name.split("-")[0] === family))), make("div", { id: "boxes" }));
  if (seeds.length > 1) {
    $("seeds").append(...seeds.map((seed) => make("label", {}, make("input", { type: "checkbox",
      checked: chosen.seeds.has(seed), onchange() { toggle(chosen.seeds, seed); drawSet(); } }), ` seed ${seed}`)));
  }
  drawMethods();
}

function drawMethods() {
  $("boxes").replaceChildren(...run.methods.map((method, m) => make("label", { title: method.name },
    make("input", { type: "checkbox", checked: chosen.methods.has(m),
      onchange() { toggle(chosen.methods, m); drawMethods(); drawSet(); } }), ` ${method.label}`)));
  $("method-count").textContent = `${chosen.methods.size} of ${run.methods.length} methods`;
}

function toggle(set, item) { if (!set.delete(item)) set.add(item); }

function choose(n) {
  chosen.set = (n + run.sets.length) % run.sets.length;
  $("set").value = chosen.set;
  drawSet();
}

async function drawSet() {
  const n = chosen.set, set = run.sets[n], block = await thumbnails(n);
  if (n !== chosen.set) return;                       // another set was chosen meanwhile
  const origin = [set.group, set.origin === "user" ? "" : set.origin].filter(Boolean).join(", ");
  $("about-set").replaceChildren(make("b", {}, `${set.lead} …`), ` ${origin} `,
    make("a", { href: `grids/${encodeURIComponent(set.file)}.png` }, "grid"), make("p", { className: "setting" }, set.why));
  $("rows").style.setProperty("--columns", set.settings.length);
  $("rows").style.setProperty("--shape", `1 / ${run.ratio}`);
  const shown = seeds.filter((seed) => chosen.seeds.has(seed));
  const heads = shown.map((seed) => make("div", { className: "strip" }, ...set.settings.map((setting) =>
    make("div", { className: "head" }, `… ${setting}`, seeds.length > 1 ? ` (seed ${seed})` : ""))));
  const rows = [make("div", { className: "row heads" }, make("div"), make("div", { className: "strips" }, ...heads))];
  let family = null;
  for (const m of [...chosen.methods].sort((a, b) => a - b)) {
    const method = run.methods[m], same = family === null || method.name.split("-")[0] === family;
    family = method.name.split("-")[0];
    rows.push(make("div", { className: same ? "row" : "row gap" },
      make("div", { className: "label", title: method.name }, method.label, make("small", {}, rowNumber(n, m, shown))),
      make("div", { className: "strips" }, ...shown.map((seed) => strip(n, m, seed, block)))));
  }
  $("rows").replaceChildren(...rows);
}

// The consistency of a row, as its label says it: mean over the seeds shown.
function rowNumber(n, m, shown) {
  const k = run.metrics.findIndex((metric) => metric.name === (run.axes.consistency ?? run.axes.alignment));
  const values = shown.map((seed) => cellAt.get(`${n} ${m} ${seed}`)?.[5][k]);
  if (k < 0 || !values.length || values.some((v) => v === null || v === undefined)) return "";
  return `${run.metrics[k].label} ${(values.reduce((a, b) => a + b) / values.length).toFixed(3)}`;
}

function strip(n, m, seed, block) {
  const cell = cellAt.get(`${n} ${m} ${seed}`);
  const strip = make("div", { className: "strip" });
  if (!cell) { strip.append(make("div", { className: "hole" }, "not planned")); return strip; }
  if (cell[4]) {
    const hole = make("button", { className: "cell hole", onclick: () => enlarge(cell, 0, block) }, cell[4]);
    strip.append(hinted(hole, () => hint(cell)));
    return strip;
  }
  (block[cell[3]] ?? run.sets[n].settings.map(() => "data:,")).forEach((uri, i) => {
    const image = make("img", { src: uri, alt: `${run.methods[m].label}: ${run.sets[n].prompts[i]}, seed ${seed}` });
    strip.append(hinted(make("button", { className: "cell", onclick: () => enlarge(cell, i, block) }, image),
      () => hint(cell, i)));
  });
  return strip;
}

function numbers(cell) {
  return run.metrics.map((metric, k) => `${metric.label}: ${cell[5][k] === null ? "-" : cell[5][k].toFixed(3)}` +
    (metric.random ? " (random weights)" : ""));
}

function hint(cell, i) {
  const what = i === undefined ? cell[4] : run.sets[cell[0]].prompts[i];
  const made = cell[6] === null ? "" : `${cell[6]} s on ${cell[7]}`;
  return [what, `${run.methods[cell[1]].name}, seed ${cell[2]}`, ...(cell[4] ? [] : numbers(cell)), made]
    .filter(Boolean).join("\n");
}

function hinted(element, text) {
  const tip = $("tip");
  element.onpointerenter = () => { tip.textContent = text(); tip.hidden = false; };
  element.onpointerleave = () => { tip.hidden = true; };
  element.onpointermove = (event) => {
    tip.style.left = `${Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  };
  return element;
}

// ---- full size

let open = null;

const quoted = (name) => (/^[\w.,+:@/-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

function command(cell) {
  return `${run.command} --sets ${quoted(run.sets[cell[0]].name)} --methods ${quoted(run.methods[cell[1]].name)} ` +
    `--seeds ${cell[2]} --out again-${cell[3]}`;
}

function enlarge(cell, i, block) {
  open = { cell, i, block };
  const image = $("large-image"), uris = block[cell[3]] ?? [];
  image.hidden = Boolean(cell[4]);
  if (!cell[4]) {
    image.onerror = () => { image.onerror = null; image.src = uris[i]; };      // the page without its run folder
    image.src = `../units/${cell[3].slice(0, 2)}/${cell[3]}/${i}.png`;
    image.alt = run.sets[cell[0]].prompts[i];
  }
  const line = (...parts) => make("p", {}, ...parts);
  $("large-text").replaceChildren(line(make("b", {}, cell[4] || run.sets[cell[0]].prompts[i])),
    line(`${run.methods[cell[1]].label} (${run.methods[cell[1]].name}), seed ${cell[2]}, unit ${cell[3]}`),
    ...(cell[4] ? [] : [line(numbers(cell).join(" · "))]), line("Make it again: ", make("code", {}, command(cell))));
  if (!$("large").open) $("large").showModal();
}

function step(by) {
  const count = run.sets[open.cell[0]].settings.length;
  if (!open.cell[4]) enlarge(open.cell, (open.i + by + count) % count, open.block);
}

$("close").onclick = () => $("large").close();
$("large").onclick = (event) => { if (event.target === $("large")) $("large").close(); };
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if ($("large").open) step(by); else choose(chosen.set + by);
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (!$("method-box").contains(event.target) && event.target.isConnected) $("method-box").open = false;
});

// The opening's pictures are shown larger by the same click as all others.
for (const cell of document.querySelectorAll("#opening .cell")) {
  const at = cellAt.get(cell.dataset.at), image = Number(cell.dataset.image);
  cell.onclick = async () => enlarge(at, image, await thumbnails(at[0]));
  hinted(cell, () => hint(at, image));
}

if (run.small) document.body.classList.add("small");
drawTable();
drawControls();
choose(0);
