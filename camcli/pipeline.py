"""Read, explain, write: one flow of generators, bounded in pictures and in bytes.

Threads decode and write; the model stays in the calling thread. Nothing here imports torch until
there is a picture to explain.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

from camcli.images.decode import (
    Decoder,
    DecodeSettings,
    decode,
    failure,
    from_picture,
    picture_of,
)
from camcli.records import Decoded, Explanation, Failure, ImageRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image
    from torch import nn

    from camcli.engine import Engine
    from camcli.models.loaded import LoadedModel

DEFAULT_BATCH_SIZE = 16
DEFAULT_MAX_PIXELS = 100_000_000
_BYTES_AHEAD = 128 * 2**20

T = TypeVar("T")


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


R = TypeVar("R", bound=Sized)


class Explainer(Protocol):
    """What the flow asks of an engine."""

    @property
    def batch_size(self) -> int: ...

    def prepared(self) -> AbstractContextManager[None]: ...

    def explain(self, pictures: Sequence[Decoded]) -> list[Explanation | Failure]: ...


def bounded_map(
    pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int, prompt: bool = False
) -> Iterator[R]:
    """`map` over a pool: in order, at most `ahead` items in flight, fewer where they are large.

    `prompt` hands a result on as soon as it is done, which suits items that are slow to come;
    otherwise the pool is kept fed. An exception surfaces where its result would have been.
    """
    flight: deque[Future[R]] = deque()
    largest = 1
    try:
        for item in items:
            flight.append(pool.submit(work, item))
            most = max(1, min(ahead, _BYTES_AHEAD // largest))
            while flight and (len(flight) >= most or (prompt and flight[0].done())):
                result = flight.popleft().result()
                largest = max(largest, result.nbytes)
                yield result
        while flight:
            yield flight.popleft().result()
    finally:
        for future in flight:
            future.cancel()


def outcomes(
    engine: Explainer, decoded: Iterable[Decoded | Failure]
) -> Iterator[Explanation | Failure]:
    """Group pictures into batches and explain them: one outcome an input, in order."""
    waiting: list[Decoded | Failure] = []
    pictures = 0
    with engine.prepared():
        for item in decoded:
            waiting.append(item)
            pictures += isinstance(item, Decoded)
            # Failures wait for the pictures before them, but never pile up behind a few.
            if (
                pictures == 0
                or pictures >= engine.batch_size
                or len(waiting) >= 4 * engine.batch_size
            ):
                yield from _explained_in_place(engine, waiting)
                waiting, pictures = [], 0
        yield from _explained_in_place(engine, waiting)


def _explained_in_place(
    engine: Explainer, waiting: list[Decoded | Failure]
) -> Iterator[Explanation | Failure]:
    batch = [item for item in waiting if isinstance(item, Decoded)]
    explained = iter(engine.explain(batch) if batch else [])
    for item in waiting:
        yield item if isinstance(item, Failure) else next(explained)


def through(
    engine: Explainer,
    refs: Iterable[ImageRef],
    read: Callable[[ImageRef], Decoded | Failure],
    write: Callable[[Explanation | Failure], R],
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[R]:
    """Decode in threads, explain here, write in threads: what `write` returns, in order.

    Once `stopped`, the pictures that are already batched are the last ones.
    """
    ahead = 2 * engine.batch_size
    with ThreadPoolExecutor(workers) as pool:
        decoded = bounded_map(pool, read, refs, ahead)
        going = itertools.takewhile(lambda _: not stopped(), decoded)
        yield from bounded_map(pool, write, outcomes(engine, going), ahead, prompt=True)


def timed(items: Iterable[T]) -> Iterator[tuple[T, float]]:
    """Each item with the milliseconds since the one before it."""
    last = time.monotonic()
    for item in items:
        current = time.monotonic()
        yield item, (current - last) * 1000
        last = current


def explained(
    engine: Engine,
    refs: Iterable[ImageRef],
    settings: DecodeSettings,
    workers: int,
    decoder: Decoder = picture_of,
) -> Iterator[Explanation | Failure]:
    """Decode files in threads and explain them: one outcome an input, in order."""
    with ThreadPoolExecutor(workers) as pool:
        decoded = bounded_map(
            pool, lambda ref: decode(ref, settings, decoder), refs, 2 * engine.batch_size
        )
        yield from outcomes(engine, decoded)


def explain(
    pictures: Iterable[str | os.PathLike[str] | Image | npt.NDArray[np.uint8]],
    *,
    model: LoadedModel | nn.Module | str = "efficientnet_lite0",
    method: str | Iterable[str] = "hirescam",
    layer: str | Iterable[str] = "auto",
    target: str = "predicted",
    smooth: str | Iterable[str] = (),
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
) -> Iterator[Explanation | Failure]:
    """Explain pictures, given as paths, PIL images or RGB arrays (H, W, 3), one by one in order.

    Yields one Explanation, or one Failure, a picture. The model is left as it was once the
    iterator is used up or closed. `smooth` is any of flip, scale and eigen. Raises UsageError for
    a method, layer or class that does not exist.
    """
    from camcli.engine import Engine
    from camcli.models.loaded import LoadedModel
    from camcli.models.opening import open_model

    engine = Engine(
        model if isinstance(model, LoadedModel) else open_model(model),
        methods=[method] if isinstance(method, str) else list(method),
        layers=[layer] if isinstance(layer, str) else list(layer),
        target=target,
        smooth=[smooth] if isinstance(smooth, str) else list(smooth),
        batch_size=batch_size,
    )
    settings = DecodeSettings(engine.model.preprocessing, None, DEFAULT_MAX_PIXELS)
    return _explained(engine, settings, pictures, workers or os.cpu_count() or 1)


def _explained(
    engine: Engine,
    settings: DecodeSettings,
    pictures: Iterable[str | os.PathLike[str] | Image | npt.NDArray[np.uint8]],
    workers: int,
) -> Iterator[Explanation | Failure]:
    def load(item: tuple[int, object]) -> Decoded | Failure:
        number, picture = item
        if isinstance(picture, str | os.PathLike):
            path = os.fspath(picture)
            return decode(ImageRef(str(path), str(path)), settings)
        return _in_memory(ImageRef(f"<picture {number}>", f"picture-{number}"), picture, settings)

    with ThreadPoolExecutor(workers) as pool:
        yield from outcomes(
            engine, bounded_map(pool, load, enumerate(pictures), 2 * engine.batch_size)
        )


def _in_memory(ref: ImageRef, picture: object, settings: DecodeSettings) -> Decoded | Failure:
    import numpy as np
    from PIL import Image

    try:
        image = (
            picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
        )
    except (TypeError, ValueError) as error:
        return failure(ref, None, error, "read")
    return from_picture(ref, image, settings)
