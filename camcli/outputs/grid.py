"""One page for a picture: the photo, and its maps side by side, method by layer or by class."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

from camcli.outputs import render
from camcli.outputs.render import Style
from camcli.records import Cam, Explanation
from camcli.registry import METHODS

_INK, _FAINT, _PAPER = "#1a1a1a", "#666666", "white"
_LARGEST_ROW_LABEL = 14  # in heights of the font


@dataclass(frozen=True)
class _Table:
    """What stands where; empty labels take no room."""

    cells: list[list[Cam | None]]
    rows: list[str]
    columns: list[list[str]]
    titled: bool
    """Whether each cell bears the name of its method."""


def page(explanation: Explanation, style: Style) -> Image.Image:
    """The page of one explained picture, whose maps are `style.overlay_size` pixels long.

    Rows are methods, columns layers, classes, or both; where there is one column only, the
    methods stand side by side. Every map has its own scale, unless the style has one.
    """
    return _Page(explanation, style).drawn()


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """The text in one line, its middle left out as far as it has to be."""
    # Pillow's own font has ASCII and little else: é loses its accent.
    plain = unicodedata.normalize("NFKD", " ".join(text.replace("×", "x").split()))
    text = "".join(c if c.isprintable() else "?" for c in plain if not unicodedata.combining(c))
    if font.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:  # the most characters that fit
        kept = (low + high + 1) // 2
        low, high = (kept, high) if font.getlength(_cut(text, kept)) <= room else (low, kept - 1)
    return _cut(text, low) if low else ""


def _cut(text: str, kept: int) -> str:
    end = kept // 2
    return f"{text[: kept - end].rstrip()}…{text[len(text) - end :].lstrip()}"


class _Page:
    """Sizes are in pixels; everything grows with the font, and the font with the maps."""

    def __init__(self, explanation: Explanation, style: Style) -> None:
        photo = explanation.image.canvas
        assert photo is not None  # decoded with an overlay size
        self.explanation = explanation
        self.style = replace(style, caption=False)
        self.photo = _sized(photo, style.overlay_size)
        self.size = size = max(12.0, style.overlay_size / 23)
        self.font = ImageFont.load_default(size)
        self.line, self.gap = round(1.35 * size), round(0.8 * size)
        self.slot = max(self.photo.width, round(12 * size)), max(self.photo.height, self.line)
        self.table = _arranged(explanation.cams)
        widest = max(map(self.font.getlength, self.table.rows), default=0.0)
        self.gutter = math.ceil(min(widest, _LARGEST_ROW_LABEL * size))
        self.gutter += self.gap if self.gutter else 0

    def drawn(self) -> Image.Image:
        facts = self._facts()
        across = max(len(row) for row in self.table.cells)
        wide = self.gutter + across * (self.slot[0] + self.gap) - self.gap
        beside = 2 * self.gap + round(26 * self.size)  # room for what is said of the photo
        width = 2 * self.gap + max(wide, self.photo.width + beside)
        band = max(self.photo.height, len(facts) * self.line)
        heads = self.line * max(map(len, self.table.columns), default=0)
        step = self.line * (1 + self.table.titled) + self.slot[1] + self.gap
        top = self.gap + band + self.gap + heads
        sheet = Image.new("RGB", (width, top + step * len(self.table.cells)), _PAPER)
        pen = ImageDraw.Draw(sheet)
        self._band(sheet, pen, facts)
        for n, lines in enumerate(self.table.columns):
            for k, text in enumerate(lines):
                at = (self._left(n), top - heads + k * self.line)
                self._text(pen, at, text, self.slot[0])
        for row, cells in enumerate(self.table.cells):
            y = top + row * step
            if self.table.rows:
                at = (self.gap, y + (self.slot[1] - self.line) // 2)
                self._text(pen, at, self.table.rows[row], self.gutter - self.gap)
            for n, cam in enumerate(cells):
                if cam is not None:
                    self._cell(sheet, pen, (self._left(n), y), cam)
        return sheet

    def _left(self, column: int) -> int:
        return self.gap + self.gutter + column * (self.slot[0] + self.gap)

    def _band(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, facts: list[str]) -> None:
        """The photo, and beside it what holds for all the maps."""
        sheet.paste(self.photo, (self.gap, self.gap))
        left = self.photo.width + 3 * self.gap
        for n, text in enumerate(facts):
            at = (left, self.gap + n * self.line)
            self._text(pen, at, text, sheet.width - self.gap - left, _INK if n == 0 else _FAINT)

    def _cell(
        self, sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], cam: Cam
    ) -> None:
        """A map, its scale below it, and across it what is the matter with it."""
        x, y = at
        if self.table.titled:
            self._text(pen, at, METHODS[cam.method].title, self.slot[0])
            y += self.line
        image = self.explanation.image
        sheet.paste(render.draw(cam.cam, image.geometry, self.photo, self.style), (x, y))
        if cam.status != "ok":
            end = x + self.slot[0] - 1, y + self.slot[1] - 1
            pen.rectangle((x, end[1] - self.line + 1, *end), _INK)
            middle = end[1] - self.line // 2
            text = shortened(cam.status, self.font, self.slot[0])
            pen.text((x + self.slot[0] / 2, middle), text, "white", self.font, anchor="mm")
        room = self._scale(sheet, pen, x, y + self.slot[1], render.hottest(cam.cam, self.style))
        if METHODS[cam.method].scope != "layer":
            self._text(pen, (x, y + self.slot[1]), cam.layer, room, _FAINT)

    def _scale(
        self, sheet: Image.Image, pen: ImageDraw.ImageDraw, x: int, y: int, value: float
    ) -> int:
        """`0 [colours] 1.3` at the right end of the line below a map; the room that is left."""
        if not value:
            return self.slot[0]
        high, low = f"{value:.3g}", f"{-value:.3g}" if self.style.signed else "0"
        small = self.gap // 3
        bar = (round(4 * self.size), max(4, self.line // 2))
        right = x + self.slot[0] - math.ceil(self.font.getlength(high))
        left = right - small - bar[0]
        middle = y + self.line // 2
        pen.text((right, middle), high, _FAINT, self.font, anchor="lm")
        sheet.paste(render.colour_bar(self.style, bar), (left, middle - bar[1] // 2))
        pen.text((left - small, middle), low, _FAINT, self.font, anchor="rm")
        return left - 3 * small - math.ceil(self.font.getlength(low)) - x

    def _text(
        self,
        pen: ImageDraw.ImageDraw,
        at: tuple[int, int],
        text: str,
        room: float,
        colour: str = _INK,
    ) -> None:
        x, y = at
        text = shortened(text, self.font, room)
        pen.text((x, y + self.line // 2), text, colour, self.font, anchor="lm")

    def _facts(self) -> list[str]:
        """What is said beside the photo: name, predictions, what is explained, the colours."""
        explanation, style = self.explanation, self.style
        cams = explanation.cams
        lines = [explanation.ref.key, explanation.model]
        lines += [f"{p.probability:.3f} {p.label}" for p in explanation.predictions]
        own = [cam for cam in cams if METHODS[cam.method].scope == "layer"]
        if len({cam.target for cam in cams}) == 1:
            lines.append(f"explained: {_class(cams[0])}")
        if len({cam.layer for cam in own}) == 1:
            lines.append(f"at: {_layer(own[0])}")
        if style.signed:
            lines.append("red speaks for the class, blue against it")
        if style.scale == "image":
            lines.append("each map has its own scale, below it")
        else:
            lines.append(f"every map is drawn up to {style.scale:g}")
        left, top, right, bottom = explanation.image.geometry.seen
        if (right - left, bottom - top) != explanation.image.geometry.source:
            lines.append("the network did not see what is dimmed")
        return lines


def _arranged(cams: Sequence[Cam]) -> _Table:
    methods = list(dict.fromkeys(cam.method for cam in cams))
    targets = list(dict.fromkeys(cam.target for cam in cams))
    own = [cam for cam in cams if METHODS[cam.method].scope == "layer"]
    layers = list(dict.fromkeys(cam.layer for cam in own)) or [""]

    def place(cam: Cam) -> str:
        """A map of several layers, or of none, stands in the first column of its class."""
        return cam.layer if METHODS[cam.method].scope == "layer" else layers[0]

    at = {(cam.method, cam.target, place(cam)): cam for cam in cams}
    columns = [(target, layer) for target in targets for layer in layers]
    if len(columns) == 1:
        cells = [at[method, *columns[0]] for method in methods]
        across = len(cells) if len(cells) <= 3 else math.ceil(math.sqrt(len(cells)))
        wrapped: list[list[Cam | None]] = [
            list(cells[start : start + across]) for start in range(0, len(cells), across)
        ]
        return _Table(wrapped, [], [], titled=True)
    heads = []
    for target, layer in columns:
        (example, *_) = [c for c in cams if c.target == target and place(c) == layer]
        heads.append([*([_class(example)] if len(targets) > 1 else []),
                      *([_layer(example)] if len(layers) > 1 else [])])  # fmt: skip
    grid = [[at.get((method, *column)) for column in columns] for method in methods]
    return _Table(grid, [METHODS[method].title for method in methods], heads, titled=False)


def _class(cam: Cam) -> str:
    return f"{cam.label}, score {cam.score:.3g}"


def _layer(cam: Cam) -> str:
    height, width = cam.cam.shape
    return f"{cam.layer}, {height}x{width}"


def _sized(photo: Image.Image, longest: int) -> Image.Image:
    """The photo with its longest side as asked for, also where it is smaller."""
    scale = longest / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo if size == photo.size else photo.resize(size, Image.Resampling.BICUBIC)
