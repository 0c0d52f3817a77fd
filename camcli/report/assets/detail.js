"use strict";
// One picture: all its maps side by side, and its record.

const style = { alpha: 0, threshold: 0, colormap: "", scale: "image", signed: false };
const unreachable = new Set();

/** How the run drew its overlays, as far as this page can draw like it. */
function drawnStyle() {
  const { alpha, colormap, scale, signed } = run.drawing;
  return { alpha, threshold: 0, colormap, scale, signed };
}

function asDrawn() {
  if (!run.mapped) return true;
  if (!run.drawn || run.embedded) return false;
  return Object.entries(drawnStyle()).every(([name, value]) => style[name] === value);
}

/** An empty sheet: a picture and a map over it, as large as a frame of 4:3 allows. */
function sheetOf(picture) {
  const sheet = element("span", { class: "sheet" });
  const aspect = columns.width[picture] / columns.height[picture];
  sheet.style.width = `${100 * Math.min(1, 0.75 * aspect)}%`;
  sheet.style.aspectRatio = aspect;
  const image = element("img", { alt: "", decoding: "async", draggable: "false" });
  sheet.append(image, element("canvas", { "aria-hidden": "true", hidden: "" }));
  return sheet;
}

/**
 * Show a picture on its sheet: the original alone, the run's overlay, or a map drawn on the
 * original. `choose` picks the map from the record. The latest call on a sheet wins.
 */
async function dress(sheet, picture, choose, original) {
  const ticket = (sheet.ticket = {});
  const [image, canvas] = sheet.children;
  const first = choose === null ? firstOverlayOf(picture) : null;
  if (asDrawn() && !original && first !== null) {
    canvas.hidden = true;
    load(sheet, image, first, null);
    return;
  }
  const detail = await detailOf(picture);
  if (sheet.ticket !== ticket) return;
  const map = choose === null ? detail.maps[0] : choose(detail);
  const overlay = map?.href ?? null;
  const live = !original && !asDrawn() && Boolean(map?.held);
  if (!original && !live && overlay !== null) load(sheet, image, overlay, null);
  else if (run.embedded) load(sheet, image, detail.thumbnail, null);
  else load(sheet, image, unreachable.has(picture) ? null : sourceOf(picture), () => {
    unreachable.add(picture);
    if (sheet.ticket === ticket) dress(sheet, picture, choose, original);
  });
  if (unreachable.has(picture) && overlay !== null) {
    canvas.hidden = true;
    load(sheet, image, overlay, null);
    sheet.classList.add("gone");
    return;
  }
  canvas.hidden = !live;
  if (live) paint(canvas, picture, detail, map, style);
}

function load(sheet, image, href, failed) {
  sheet.classList.toggle("gone", href === null);
  image.onerror = () => { image.hidden = true; failed?.(); };
  if (href === null) {
    image.removeAttribute("src");
    image.hidden = true;
  } else if (image.getAttribute("src") !== href) {
    image.hidden = false;
    image.src = href;
  }
}

class Detail {
  /** `pictures()` are those that the gallery shows, `closed(at)` is told where the reader left. */
  constructor(pictures, closed) {
    this.pictures = pictures;
    this.dialog = document.getElementById("detail");
    this.body = document.getElementById("detail-body");
    this.sheets = [];
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    document.getElementById("close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => closed(this.at));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select")) return;
      if (event.key === "ArrowLeft") this.step(-1);
      else if (event.key === "ArrowRight") this.step(1);
      else return;
      event.preventDefault();
    });
  }

  async open(at) {
    this.at = at;
    if (!this.dialog.open) this.dialog.showModal();
    await this.fill();
    this.body.scrollTop = 0;
  }

  step(by) {
    const to = this.at + by;
    if (to >= 0 && to < this.pictures().length) this.open(to);
  }

  /** Draw the maps again, after the drawing has changed. */
  redraw() {
    if (!this.dialog.open) return;
    for (const { sheet, choose, original } of this.sheets) {
      dress(sheet, this.picture, choose, original).catch(() => sheet.classList.add("gone"));
    }
  }

  async fill() {
    const pictures = this.pictures(), picture = (this.picture = pictures[this.at]);
    document.getElementById("previous").disabled = this.at === 0;
    document.getElementById("next").disabled = this.at === pictures.length - 1;
    document.getElementById("position").textContent =
      `${(this.at + 1).toLocaleString("en")} of ${pictures.length.toLocaleString("en")}`;
    document.getElementById("detail-title").textContent = columns.keys[picture];
    const failed = columns.status[picture] === FAILED;
    document.getElementById("detail-drawing").hidden = failed || !run.mapped;
    const maps = document.getElementById("maps"), record = document.getElementById("record");
    const facts = document.getElementById("detail-facts");
    this.sheets = [];
    if (failed) {
      const { type, stage, message } = failureOf(picture);
      facts.textContent = "No map: this picture failed.";
      maps.replaceChildren();
      record.replaceChildren(element("p", { class: "sentence" }, message),
        facts_([["Type", type], ["Stage", stage]]), links(picture, false));
      return;
    }
    let detail;
    try {
      detail = await detailOf(picture);
    } catch (error) {
      facts.textContent = error.message;
      maps.replaceChildren();
      record.replaceChildren();
      return;
    }
    if (this.picture !== picture) return;
    facts.replaceChildren(...summaryOf(picture));
    maps.replaceChildren(this.figure(picture, null, "Original", []),
      ...detail.maps.map((map, number) => this.mapFigure(picture, map, number)));
    record.replaceChildren(predictionsOf(detail), recordOf(picture, detail));
    this.redraw();
  }

  mapFigure(picture, map, number) {
    const lines = [
      ["Score", digits(map.score)],
      ["Completeness error", digits(map.completeness_error)],
      ["Hot fraction", map.hot_fraction === null ? "–" : percent(map.hot_fraction)],
      ["Range", `${digits(map.min)} to ${digits(map.max)}`],
      ["Grid", heldOf(map)],
    ];
    if (map.location_error !== null) lines.splice(2, 0, ["Location error", digits(map.location_error)]);
    const made = this.figure(picture, (detail) => detail.maps[number], targetOf(map), lines);
    const where = run.layers.length > 1 ? `${map.method} at ${map.layer}` : map.method;
    const caption = made.querySelector("figcaption");
    caption.prepend(element("span", { class: "method" }, where,
      map.faithful ? element("span", { class: "badge" }, "faithful") : ""));
    if (map.status !== "ok") caption.append(element("p", { class: "remark" }, STATUSES[map.status]));
    return made;
  }

  figure(picture, choose, title, lines) {
    const sheet = sheetOf(picture);
    this.sheets.push({ sheet, choose: choose ?? ((detail) => detail.maps[0]), original: choose === null });
    return element("figure", {}, element("div", { class: "frame" }, sheet),
      element("figcaption", {}, element("strong", {}, title), lines.length ? facts_(lines) : ""));
  }
}

const STATUSES = {
  all_negative: "Nothing in this map speaks for the class.",
  constant: "This map is the same everywhere.",
  nonfinite: "This map holds values that are not finite.",
};

function heldOf(map) {
  const grid = `${map.grid[1]}×${map.grid[0]}`;
  if (map.held === null || String(map.held) === String(map.grid)) return grid;
  return `${grid}, drawn here as ${map.held[1]}×${map.held[0]} means`;
}

/** Names and values, side by side. */
function facts_(lines) {
  const list = element("dl", { class: "facts" });
  for (const [what, value] of lines) {
    list.append(element("div", {}, element("dt", {}, what), element("dd", {}, value)));
  }
  return list;
}

function verdictOf(picture) {
  if (run.truth === null || columns.status[picture] === FAILED || columns.given[picture] < 0) return null;
  return columns.given[picture] === columns.predicted[picture] ? "right" : "wrong";
}

function summaryOf(picture) {
  const said = [element("strong", {}, labelOf(columns.predicted[picture])),
                ` ${percent(columns.confidence[picture])}`];
  const verdict = verdictOf(picture);
  if (verdict === "right") said.push(" ", element("span", { class: "badge right" }, "right"));
  if (verdict === "wrong") {
    said.push(" ", element("span", { class: "badge wrong" }, "wrong"),
      ` given as ${labelOf(columns.given[picture])}`);
  }
  return said;
}

function predictionsOf(detail) {
  const body = element("tbody");
  for (const [index, logit, probability] of detail.predictions) {
    const meter = element("span", { class: "meter" });
    meter.style.setProperty("--share", probability ?? 0);
    body.append(element("tr", {}, element("th", { scope: "row" }, labelOf(index)),
      element("td", {}, percent(probability ?? NaN), meter), element("td", {}, digits(logit))));
  }
  return element("section", {}, element("h3", {}, "Predictions"), element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Class"),
      element("th", { scope: "col" }, "Probability"), element("th", { scope: "col" }, "Logit"))), body));
}

function recordOf(picture, detail) {
  const [left, top, right, bottom] = detail.box.map((edge) => digits(edge));
  const lines = [
    ["Path", detail.path],
    ["Size", `${columns.width[picture]}×${columns.height[picture]}`],
    ["Network's view", `${detail.view[0]}×${detail.view[1]} from (${left}, ${top}) to (${right}, ${bottom})`],
    ["EXIF orientation", detail.orientation],
    ["SHA-256", detail.sha256],
  ];
  if (run.compared) lines.push(["Disagreement between methods", digits(columns.disagreement[picture])]);
  return element("section", {}, element("h3", {}, "Record"), facts_(lines), links(picture, true, detail));
}

/** Links to the files themselves. */
function links(picture, explained, detail = null) {
  const list = element("p", { class: "links" });
  if (run.embedded) return list;
  const add = (href, text) => list.append(element("a", { href, target: "_blank", rel: "noopener" }, text), " ");
  add(outputOf(picture, "json", "json"), "JSON record");
  if (explained && run.mapped) add(outputOf(picture, "maps", "npz"), "NPZ");
  if (explained) add(sourceOf(picture), "Original");
  for (const map of detail?.maps ?? []) {
    if (map.href !== null) add(map.href, `Overlay: ${map.method}, ${targetOf(map)}`);
  }
  return list;
}
