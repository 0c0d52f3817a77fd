"use strict";
// Figures of the pictures that are shown, as SVG.

/** An element with attributes and text or children. Nothing is ever read as HTML. */
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "text", "line", "title", "g"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
                   : document.createElement(tag);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(attribute, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** A number for people: three digits. */
function digits(value) {
  if (value === null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

function percent(share) {
  return Number.isNaN(share) ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function counted(count, what) {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}

const WIDE = 300, HIGH = 132, FOOT = 20, HEAD = 14;

/** A chart: its title, its bars [{label, count, marked}], and what it says to those who cannot see it. */
function barChart(title, note, bars, ticks) {
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const step = WIDE / bars.length;
  const scale = (HIGH - FOOT - HEAD) / most;
  const svg = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img",
                               "aria-label": `${title}: ${note}` });
  for (const [i, bar] of bars.entries()) {
    const height = bar.count ? Math.max(1.5, bar.count * scale) : 0;
    const gap = Math.min(2, step / 6);
    const group = element("g", {}, element("title", {}, `${bar.label}: ${counted(bar.count, "picture")}`));
    group.append(element("rect", { class: "hover", x: i * step, y: 0, width: step, height: HIGH - FOOT }));
    group.append(element("rect", { class: "bar", x: i * step + gap / 2, y: HIGH - FOOT - height, rx: 1.5,
                                   width: step - gap, height }));
    svg.append(group);
  }
  svg.append(element("line", { x1: 0, x2: WIDE, y1: HIGH - FOOT + 0.5, y2: HIGH - FOOT + 0.5 }));
  svg.append(element("text", { x: WIDE, y: 9, "text-anchor": "end" }, `${most.toLocaleString("en")}`));
  for (const [at, text] of ticks) {
    const anchor = at === 0 ? "start" : at === 1 ? "end" : "middle";
    svg.append(element("text", { x: at * WIDE, y: HIGH - 5, "text-anchor": anchor }, text));
  }
  return element("figure", {}, element("figcaption", {}, element("strong", {}, title), note), svg);
}

function median(values) {
  values.sort();
  return values.length ? values[Math.floor((values.length - 1) / 2)] : NaN;
}

/** Shares from 0 to 1 in twenty bars; of each picture that has one. */
function shareChart(title, column, shown) {
  const counts = new Array(20).fill(0), known = [];
  for (const picture of shown) {
    const share = column[picture];
    if (Number.isNaN(share)) continue;
    known.push(share);
    counts[Math.min(19, Math.floor(share * 20))]++;
  }
  if (!known.length) return null;
  const bars = counts.map((count, i) => ({ label: `${5 * i}–${5 * i + 5} %`, count }));
  const note = `median ${percent(median(Float32Array.from(known)))}`;
  return barChart(title, note, bars, [[0, "0"], [0.5, "50 %"], [1, "100 %"]]);
}

const LOWEST = -8, HIGHEST = 1;

/** Errors by their power of ten. */
function errorChart(shown) {
  const counts = new Array(HIGHEST - LOWEST + 1).fill(0), known = [];
  for (const picture of shown) {
    const error = columns.completeness[picture];
    if (Number.isNaN(error)) continue;
    known.push(error);
    const power = error > 0 ? Math.floor(Math.log10(error)) : LOWEST;
    counts[Math.min(Math.max(power, LOWEST), HIGHEST) - LOWEST]++;
  }
  if (!known.length) return null;
  const bars = counts.map((count, i) => {
    const power = i + LOWEST;
    const label = power === LOWEST ? `below 1e${power + 1}` : power === HIGHEST ? `1e${power} or more`
      : `1e${power} to 1e${power + 1}`;
    return { label, count };
  });
  const faithful = known.filter((error) => error <= 1e-3).length;
  const note = `${percent(faithful / known.length)} at most 0.001`;
  const place = (power) => (power - LOWEST) / counts.length;
  return barChart("Completeness error", note, bars,
    [-7, -5, -3, -1].map((power) => [place(power), `1e${power}`]));
}

/** Failures by type, as lines of text with bars. */
function failureChart(shown) {
  const counts = new Map();
  for (const picture of shown) {
    if (columns.status[picture] !== FAILED) continue;
    const { type } = failureOf(picture);
    counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  if (!counts.size) return null;
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const total = sorted.reduce((sum, [, count]) => sum + count, 0);
  const lines = sorted.slice(0, 5);
  const svg = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img",
    "aria-label": `Failures by type: ${lines.map(([type, count]) => `${type} ${count}`).join(", ")}` });
  for (const [i, [type, count]] of lines.entries()) {
    const y = HEAD + i * 24;
    const short = type.length > 34 ? `${type.slice(0, 33)}…` : type;
    svg.append(element("text", { x: 0, y }, short, element("title", {}, type)));
    svg.append(element("text", { x: WIDE, y, "text-anchor": "end" }, count.toLocaleString("en")));
    svg.append(element("rect", { class: "bar", x: 0, y: y + 5, height: 5, rx: 1.5,
                                 width: Math.max(2, (WIDE * count) / lines[0][1]) }));
  }
  return element("figure", {}, element("figcaption", {}, element("strong", {}, "Failures"),
    counted(total, "picture")), svg);
}

function drawCharts(place, shown) {
  place.replaceChildren(...[
    shareChart("Confidence", columns.confidence, shown),
    errorChart(shown),
    shareChart("Hot fraction", columns.hot, shown),
    run.compared ? shareChart("Disagreement between methods", columns.disagreement, shown) : null,
    failureChart(shown),
  ].filter(Boolean));
}
