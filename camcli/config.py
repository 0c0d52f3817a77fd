"""The settings of a run, and where each came from: flags > CAMCLI_* > TOML > defaults.

A field declared here is a flag, an environment variable, a TOML key and a line of
`camcli config show`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from camcli.errors import UsageError, did_you_mean
from camcli.outputs.colormaps import NAMES as COLORMAPS
from camcli.values import Option, setting, typed

WRITES = ("overlay", "json", "npz")
PRECISIONS = ("fp32", "bf16", "fp16")
SMOOTHINGS = ("flip", "scale", "eigen")
_MAY_BE_EMPTY = ("files_from", "include", "exclude", "smooth")
WHAT, MODEL, INPUT, OUTPUT = "What to explain", "Model", "Inputs", "Output"
DRAWING, PREPARING, RUNNING, SAYING = "Drawing", "Preprocessing", "Running", "Messages"


# fmt: off
@dataclass(frozen=True)
class Config:
    """Every setting of `camcli explain`. None means: decided by the model or the machine."""

    method: tuple[str, ...] = setting(
        ("hirescam",), "-m --method", "Methods, a comma list, or all-gradient: camcli methods.",
        WHAT)
    layer: tuple[str, ...] = setting(
        ("auto",), "--layer", "Layer, repeatable; see camcli layers MODEL.", WHAT)
    smooth: tuple[str, ...] = setting(
        (), "--smooth", "Average over mirrored or rescaled inputs; first component of channels.",
        WHAT, choices=SMOOTHINGS)
    target: str = setting(
        "predicted", "-t --target",
        "predicted, top:K, CLASS[,CLASS…], A-B (contrast), -A (against A), folder, csv:FILE, label",
        WHAT)
    model: str = setting(
        "efficientnet_lite0", "--model",
        "A name (camcli models), timm:NAME, a file, or module:callable.", MODEL,
        metavar="NAME|FILE|…")
    weights: str = setting(
        "DEFAULT", "--weights", "DEFAULT, an entry's name, a state-dict file, or none (random).",
        MODEL, metavar="DEFAULT|NAME|FILE|none")
    labels: str | None = setting(
        None, "--labels", "Class names: imagenet1k, or a .txt, .json or .csv file.", MODEL)
    arch: str | None = setting(
        None, "--arch", "Architecture of a file of weights; without it, told from their names.",
        MODEL, metavar="NAME|timm:NAME")
    trust_model: bool = setting(
        False, "--trust-model/--no-trust-model", "Let a model file run code of its own.", MODEL)
    output_key: str | None = setting(
        None, "--output-key", "Where the logits are in what the model returns.", MODEL,
        metavar="NAME")
    output_index: int | None = setting(
        None, "--output-index", "The same, by place.", MODEL)
    activation: str = setting(
        "auto", "--activation", "How logits become probabilities: one of many classes (softmax) "
        "or each for itself (sigmoid; auto for a single logit).", MODEL,
        choices=("auto", "softmax", "sigmoid"))
    device: str = setting(
        "auto", "--device", "auto, cpu, cuda[:N], mps, or cuda:all, a process for each GPU.", MODEL)
    precision: str = setting(
        "fp32", "--precision", "Of what comes before the layer; what follows it stays fp32.", MODEL,
        choices=PRECISIONS)
    files_from: tuple[str, ...] = setting(
        (), "--files-from", "A file that lists paths, or - for stdin.", INPUT, split=False,
        metavar="FILE|-")
    null: bool = setting(False, "-0 --null", "Lists are separated by NUL (find -print0).", INPUT)
    include: tuple[str, ...] = setting(
        (), "--include", "Only inputs whose path or name matches.", INPUT, split=False,
        metavar="GLOB")
    exclude: tuple[str, ...] = setting(
        (), "--exclude", "No inputs whose path or name matches.", INPUT, split=False,
        metavar="GLOB")
    output: Path = setting(Path("camcli-output"), "-o --output", "Output directory.", OUTPUT)
    write: tuple[str, ...] = setting(
        WRITES, "--write", "What to write, a comma list.", OUTPUT, choices=WRITES)
    sink: str = setting(
        "files", "--sink", "Every output a file of its own, or tars of many inputs each "
        "(WebDataset).", OUTPUT, choices=("files", "tar"))
    shard_size: int = setting(
        1000, "--shard-size", "Inputs in each tar of --sink tar; a tar counts once it is closed.",
        OUTPUT, low=1, high=10_000)
    json: bool = setting(False, "--json", "Also print each record as a JSON line.", OUTPUT)
    colormap: str = setting(
        "inferno", "--colormap", "Colour scale.", DRAWING, choices=COLORMAPS)
    alpha: float = setting(0.7, "--alpha", "Opacity of the hottest place.", DRAWING, low=0, high=1)
    blend: str = setting(
        "heat", "--blend", "Opacity grows with the heat, or is the same everywhere.", DRAWING,
        choices=("heat", "flat"))
    scale: str = setting(
        "image", "--scale", "What is drawn as hottest: each map's maximum, or a value.", DRAWING,
        metavar="image|VALUE")
    overlay_size: int = setting(
        1024, "--overlay-size", "Longest side of an overlay in pixels.", DRAWING, low=1,
        high=16_383)  # WebP's limit
    overlay_format: str = setting(
        "jpeg", "--overlay-format", "File format of overlays.", DRAWING,
        choices=("jpeg", "png", "webp"))
    size: int | None = setting(
        None, "--size", "Side of the network's view in pixels.", PREPARING, low=1)
    resize: int | None = setting(
        None, "--resize", "Shorter side of the picture before cropping.", PREPARING, low=1)
    mean: tuple[float, ...] | None = setting(
        None, "--mean", "Per channel, for values in [0, 1].", PREPARING, metavar="R,G,B")
    std: tuple[float, ...] | None = setting(
        None, "--std", "Per channel, for values in [0, 1].", PREPARING, metavar="R,G,B")
    interpolation: str | None = setting(
        None, "--interpolation", "How pictures are resized.", PREPARING,
        choices=("nearest", "bilinear", "bicubic"))
    fit: str | None = setting(
        None, "--fit", "Cut out the centre, stretch, or fit inside.", PREPARING,
        choices=("crop", "squash", "pad"))
    batch_size: int | None = setting(
        None, "--batch-size",
        "Pictures explained at once (auto: the run's own, else what memory allows).", RUNNING,
        low=1, metavar="auto|N")
    workers: int | None = setting(
        None, "-j --workers", "Threads that decode and write (auto: one per core).", RUNNING,
        low=1, metavar="auto|N")
    limit: int | None = setting(None, "--limit", "Explain at most N pictures.", RUNNING, low=1)
    max_errors: int | None = setting(
        None, "--max-errors", "Stop once more than N inputs have failed.", RUNNING, low=0)
    fail_fast: bool = setting(
        False, "--fail-fast/--no-fail-fast", "Stop at the first input that fails.", RUNNING)
    retry_failed: bool = setting(
        False, "--retry-failed/--no-retry-failed", "Try again what failed for good.", RUNNING)
    overwrite: bool = setting(
        False, "--overwrite/--resume", "Start over, or go on where the last run ended.", RUNNING)
    shard: str = setting(
        "auto", "--shard", "Explain a part of the inputs: shard I of N, from 0 (auto: what Slurm, "
        "torchrun or Kubernetes say).", RUNNING, metavar="I/N|none|auto")
    ray: str = setting(
        "none", "--ray", "Explain in tasks on a Ray cluster (the extra ray) that shares a file "
        "system: HOST:PORT, auto for the one that runs here, nothing to start one.", RUNNING,
        metavar="[ADDRESS]")
    ray_shards: int | None = setting(
        None, "--ray-shards", "How many shards (auto: those that are there already, else 4 for "
        "each task that the cluster runs at once).", RUNNING, low=1, metavar="auto|N")
    max_pixels: int = setting(
        100_000_000, "--max-pixels", "Refuse larger pictures, by their header.", RUNNING, low=1)
    isolate: bool = setting(
        True, "--isolate/--no-isolate",
        "Decode in processes, where a crash or a hang costs one picture, or in threads.", RUNNING)
    decode_timeout: float = setting(
        60.0, "--decode-timeout",
        "Seconds a picture may take to decode; threads cannot be stopped, so not for them.",
        RUNNING, low=0.01)
    lock_timeout: float = setting(
        0.0, "--lock-timeout", "Seconds to wait for another run in the same directory.", RUNNING,
        low=0)
    dry_run: bool = setting(
        False, "-n --dry-run", "List what would be explained, and explain nothing.", RUNNING)
    log_format: str = setting(
        "text", "--log-format", "Sentences on stderr, or a JSON line an event: started, explained, "
        "failed, progress, planned, remark, stopped, error, finished.", SAYING,
        choices=("text", "json"))
    quiet: bool = setting(False, "-q --quiet", "Print nothing when all is well.", SAYING)
    verbose: bool = setting(False, "-v --verbose", "Print a line per input.", SAYING)
    progress: bool = setting(
        True, "--progress/--no-progress", "Show a progress bar on a terminal.", SAYING)
# fmt: on


@cache
def options() -> dict[str, Option]:
    """The command-line face of every setting, by name."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(Config)}


@cache
def kinds() -> dict[str, Any]:
    """The type of every setting, by name."""
    return typing.get_type_hints(Config)


def resolve(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> tuple[Config, dict[str, str]]:
    """The settings, and for each where it came from.

    `flags` holds what was given on the command line; None and empty lists were not. Raises
    UsageError for an unknown key and for a value that does not fit.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(options(), "default")
    given: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        given.append((str(file), _read_toml(file)))
    prefix = "CAMCLI_"
    named = {name: environment[prefix + name.upper()] for name in options()
             if prefix + name.upper() in environment}  # fmt: skip
    given.append(("environment", named))
    given.append(("flag", {k: v for k, v in flags.items() if v is not None and v != []}))
    for origin, source in given:
        for name, value in source.items():
            shown = f"{prefix}{name.upper()}" if origin == "environment" else _flag(name)
            values[name] = parse(name, value, shown if origin != str(file) else f"{name} in {file}")
            origins[name] = origin
    return Config(**values), origins


def parse(name: str, value: Any, shown: str) -> Any:
    """A value from a flag, a variable or TOML as the setting's own type; `shown` names it."""
    return typed(kinds()[name], options()[name], value, shown, name in _MAY_BE_EMPTY)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read_toml(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of encoding, of syntax, of endless numbers
        raise UsageError(f"--config {file} is not TOML: {error}") from error
    settings = {key.replace("-", "_"): value for key, value in content.items()}
    for key in settings:
        if key not in options():
            hint = did_you_mean(key, options()) or "."
            raise UsageError(f"no setting '{key}' in {file}{hint} List them: camcli config show")
    return settings
