"use strict";
// What is shown, in which order and how: the page's controls.

const at = (id) => document.getElementById(id);
const filter = { name: "", predicted: "", status: "", answer: "" };
const swapped = new Set(); // pictures of which a tile shows the other view
const slots = Object.keys(run.maxima);
const ORDERS = [
  ["", "Order of the run", null, 1],
  ["name", "Name", null, 1],
  ["confidence-", "Confidence, highest first", "confidence", -1],
  ["confidence+", "Confidence, lowest first", "confidence", 1],
  ["completeness-", "Completeness error, largest first", "completeness", -1],
  ["completeness+", "Completeness error, smallest first", "completeness", 1],
  ["hot-", "Hot fraction, largest first", "hot", -1],
  ["hot+", "Hot fraction, smallest first", "hot", 1],
  ["disagreement-", "Disagreement, largest first", "disagreement", -1],
  ["disagreement+", "Disagreement, smallest first", "disagreement", 1],
].filter(([key]) => run.compared || !key.startsWith("disagreement"));
let order = ORDERS[0], view = "overlay", slot = slots[0];

/** The pictures that are wanted, in the wanted order. */
function selection() {
  const name = filter.name.toLowerCase();
  const found = [];
  for (let picture = 0; picture < columns.read; picture++) {
    if (filter.status !== "" && columns.status[picture] !== Number(filter.status)) continue;
    if (filter.predicted !== "" && columns.predicted[picture] !== Number(filter.predicted)) continue;
    if (filter.answer && (verdictOf(picture) ?? "unknown") !== filter.answer) continue;
    if (name && !columns.keys[picture].toLowerCase().includes(name)) continue;
    found.push(picture);
  }
  const [key, , column, sign] = order;
  if (key === "name") {
    found.sort((a, b) => (columns.keys[a] < columns.keys[b] ? -1 : columns.keys[a] > columns.keys[b] ? 1 : 0));
  } else if (column) {
    const missing = found.filter((picture) => Number.isNaN(columns[column][picture]));
    const known = found.filter((picture) => !Number.isNaN(columns[column][picture]));
    known.sort((a, b) => sign * (columns[column][a] - columns[column][b]) || a - b);
    return Uint32Array.from(known.concat(missing));
  }
  return Uint32Array.from(found);
}

function makeTile(picture) {
  const failed = columns.status[picture] === FAILED;
  const key = columns.keys[picture];
  const label = failed ? "Failed" : labelOf(columns.predicted[picture]);
  const share = failed ? "" : percent(columns.confidence[picture]);
  const frame = element("span", { class: "frame" });
  const tile = element("li", { class: failed ? "failed" : "" });
  const verdict = verdictOf(picture);
  const said = [label, share, verdict, key].filter(Boolean).join(", ");
  const open = element("button", { type: "button", class: "open" }, frame,
    element("span", { class: "line" }, element("strong", {}, label),
      verdict ? element("span", { class: `mark ${verdict}` }, verdict === "right" ? "✓" : "✗") : "",
      element("span", { class: "figure" }, share)),
    element("span", { class: "line minor" }, element("span", { class: "key" }, key),
      element("span", { class: "figure" }, order[2] && order[2] !== "confidence"
        ? digits(columns[order[2]][picture]) : "")));
  open.setAttribute("aria-label", failed ? `${said}: ${failureOf(picture).message}` : said);
  open.title = key;
  tile.append(open);
  if (failed) {
    frame.append(element("span", { class: "sentence" }, failureOf(picture).message));
    return tile;
  }
  const sheet = sheetOf(picture);
  frame.append(sheet);
  const swap = element("button", { type: "button", class: "swap", "aria-label": "Original",
                                   title: "Original or overlay (O)" }, "◐");
  swap.addEventListener("click", () => toggle(picture, tile));
  tile.append(swap);
  dressTile(tile, picture);
  return tile;
}

function dressTile(tile, picture) {
  const sheet = tile.querySelector(".sheet");
  if (!sheet) return;
  const original = (view === "original") !== swapped.has(picture);
  tile.querySelector(".swap").setAttribute("aria-pressed", original);
  const choose = slot === slots[0] ? null
    : (detail) => detail.maps.find((map) => `${map.method} ${map.layer}` === slot);
  // The canvas has a size once the tile is on the page.
  requestAnimationFrame(() => {
    if (tile.isConnected) dress(sheet, picture, choose, original).catch(() => sheet.classList.add("gone"));
  });
}

function toggle(picture, tile) {
  if (!swapped.delete(picture)) swapped.add(picture);
  dressTile(tile, picture);
}

/** A tile that is no longer in view: its picture need not be loaded any more. */
function dropTile(tile) {
  const sheet = tile.querySelector(".sheet");
  if (!sheet) return;
  sheet.ticket = null;
  sheet.firstChild.onerror = null;
  sheet.firstChild.removeAttribute("src");
}

const gallery = new Gallery(at("gallery"), makeTile, dropTile, (place) => detail.open(place));
const detail = new Detail(() => gallery.pictures, (place) => gallery.focus(place));

at("gallery").addEventListener("keydown", (event) => {
  const tile = event.target.closest("li");
  if (tile && event.key.toLowerCase() === "o" && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const picture = gallery.pictures[gallery.placeOf(tile)];
    if (columns.status[picture] !== FAILED) toggle(picture, tile);
  }
});

function update(keep = false) {
  const shown = selection();
  gallery.show(shown, keep);
  const reading = columns.read < run.pictures
    ? `, ${columns.read.toLocaleString("en")} read so far` : "";
  at("count").textContent =
    `${shown.length.toLocaleString("en")} of ${counted(run.pictures, "picture")}${reading}`;
  at("empty").hidden = shown.length > 0;
  showFigures();
}

function showFigures() {
  if (at("figures").open && columns.read) drawCharts(at("charts"), gallery.pictures);
}

let redrawing = false;

/** Draw what is in view again, once a frame. */
function redraw() {
  at("reset").disabled = Object.entries(drawnStyle()).every(([name, value]) => style[name] === value);
  if (redrawing) return;
  redrawing = true;
  requestAnimationFrame(() => {
    redrawing = false;
    for (const [picture, tile] of gallery.tiles) dressTile(tile, picture);
    detail.redraw();
  });
}

function setStyle(changes) {
  Object.assign(style, changes);
  for (const input of document.querySelectorAll("[data-style]")) {
    const value = style[input.dataset.style];
    if (input.type === "checkbox") input.checked = value;
    else input.value = value;
  }
  redraw();
}

function fillSelect(select, options) {
  select.append(...options.map(([value, text]) => element("option", { value }, text)));
}

function bindControls() {
  let pause;
  at("search").addEventListener("input", (event) => {
    clearTimeout(pause);
    pause = setTimeout(() => { filter.name = event.target.value.trim(); update(); }, 120);
  });
  for (const name of ["predicted", "status", "answer"]) {
    at(name).addEventListener("change", (event) => { filter[name] = event.target.value; update(); });
  }
  at("order").addEventListener("change", (event) => {
    order = ORDERS.find(([key]) => key === event.target.value);
    update();
  });
  at("all").addEventListener("click", () => {
    Object.assign(filter, { name: "", predicted: "", status: "", answer: "" });
    for (const id of ["search", "predicted", "status", "answer"]) at(id).value = "";
    update();
    gallery.focus(0);
  });
  for (const input of document.querySelectorAll("[data-style]")) {
    input.addEventListener("input", () => {
      const given = input.type === "checkbox" ? input.checked
        : input.type === "range" || !Number.isNaN(Number(input.value)) ? Number(input.value) : input.value;
      setStyle({ [input.dataset.style]: given });
    });
  }
  for (const radio of document.querySelectorAll("[name=view]")) {
    radio.addEventListener("change", () => { view = radio.value; swapped.clear(); redraw(); });
  }
  at("slot").addEventListener("change", (event) => { slot = event.target.value; redraw(); });
  at("reset").addEventListener("click", () => setStyle(drawnStyle()));
  at("figures").addEventListener("toggle", showFigures);
}

function fillControls() {
  fillSelect(at("status"), [["", "All"], [SHOWN, "Explained"], [BLANK, "Nothing speaks for the class"],
                            [FAILED, "Failed"]]);
  fillSelect(at("order"), ORDERS);
  fillSelect(at("slot"), slots.map((each) => [each, run.layers.length > 1 ? each : each.split(" ")[0]]));
  at("slots").hidden = slots.length < 2;
  at("answers").hidden = run.truth === null;
  for (const select of document.querySelectorAll("select[data-style=colormap]")) {
    fillSelect(select, Object.keys(run.colormaps).map((name) => [name, name]));
  }
  const scale = run.drawing.scale;
  fillSelect(document.querySelector("[data-style=scale]"), [["image", "of each map"], ["run", "of the run"], ...(typeof scale === "number" ? [[scale, digits(scale)]] : [])]);
  for (const control of document.querySelectorAll(".live")) control.hidden = !run.mapped;
}

/** The classes that were predicted, the most frequent first. */
function fillClasses() {
  const counts = new Map();
  for (const index of columns.predicted) {
    if (index >= 0) counts.set(index, (counts.get(index) ?? 0) + 1);
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  fillSelect(at("predicted"), sorted.map(([index, count]) =>
    [index, `${labelOf(index)} (${count.toLocaleString("en")})`]));
}

function describe() {
  const { methods, layers, missing, running } = run;
  at("title").textContent = run.model;
  const done = run.pictures - run.failed;
  at("facts").textContent = [
    counted(run.pictures, "picture"), run.failed ? `${done.toLocaleString("en")} explained, `
      + `${run.failed.toLocaleString("en")} failed` : "", methods.join(", "),
    `at ${layers.map((layer) => layer.name).join(", ")}`, `target ${run.target}`,
    run.weights === "DEFAULT" ? "" : `weights ${run.weights}`,
    run.smoothing.length ? `smoothed: ${run.smoothing.join(", ")}` : "",
  ].filter(Boolean).join(" · ");
  if (run.unfinished) {
    at("notice").hidden = false;
    const why = running ? "still running, or was killed"
      : missing ? `missing ${counted(missing, "shard")}` : "stopped before its end";
    at("notice").textContent = `The run is not finished (${why}): this page shows what was committed `
      + `when it was made, ${run.made.slice(0, 16).replace("T", " ")} UTC.`;
  }
  at("verdict").append(...[...run.verdict, ...run.remarks].map((line) => element("li", {}, line)));
  at("made").textContent = `Run started ${run.started.slice(0, 16).replace("T", " ")} UTC, page made `
    + `${run.made.slice(0, 16).replace("T", " ")} UTC by camcli ${run.version}.`;
  const meanings = [
    ["Confidence", "The probability of the predicted class."],
    ["Completeness error", "By how much the sum of a map misses the change of the score, relative to "
      + "that change; the largest of the picture's maps. Absent where sums mean nothing."],
    ["Hot fraction", "The share of the picture that is at 15 % of the map's maximum or more; of the "
      + "picture's first map."],
    ["Colours", "Interpolated from the raw map as the overlays are. Dimmed: what the network did not see. "
      + "Threshold: what is weaker than this share of the hottest value is not coloured."],
  ];
  if (run.compared) {
    meanings.push(["Disagreement", "One minus the cosine between the positive parts of two methods' maps "
      + "for the same class; the mean over all pairs of a picture's methods. 0: the same map."]);
  }
  if (run.truth !== null) {
    meanings.push(["Right, wrong", `Whether the predicted class is the given one (${run.truth}).`]);
  }
  for (const [what, text] of meanings) at("meanings").append(element("dt", {}, what), element("dd", {}, text));
}

function suitWidth() {
  const wide = window.matchMedia("(min-width: 48rem)");
  const suit = () => { for (const panel of document.querySelectorAll(".panel, #figures")) panel.open = wide.matches; };
  wide.addEventListener("change", suit);
  suit();
}

async function start() {
  fillControls();
  bindControls();
  describe();
  suitWidth();
  setStyle(drawnStyle());
  while (columns.read < run.pictures) {
    await readColumns();
    const last = columns.read === run.pictures;
    if (columns.chunks.length === 1 || last) {
      if (last) fillClasses();
      update(columns.chunks.length > 1);
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  if (!run.pictures) update();
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  at("notice").hidden = false;
  at("notice").textContent = `The data of this page cannot be read: ${error.message}`;
});
