"""Networks that take a fixed number of pictures at a time, as traces may."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camcli.cam.layers import Layer
from camcli.errors import ModelError
from camcli.models.loaded import Edit, Edits

Run = Callable[[Tensor, Edits], Tensor]
# What differs by more than this between a picture alone and in a batch is not rounding.
_SAME = 0.02


def rows_at_a_time(run: Run, x: Tensor, traced: int, exactly: bool = True) -> int | None:
    """How many pictures a network takes: any number (None), one, or as many as it was traced with.

    Traces hold the number they were made with, and then fail on others or, worse, mix them up: so
    two pictures are compared with each of them alone. Not `exactly` for a network whose answers
    vary in any case. A RuntimeError where it runs on none of these.
    """
    pair = torch.cat([x[:1], x[:1].flip(-1)])

    def attempt(pictures: Tensor) -> Tensor | RuntimeError | ModelError:
        try:
            logits = run(pictures, {})
        except (RuntimeError, ModelError) as error:  # ModelError: the answer is not (N, classes)
            return error
        count = len(pictures)
        return logits if len(logits) == count else RuntimeError(f"{len(logits)} rows for {count}")

    with torch.no_grad():
        together = attempt(pair)
        alone = [attempt(pair[:1]), attempt(pair[1:])]
        singles = [logits for logits in alone if isinstance(logits, Tensor)]
        if singles:
            own = torch.cat(singles)
            same = (
                isinstance(together, Tensor)
                and together.shape[1:] == own.shape[1:]
                and (not exactly or _agree(together, own))
            )
            return None if same else 1
        answer = attempt(filled(x[:1], traced))
        if not isinstance(answer, Tensor):
            raise answer
        return traced


def in_chunks(run: Run, x: Tensor, edits: Edits, rows: int) -> Tensor:
    """`Network.run` by a network that takes so many pictures at a time.

    An edit is of the whole batch, so there is a round for every edited layer, which takes its
    output from all the chunks, and a last one for the logits.
    """
    count, x = len(x), filled(x, rows)
    edited: dict[Layer, Tensor] = {}
    while True:
        reached: dict[Layer, list[Tensor]] = {}
        answers = [
            run(
                x[start : start + rows],
                {
                    layer: _given(edited[layer][start : start + rows])
                    if layer in edited
                    else _taken(layer, reached)
                    for layer in edits
                },
            )
            for start in range(0, len(x), rows)
        ]
        if not reached:
            return torch.cat(answers)[:count]
        ((layer, outputs),) = reached.items()
        output = torch.cat(outputs)
        edited[layer] = torch.cat([edits[layer](output[:count]), output[count:].detach()])


def filled(x: Tensor, rows: int) -> Tensor:
    """Pictures, the last one repeated until they are a multiple of `rows`."""
    return torch.cat([x, x[-1:].expand(-len(x) % rows, *x.shape[1:])])


def _given(output: Tensor) -> Edit:
    return lambda _: output.clone()  # an operation that follows may work in place


def _taken(layer: Layer, reached: dict[Layer, list[Tensor]]) -> Edit:
    """Keeps the output of the first layer that is reached; those behind it depend on its edit."""

    def edit(output: Tensor) -> Tensor:
        if not reached or layer in reached:
            reached.setdefault(layer, []).append(output.clone())
        return output

    return edit


def _agree(together: Tensor, alone: Tensor) -> bool:
    gap = (together - alone[: len(together)]).abs().max()
    return not bool(gap > _SAME * alone.abs().max())
