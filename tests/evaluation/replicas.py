"""Every metric again, slowly, from its paper: float64, one pixel and one view at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Ask = Callable[[Array], float]
"""A normalised view (3, H, W) -> the probability, or the logit, of the target."""
Fill = Callable[[Array], Array]


def on_view(cam: Array, height: int, width: int) -> Array:
    """Bilinear, half-pixel centres, edges held."""
    rows, columns = cam.shape
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(v), math.floor(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = (1 - (u - left)) * cam[top, left] + (u - left) * cam[top, right]
            lower = (1 - (u - left)) * cam[below, left] + (u - left) * cam[below, right]
            found[y, x] = (1 - (v - top)) * upper + (v - top) * lower
    return found


def order(heat: Array, ties: Array) -> list[tuple[int, int]]:
    """The pixels from the most relevant on; of equal ones, by their numbers in `ties`."""
    pixels = [(y, x) for y in range(heat.shape[0]) for x in range(heat.shape[1])]
    return sorted(pixels, key=lambda pixel: (-heat[pixel], ties[pixel]))


def mean_fill(view: Array) -> Array:
    filled = np.empty_like(view)
    for channel in range(3):
        filled[channel] = view[channel].mean()
    return filled


def blur_fill(view: Array) -> Array:
    """A Gaussian of 1/20 of the shorter side, three deviations wide, mirrored at the border."""
    _, height, width = view.shape
    deviation = min(height, width) / 20
    reach = round(3 * deviation)
    filled = np.zeros_like(view)
    total = sum(math.exp(-(n**2) / (2 * deviation**2)) for n in range(-reach, reach + 1)) ** 2
    for y in range(height):
        for x in range(width):
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    weight = math.exp(-(i**2 + j**2) / (2 * deviation**2)) / total
                    filled[:, y, x] += (
                        weight * view[:, mirrored(y + i, height), mirrored(x + j, width)]
                    )
    return filled


def mirrored(place: int, size: int) -> int:
    place = abs(place)
    return place if place < size else 2 * (size - 1) - place


def curve(before: Array, after: Array, heat: Array, ask: Ask, ties: Array) -> float:
    """The trapezoid rule over 17 views, the pixels of `before` becoming those of `after`."""
    pixels, steps = order(heat, ties), 16
    heights = []
    for k in range(steps + 1):
        changed = before.copy()
        for rank, (y, x) in enumerate(pixels):
            if rank < k * len(pixels) / steps:
                changed[:, y, x] = after[:, y, x]
        heights.append(ask(changed))
    return sum((heights[k] + heights[k + 1]) / 2 / steps for k in range(steps))


def deletion(view: Array, heat: Array, ask: Ask, ties: Array, fill: Fill) -> float:
    return curve(view, fill(view), heat, ask, ties)


def insertion(view: Array, heat: Array, ask: Ask, ties: Array, fill: Fill) -> float:
    return curve(fill(view), view, heat, ask, ties)


def shown(view: Array, heat: Array) -> Array:
    mask = np.maximum(heat, 0)
    return view * (mask / mask.max() if mask.max() > 0 else mask)


def average_drop(view: Array, heat: Array, ask: Ask, ties: Array) -> float:
    full, kept = ask(view), ask(shown(view, heat))
    return max(0.0, full - kept) / full


def increase_in_confidence(view: Array, heat: Array, ask: Ask, ties: Array) -> float:
    return float(ask(shown(view, heat)) > ask(view))


def imputed(view: Array, gone: Array) -> Array:
    """The linear system of Rong 2022, written out as a matrix and solved."""
    channels, height, width = view.shape
    unknown = [(y, x) for y in range(height) for x in range(width) if gone[y, x]]
    number = {pixel: n for n, pixel in enumerate(unknown)}
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), channels))
    for (y, x), n in number.items():
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                inside = 0 <= y + i < height and 0 <= x + j < width
                if (i, j) == (0, 0) or not inside:
                    continue
                weight = 1 / 12 if i and j else 1 / 6
                matrix[n, n] += weight
                if gone[y + i, x + j]:
                    matrix[n, number[y + i, x + j]] -= weight
                else:
                    right[n] += weight * view[:, y + i, x + j]
    filled = view.copy()
    if unknown:
        solved = np.linalg.solve(matrix, right)
        for (y, x), n in number.items():
            filled[:, y, x] = solved[n]
    return filled


def road(
    view: Array, heat: Array, ask: Ask, ties: Array, noise: Array, most_relevant_first: bool
) -> float:
    pixels = order(heat, ties)
    if not most_relevant_first:
        pixels = pixels[::-1]
    found = []
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        gone = np.zeros(heat.shape, bool)
        for pixel in pixels[: round(share * len(pixels))]:
            gone[pixel] = True
        found.append(ask(imputed(view, gone) + noise * gone))
    return sum(found) / len(found)


def infidelity(
    view: Array, heat: Array, score: Ask, squares: Sequence[tuple[int, int, int]]
) -> float:
    """With the best factor b >= 0, over the mean square of the changes."""
    sums, changes = [], []
    for side, top, left in squares:
        without, total = view.copy(), 0.0
        for y in range(top, top + side):
            for x in range(left, left + side):
                without[:, y, x] = 0
                total += heat[y, x]
        sums.append(total)
        changes.append(score(view) - score(without))
    products = sum(s * c for s, c in zip(sums, changes, strict=True))
    squared = sum(s * s for s in sums)
    factor = max(0.0, products / squared) if squared else 0.0
    missed = sum((factor * s - c) ** 2 for s, c in zip(sums, changes, strict=True))
    return missed / sum(c * c for c in changes)


def max_sensitivity(explain: Callable[[Array], Array], view: Array, noise: Array) -> float:
    own = explain(view)
    length = math.sqrt(sum(v * v for v in own.ravel()))
    return max(
        math.sqrt(sum(d * d for d in (explain(view + one) - own).ravel())) / length for one in noise
    )


def gini(values: Array) -> float:
    """Half the mean absolute difference over the mean."""
    flat = np.abs(values).ravel()
    differences = sum(abs(a - b) for a in flat for b in flat)
    return differences / (2 * len(flat) * flat.sum())


def edges(view: Array) -> Array:
    """Sobel's two masks on every channel; beyond the border is the border."""
    _, height, width = view.shape
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                across = down = 0.0
                for i in (-1, 0, 1):
                    for j in (-1, 0, 1):
                        v, u = min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)
                        across += j * (2 - abs(i)) * view[channel, v, u]
                        down += i * (2 - abs(j)) * view[channel, v, u]
                found[y, x] += across**2 + down**2
    return np.sqrt(found)
