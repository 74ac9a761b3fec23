# SPDX-License-Identifier: Apache-2.0
"""The command line: it parses, calls, prints, and ends with an exit code that scripts can use.

Each subcommand is one small module beside this one. The table ``COMMANDS`` lists them. Heavy
libraries are imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer

import kickbench
from kickbench import interrupts
from kickbench.cli import (
    ab,
    bisect,
    compare,
    doctor,
    explain,
    export,
    fleet,
    history,
    lab,
    methods,
    nightly,
    observe,
    predict,
    report,
    run,
    scenario,
    show,
)
from kickbench.errors import (
    EXIT_INTERRUPTED,
    EXIT_MEASUREMENT,
    EXIT_USAGE,
    KickbenchError,
)

# Click's, wherever this version of typer keeps it.
_Misuse: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="kickbench",
    help="Measure, on real KVM, what it costs to get a vCPU out of KVM_RUN.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "run": run.run,
    "show": show.show,
    "report": report.report,
    "compare": compare.compare,
    "ab": ab.app,
    "predict": predict.predict,
    "export": export.export,
    "observe": observe.observe,
    "nightly": nightly.nightly,
    "doctor": doctor.doctor,
    "methods": methods.methods,
    "scenario": scenario.app,
    "history": history.app,
    "fleet": fleet.app,
    "lab": lab.app,
    "bisect": bisect.bisect,
}
"""Every subcommand: a function, or an app that has subcommands of its own."""

lab.app.command()(explain.explain)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kickbench {kickbench.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if debug:
        os.environ["KICKBENCH_DEBUG"] = "1"


def main() -> None:
    """Run the command line and leave with one of the documented exit codes."""
    with _tolerant_streams():
        _run()


def _run() -> None:
    # The terminal is gone (a lost connection). As after Ctrl-C, finished cases are kept.
    interrupts.heed(signal.SIGHUP)
    command = typer.main.get_command(app)
    if os.environ.get("_KICKBENCH_COMPLETE"):
        _complete(command)
    try:
        # Not command.main(): that has exit codes of its own for Ctrl-C and a closed pipe.
        with command.make_context("kickbench", sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        _leave(done.exit_code)
    except KickbenchError as error:
        _fail(str(error), error.exit_code)
    except _Misuse as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except typer.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print("kickbench: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", EXIT_MEASUREMENT)
    except Exception as error:
        # Never 1, which says that a regression was found.
        _fail(
            f"internal error: {error!r}; please report it (--debug shows where)", EXIT_MEASUREMENT
        )


def _complete(command: Any) -> NoReturn:
    """Answer the shell that completes a command."""
    try:
        command.main(prog_name="kickbench")
    except (KeyError, ValueError):
        # Somebody else asks: a shell's COMP_WORDS or COMP_CWORD are missing, or are none.
        sys.exit(1)  # as typer does for what it does not understand
    sys.exit()


class _Output(io.BufferedWriter):
    """A standard stream whose reader may leave (``kickbench show | head``).

    Output that nobody reads is dropped. The command goes on, and its exit code is the usual one.
    For example, a regression still gives exit code 1. This holds for the errors in ``forgiven``.
    Another error, such as a full disk, is raised once.

    What was written has left the buffer before Python runs again. So a Ctrl-C then does not have
    it written twice.
    """

    def __init__(self, descriptor: int, forgiven: type[OSError]) -> None:
        super().__init__(io.FileIO(descriptor, "wb", closefd=False))
        self._forgiven = forgiven

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._drop(error)
            return super().write(data)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)
            super().flush()

    def _drop(self, error: OSError) -> None:
        """Let nobody have the output from now on, or raise the error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, self._forgiven):
            raise OSError(error.errno, error.strerror, "standard output") from None


@contextmanager
def _tolerant_streams() -> Iterator[None]:
    """Drop what a command writes to a standard stream that is closed (``>&-``), or closes later."""
    before = sys.stdout, sys.stderr
    # If stderr fails, there is no place left for a message.
    for name, forgiven in (("stdout", BrokenPipeError), ("stderr", OSError)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            tolerant = io.TextIOWrapper(
                _Output(stream.fileno(), forgiven),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, tolerant)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # what matters was flushed by the command
                stream.flush()
        sys.stdout, sys.stderr = before


def _leave(code: int) -> NoReturn:
    """End with the code, or with a failure if the output could not be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _fail(f"standard output: {error.strerror}", code or EXIT_MEASUREMENT)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    """End with the message, and with the traceback of the error at hand if --debug asks for it."""
    if os.environ.get("KICKBENCH_DEBUG"):
        traceback.print_exc()
    print(f"kickbench: {message}", file=sys.stderr)
    sys.exit(code)
