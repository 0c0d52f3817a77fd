"use strict";
// Drawing a raw map as camcli draws its overlays: same geometry, same levels, same colours.

const TINY = 1.1754943508222875e-38; // the smallest normal float32
const DIMMED = 115; // of 255: black over what the network did not see leaves 0.55 of it
const palettes = new Map();

/** The colours of the levels 0 to 255, three bytes each. */
function palette(colormap, signed) {
  const which = signed ? "" : colormap;
  if (!palettes.has(which)) {
    palettes.set(which, numbers(signed ? run.diverging : run.colormaps[colormap], Uint8Array));
  }
  return palettes.get(which);
}

/** Half to even, as Python rounds. */
function rounded(x) {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

/** The opacity, 0 to 255, of every level. */
function opacities(style) {
  return Uint8Array.from({ length: 256 }, (_, level) => {
    const share = level / 255;
    const strength = style.signed ? Math.abs(2 * share - 1) : share;
    if (style.threshold > 0 && strength < style.threshold) return 0;
    return rounded(255 * style.alpha * (run.drawing.blend === "flat" ? 1 : strength));
  });
}

/** What is drawn of each cell: negative evidence only where signs are shown. */
function shownValues(map, signed) {
  return map.values.map((v) => (!Number.isFinite(v) || (v < 0 && !signed) ? 0 : v));
}

/** The value drawn in the hottest colour. */
function hottest(map, shown, style) {
  if (style.scale === "run") {
    const [low, high] = run.maxima[`${map.method} ${map.layer}`];
    return style.signed ? Math.max(-low, high) : high;
  }
  if (typeof style.scale === "number") return style.scale;
  return shown.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
}

/**
 * For each of `points` pixels over [start, stop] in cells: the cells on its two sides and the share
 * of the second. Pixel centres lie at half pixels; beyond the grid there is nothing (-1).
 */
function interpolation(count, points, start, stop) {
  const low = new Int32Array(points), high = new Int32Array(points), share = new Float64Array(points);
  for (let i = 0; i < points; i++) {
    const position = start + ((i + 0.5) * (stop - start)) / points;
    if (position < 0 || position > count) {
      low[i] = -1;
      continue;
    }
    const at = Math.min(Math.max(position - 0.5, 0), count - 1);
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, count - 1);
    share[i] = at - low[i];
  }
  return { low, high, share };
}

/** The colours to lay over a picture drawn at width x height: an ImageData. */
function heat(map, source, box, width, height, style) {
  const [rows, across] = map.held;
  const shown = shownValues(map, style.signed);
  const top = Math.max(hottest(map, shown, style), TINY);
  const [left, above, right, below] = box;
  const perX = across / (right - left), perY = rows / (below - above);
  const x = interpolation(across, width, -left * perX, (source[0] - left) * perX);
  const y = interpolation(rows, height, -above * perY, (source[1] - above) * perY);
  const colours = palette(style.colormap, style.signed), mask = opacities(style);
  const image = new ImageData(width, height);
  const pixels = image.data;
  const seen = seenBox(source, box, width, height);
  const whole = seen[0] === 0 && seen[1] === 0 && seen[2] === width && seen[3] === height;
  const line = new Float64Array(across);
  for (let j = 0, p = 0; j < height; j++) {
    const inside = j >= seen[1] && j < seen[3];
    const one = y.low[j] * across, two = y.high[j] * across, share = y.share[j];
    for (let c = 0; c < across; c++) {
      line[c] = y.low[j] < 0 ? 0 : shown[one + c] * (1 - share) + shown[two + c] * share;
    }
    for (let i = 0; i < width; i++, p += 4) {
      if (!inside || i < seen[0] || i >= seen[2]) {
        pixels[p + 3] = whole ? 0 : DIMMED;
        continue;
      }
      let value = 0;
      if (x.low[i] >= 0) value = line[x.low[i]] * (1 - x.share[i]) + line[x.high[i]] * x.share[i];
      value /= top;
      if (style.signed) value = (value + 1) / 2;
      const level = Math.floor(Math.min(Math.max(value, 0), 1) * 255 + 0.5);
      pixels[p] = colours[3 * level];
      pixels[p + 1] = colours[3 * level + 1];
      pixels[p + 2] = colours[3 * level + 2];
      pixels[p + 3] = mask[level];
    }
  }
  return image;
}

/** What the network saw of a picture drawn at width x height: left, top, right, bottom. */
function seenBox(source, box, width, height) {
  const across = width / source[0], down = height / source[1];
  return [
    rounded(Math.max(box[0], 0) * across), rounded(Math.max(box[1], 0) * down),
    rounded(Math.min(box[2], source[0]) * across), rounded(Math.min(box[3], source[1]) * down),
  ];
}

/** Draw a map on a canvas that lies over its picture, at the size that the canvas is shown at. */
function paint(canvas, picture, detail, map, style) {
  const dense = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * dense));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * dense));
  const source = [columns.width[picture], columns.height[picture]];
  const image = heat(map, source, detail.box, canvas.width, canvas.height, style);
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.dataset.painted = JSON.stringify(style);
}
