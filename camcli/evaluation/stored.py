"""The explanations of a finished run, read back, with their pictures decoded again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from camcli.engine import Engine
from camcli.errors import ModelError, OutputError, UsageError
from camcli.images.decode import DecodeSettings, UnfitPictureError, decode, failure
from camcli.images.preprocess import Preprocessing
from camcli.models.loaded import LoadedModel
from camcli.outputs import manifest
from camcli.outputs.record import Record
from camcli.outputs.results import Result, results
from camcli.pipeline import bounded_map
from camcli.records import Cam, Explanation, Failure, ImageRef, ModelRequest, Prediction, Target
from camcli.registry import SOURCES


class StoredRun:
    """An output directory with maps; UsageError where there are none in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs = manifest.require_written(directory, ("json", "npz"), "evaluating")
        self.run: dict[str, Any] = next(iter(self.runs.values()))

    @property
    def in_progress(self) -> bool:
        """Whether a run or a shard goes on, or was killed."""
        return any(run.get("status") == "running" for run in self.runs.values())

    def request(self, device: str, trust: bool) -> ModelRequest:
        """The model that was explained. Only the caller says whether it may run code of its own,
        for the run file may be anybody's.
        """
        try:
            asked = dict(self.run["request"]["model"])
            recipe = {name: tuple(v) if isinstance(v, list) else v
                      for name, v in asked["preprocessing"].items()}  # fmt: skip
            base = self.run["cwd"]
            for name in ("name", "weights", "labels"):
                asked[name] = _found(asked[name], base)
            self._own_code(str(asked["name"]), trust)
            known = {f.name: asked[f.name] for f in fields(ModelRequest) if f.name in asked}
            return ModelRequest(
                **known | {"device": device, "trust": trust, "preprocessing": recipe}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error

    def agreed(self, model: LoadedModel) -> LoadedModel:
        """The model as it was explained; ModelError where it is another one."""
        try:
            before, recipe = self.run["identity"]["weights"], dict(self.run["preprocessing"])
            named, activation = self.run["model"]["name"], self.run["model"]["activation"]
            recipe = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.items()}
            preprocessing = Preprocessing(**recipe)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        now = model.weights_sha256 or model.weights
        if now != before:
            raise ModelError(
                f"the weights of {named} are not those of '{self.directory}' ({now[:16]}, not "
                f"{str(before)[:16]}); give back the model that was explained, or explain again"
            )
        return replace(model, preprocessing=preprocessing, activation=activation)

    @property
    def batch_size(self) -> int:
        """That of the run, so that the same pictures go through the model together."""
        size = self.run.get("batch_size")
        if not isinstance(size, int) or size < 1:
            raise self._damaged(ValueError(f"batch_size is {size}"))
        return size

    def engine(self, model: LoadedModel) -> Engine:
        """The model with the methods and layers of the run, to explain again."""
        try:
            asked, smooth = self.run["request"], self.run["identity"]["smoothing"]
            methods, layers = tuple(asked["methods"]), tuple(asked["layers"])
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error
        return Engine(
            model, methods=methods, layers=layers, smooth=smooth, batch_size=self.batch_size
        )

    def about(self) -> dict[str, Any]:
        """What of the run decides the figures, for evaluation.json."""
        identity = self.run.get("identity", {})
        return {
            "run_config_hash": self.run.get("config_hash"),
            "run_in_progress": self.in_progress,
            "methods": identity.get("method"),
            "layers": identity.get("layer"),
            "smoothing": identity.get("smoothing"),
            "target": self.run.get("request", {}).get("target"),
            "precision": identity.get("precision"),
        }

    def results(self) -> Iterator[Result]:
        """The pictures that were explained."""
        return (result for result in results(self.directory, self.runs) if result.explained)

    def explanations(
        self, found: Iterable[Result], settings: DecodeSettings, workers: int
    ) -> Iterator[Explanation | Failure]:
        """Each with its picture as it was; one that is gone or has changed is a Failure."""

        def read(result: Result) -> Explanation | Failure:
            ref = ImageRef(result.source, result.key)
            try:
                return _explanation(ref, result, settings)
            except Exception as error:  # a damaged file may raise anything
                return failure(ref, None, error, "read")

        with ThreadPoolExecutor(workers) as pool:
            yield from bounded_map(pool, read, found, 2 * workers)

    def _own_code(self, name: str, trust: bool) -> None:
        """UsageError where the run file names code that nobody here has named."""
        source = next((source for source in SOURCES.values() if source.opens(name)), None)
        if source is not None and source.name == "python" and not trust:
            raise UsageError(
                f"the model of '{self.directory}' is the code '{name}'; "
                "where you trust it to run, give --trust-model"
            )

    def _damaged(self, error: Exception) -> OutputError:
        return OutputError(
            f"the run file in '{self.directory}' is not as camcli writes it ({error}); "
            "explain again"
        )


def _explanation(ref: ImageRef, result: Result, settings: DecodeSettings) -> Explanation | Failure:
    record = result.record()
    image = decode(ref, settings)
    if isinstance(image, Failure):
        return image
    if image.facts.sha256 != record["sha256"]:
        raise UnfitPictureError("the picture has changed since it was explained; explain it again")
    maps, geometry = result.maps()
    if geometry != image.geometry:
        raise UnfitPictureError("its maps were made with another preprocessing; explain it again")
    cams = tuple(_cam(entry, cam) for entry, cam in zip(record["explanations"], maps, strict=True))
    predictions = tuple(
        Prediction(p["index"], p["label"], p["logit"], p["probability"] or 0.0)
        for p in record["predictions"]
    )
    return Explanation(image, record["model"], predictions, cams)


def _cam(entry: Record, cam: Any) -> Cam:
    target = entry["target"]
    return Cam(
        method=entry["method"],
        layer=entry["layer"],
        target=Target(target["index"], target["against"]),
        label=target["label"],
        score=entry["score"],
        cam=cam,
        remainder=entry["remainder"],
        outside_grid=entry["outside_grid"],
        baseline=entry["baseline"],
        completeness_error=entry["completeness_error"],
        location_error=entry["location_error"],
        faithful=entry["faithful"],
        smoothing=tuple(entry["smoothing"]),
    )


def _found(name: Any, base: str) -> Any:
    """A file that was named relative to where the run was started."""
    if isinstance(name, str) and not os.path.exists(name):
        there = os.path.join(base, name)
        if os.path.exists(there):
            return there
    return name
