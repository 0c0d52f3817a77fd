"""`camcli config show`"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.options import with_settings

app = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("show", epilog="Example: camcli config show --config configs/nightly.toml")
@with_settings(settings.options())
def show(
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE")
    ] = None,
    **flags: Any,
) -> None:
    """Print every setting of explain as TOML, with where its value comes from."""
    chosen, origins = settings.resolve(flags, os.environ, config)
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        key = field.name.replace("_", "-")
        text = f"# {key} is decided by the model or the machine"
        if value is not None:
            text = f"{key} = {_toml(value)}"
        print(f"{text:<48} # {origins[field.name]}" if value is not None else text)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value))
