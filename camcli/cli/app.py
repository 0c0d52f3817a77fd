"""The `camcli` command, and the exit status of what a user can cause."""

from __future__ import annotations

import errno
import inspect
import io
import signal
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import camcli
from camcli.cli.console import complain
from camcli.cli.process import fill_standard_streams
from camcli.errors import CamcliError, ModelWarning

# Each is a module here, with a `command` or an `app` of several. It says the same of itself.
COMMANDS = {
    "explain": "Explain pictures: an overlay, a JSON record and an NPZ of raw maps for each.",
    "render": "Draw a run's overlays again from its NPZ and the pictures, without the model.",
    "report": "Make a page to look through a run: report/index.html in its directory.",
    "verify": "Check a run's outputs against its journal: nothing missing, damaged or extra.",
    "merge": "Make one run of the shards in a directory: one journal, one run.json.",
    "export": "Hand a run's maps to other tools: COCO JSON, a FiftyOne dataset, a flat CSV.",
    "compare": "Draw the maps of several methods, layers or classes side by side: a PNG for each "
    "picture.",
    "evaluate": "Measure what maps are worth: faithfulness, robustness, complexity and, where "
    "objects are marked (--annotations), localisation, beside baselines.",
    "models": "List the models that --model knows by name, and their weights, the default first.",
    "layers": "List the layers of a model that can be explained: grid, channels, what follows, "
    "type.",
    "methods": "List the methods, or print the card of one: equation, paper, cost, what it "
    "guarantees.",
    "bench": "Measure a model and a folder: what explaining costs, and where the time goes.",
    "doctor": "Say what is installed, which devices and codecs work, and how to get what is "
    "missing.",
    "config": "Settings and where they come from.",
    "study": "Have people judge maps: a blinded page, and what its answers say.",
}


class _Commands(TyperGroup):
    """Commands that are imported when one of them is named, not to list them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else loaded(name), rest


def loaded(name: str) -> Any:
    """A command, with its options and its whole help; the example in its docstring ends that."""
    module = import_module(f"camcli.cli.{name}")
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    text, _, example = inspect.cleandoc(module.command.__doc__).partition("\n\nExample: ")
    alone = typer.Typer(add_completion=False)
    alone.command(name, help=text, epilog=f"Example: {example}")(module.command)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="camcli",
    cls=_Commands,
    help="Explain image classifiers over folders of pictures: Grad-CAM, HiResCAM, and what each "
    "map is worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _not_loaded() -> None:
    pass


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(_not_loaded)


def _version(asked: bool) -> None:
    if asked:
        print(f"camcli {camcli.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "-V", "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; a user's fault is one sentence and its exit status."""
    fill_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding has not is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # those of libraries, by file and line, are for developers
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ModelWarning)
    if "--ray" in sys.argv:
        from camcli.cli.ray import spelled_out

        sys.argv[1:] = spelled_out(sys.argv[1:])
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except CamcliError as error:
        complain(str(error))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:  # while the commands are being put together
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        _refused(error)
    sys.exit(0)


def _refused(error: OSError) -> NoReturn:
    """The system refused what every command needs: most often, to write to stdout."""
    sys.stdout = None  # what it still holds would be refused again
    if error.errno != errno.EPIPE:
        where = "stdout" if error.filename is None else f"'{error.filename}'"
        complain(f"{where} cannot be used ({error.strerror}); what was done so far is kept")
    sys.exit(1)
