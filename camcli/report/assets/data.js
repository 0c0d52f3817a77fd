"use strict";
// The data of the run: blocks of JSON, inside the page or in scripts beside it.

const run = JSON.parse(document.getElementById("run").textContent);
const SHOWN = 0, BLANK = 1, FAILED = 2;
const waiting = new Map();

/** What a data script calls. */
function receive(blockName, content) {
  waiting.get(blockName)?.(content);
  waiting.delete(blockName);
}

/** A block's content; the promise is broken where its file is gone. */
function block(blockName) {
  const inline = document.getElementById(blockName);
  if (inline) return Promise.resolve(JSON.parse(inline.textContent));
  return new Promise((resolve, reject) => {
    waiting.set(blockName, resolve);
    const script = document.createElement("script");
    script.src = `${run.data}/${blockName}.js`;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${script.src} cannot be read`));
    document.head.append(script);
  });
}

/** The bytes of base64 text as an array of numbers. */
function numbers(text, Kind) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

/** The figures of every picture, as far as they have been read. */
const columns = {
  read: 0,
  keys: [],
  status: new Uint8Array(run.pictures),
  predicted: new Int32Array(run.pictures),
  given: new Int32Array(run.pictures),
  confidence: new Float32Array(run.pictures),
  completeness: new Float32Array(run.pictures),
  hot: new Float32Array(run.pictures),
  disagreement: new Float32Array(run.pictures),
  width: new Uint32Array(run.pictures),
  height: new Uint32Array(run.pictures),
  overlay: new Int32Array(run.pictures),
  root: new Int32Array(run.pictures),
  chunks: [],
};

/** Read the next pictures' figures. */
async function readColumns() {
  const chunk = await block(`columns-${columns.chunks.length}`);
  for (const [column, array] of Object.entries(columns)) {
    if (!ArrayBuffer.isView(array)) continue;
    array.set(numbers(chunk[column], array.constructor), columns.read);
    delete chunk[column];
  }
  for (const key of chunk.keys) columns.keys.push(key);
  columns.read = columns.keys.length;
  delete chunk.keys;
  columns.chunks.push(chunk);
}

function chunkOf(picture) {
  return columns.chunks[Math.floor(picture / run.chunk)];
}

/** Why a picture failed: its type, its stage and the sentence. */
function failureOf(picture) {
  const [type, stage, message] = chunkOf(picture).failures[picture % run.chunk];
  return { type, stage, message };
}

function escapedPath(path) {
  return path.split("/").map(encodeURIComponent).join("/");
}

/** The source picture, relative to the page. */
function sourceOf(picture) {
  const chunk = chunkOf(picture);
  const folder = chunk.roots[columns.root[picture]];
  return folder === null ? chunk.sources[picture % run.chunk] : folder + escapedPath(columns.keys[picture]);
}

function outputOf(picture, kind, suffix) {
  return `../${kind}/${escapedPath(columns.keys[picture])}.${suffix}`;
}

/** The overlay of the picture's first map, as the run drew it; null where there is none. */
function firstOverlayOf(picture) {
  const suffix = chunkOf(picture).overlays[columns.overlay[picture]];
  return suffix === null || run.embedded ? null : outputOf(picture, "overlays", suffix);
}

const KEPT_PARTS = 40;
const parts = new Map();

function part(number) {
  const known = parts.get(number) ?? block(`part-${number}`).then((content) => {
    content.values = numbers(content.maps, Float32Array);
    delete content.maps;
    let at = 0;
    content.places = content.rows.map((row) => {
      const start = at;
      for (const entry of row?.[6] ?? []) at += cells(entry[run.fields.length - 1]);
      return start;
    });
    return content;
  });
  parts.delete(number);
  parts.set(number, known); // the last one used comes last
  if (parts.size > KEPT_PARTS) parts.delete(parts.keys().next().value);
  return known;
}

function cells(held) {
  return held ? held[0] * held[1] : 0;
}

/** The record of an explained picture and its raw maps; null where it failed. */
async function detailOf(picture) {
  const content = await part(Math.floor(picture / run.part));
  const place = picture % run.part;
  const row = content.rows[place];
  if (row === null) return null;
  const [path, sha256, orientation, view, box, predictions, entries] = row;
  let at = content.places[place];
  const maps = entries.map((entry) => {
    const map = Object.fromEntries(run.fields.map((field, i) => [field, entry[i]]));
    map.values = content.values.subarray(at, at + cells(map.held));
    map.href = map.overlay === null || run.embedded ? null : outputOf(picture, "overlays", map.overlay);
    at += cells(map.held);
    return map;
  });
  return { path, sha256, orientation, view, box, predictions, maps,
           thumbnail: content.thumbnails?.[place] ?? null };
}

function labelOf(index) {
  return run.labels ? run.labels[index] : `class ${index}`;
}

/** A target's name: a class, a contrast or a counterfactual. */
function targetOf(map) {
  const plus = map.index === null ? "" : labelOf(map.index);
  return map.against === null ? plus : `${plus} − ${labelOf(map.against)}`.trim();
}
