"""The `camcli` command, and the exit status of what a user can cause."""

from __future__ import annotations

import errno
import inspect
import io
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

import camcli
from camcli.cli import (
    bench,
    compare,
    config,
    doctor,
    evaluate,
    explain,
    export,
    layers,
    merge,
    methods,
    models,
    render,
    report,
    study,
    verify,
)
from camcli.cli.console import complain
from camcli.cli.process import fill_standard_streams
from camcli.errors import CamcliError, ModelWarning

app = typer.Typer(
    name="camcli",
    help="Explain image classifiers over folders of pictures: Grad-CAM, HiResCAM, and what each "
    "map is worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, command: Callable[..., None]) -> None:
    """Register a command; the example in its docstring ends its help."""
    text, _, example = inspect.cleandoc(command.__doc__ or "").partition("\n\nExample: ")
    app.command(name, help=text, epilog=f"Example: {example}")(command)


for name, command in (
    ("explain", explain.command),
    ("render", render.command),
    ("report", report.command),
    ("verify", verify.command),
    ("merge", merge.command),
    ("export", export.command),
    ("compare", compare.command),
    ("evaluate", evaluate.command),
    ("models", models.command),
    ("layers", layers.command),
    ("methods", methods.command),
    ("bench", bench.command),
    ("doctor", doctor.command),
):
    _add(name, command)
app.add_typer(config.app, name="config")
app.add_typer(study.app, name="study")


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
