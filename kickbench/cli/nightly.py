# SPDX-License-Identifier: Apache-2.0
"""``kickbench nightly``: one night of the job that a configuration file describes."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kickbench.nightly.config import Config
    from kickbench.nightly.job import Result
    from kickbench.run.runner import Outcome
    from kickbench.scenario.model import Scenario

_SUMMARY = "GITHUB_STEP_SUMMARY"


def nightly(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="The job's file. docs/nightly.md describes its keys."
        ),
    ],
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            metavar="FILE",
            help="Also write JUnit XML, with a test case for each metric.",
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write everything as JSON."),
    ] = None,
) -> None:
    """Measure scenarios, and show what got slower, and since when.

    The results of the night are added to the history. The output is Markdown.

    Exit codes: 0, no regression. 1, a regression, or a race-free protocol lost kicks. 3, this host
    cannot measure. 4, a measurement failed.
    """
    from kickbench.errors import EXIT_OK
    from kickbench.nightly import job
    from kickbench.nightly.config import load
    from kickbench.nightly.outputs import OUTPUTS

    # A service manager ends the job. As after Ctrl-C, finished cases are kept.
    interrupts.heed(signal.SIGTERM)
    files = {"junit": junit, "json": as_json}
    wanted = {name: file for name, file in files.items() if file is not None}
    job_config = load(config)
    _check(wanted, job_config)
    _keep(job_config, [])  # what others have added to the history
    result = job.run(job_config, partial(_measure, several=len(job_config.hosts) > 1))
    typer.echo(OUTPUTS["markdown"](result), nl=False)
    codes = {result.exit_code} | _write_all(result, wanted, OUTPUTS)
    codes |= _keep(job_config, [p.run for p in result.parts if p.run and p.night is not None])
    code = result.exit_code if result.interrupted is not None else job.worst(codes)
    if code != EXIT_OK:
        raise typer.Exit(code)


def _measure(scenario: Scenario, results: Path, host: str, *, several: bool) -> Outcome:
    """Run a scenario as ``kickbench run`` does, with its display.

    With ``several`` hosts, a line before it says which one it is.
    """
    from kickbench.nightly.config import THIS_HOST
    from kickbench.remote.machines import machine_of
    from kickbench.run import runner
    from kickbench.run.progress import observer

    def say(text: str) -> None:
        typer.echo(f"kickbench: {text}", err=True)

    if several:
        say(f"{scenario.name} on {host}")
    watching, display = observer()
    with machine_of(None if host == THIS_HOST else host) as machine, display:
        return runner.run(scenario, results, watching, wait=True, say=say, machine=machine)


def _keep(config: Config, runs: Sequence[Path]) -> set[int]:
    """Exchange the history with the store, and add runs to it. Returns the code of a failure.

    Raises UsageError if there can be no such store. One that cannot be reached costs no night.
    """
    if not config.store:
        return set()
    from kickbench.errors import KickbenchError, UsageError
    from kickbench.fleet.files import Files
    from kickbench.fleet.nights import HISTORY, exchange
    from kickbench.fleet.store import add_run, host_name
    from kickbench.host.environment import hostname
    from kickbench.summary.data import RunData
    from kickbench.text import printable

    files = Files(config.store)
    try:
        for run in runs:
            add_run(files, RunData.load(run))
        host = host_name({"hostname": hostname()})
        exchange(files, f"{HISTORY}/host={host}", config.history)
    except UsageError:
        raise
    except KickbenchError as error:
        typer.echo(printable(f"kickbench: {error}"), err=True)
        return {error.exit_code}
    return set()


def _check(outputs: dict[str, Path], config: Config) -> None:
    """Check before the hours of measuring that each file can be written and replaces no input."""
    from kickbench.errors import UsageError

    faults = []
    taken: dict[Path, str] = {}
    for name, file in outputs.items():
        real = file.resolve()
        folder = file.absolute().parent
        if file.is_dir():
            faults.append(f"{file}: is a folder; name a file")
        elif not os.access(folder, os.W_OK):
            what = "cannot be written to" if folder.exists() else "does not exist"
            faults.append(f"{file}: its folder {what}")
        elif real in [read.resolve() for read in config.files]:
            faults.append(f"{file}: this job reads this file; name another one for --{name}")
        elif real in taken and not (file.exists() and not file.is_file()):
            faults.append(f"{file}: --{name} and --{taken[real]} name the same file; name two")
        taken[real] = name
    if faults:
        raise UsageError("\n".join(faults))


def _write_all(
    result: Result, files: dict[str, Path], outputs: dict[str, Callable[[Result], str]]
) -> set[int]:
    """Write each output, even if another one fails. Returns the exit codes of the failures."""
    from kickbench.errors import EXIT_MEASUREMENT, KickbenchError
    from kickbench.results.files import write_output
    from kickbench.text import printable

    codes = set()

    def failed(message: object) -> None:
        typer.echo(printable(f"kickbench: {message}"), err=True)
        codes.add(EXIT_MEASUREMENT)

    for name, file in files.items():
        try:
            write_output(file, outputs[name](result).encode("utf-8", "replace"))
        except KickbenchError as error:
            failed(error)
    if summary := os.environ.get(_SUMMARY):
        try:
            with Path(summary).open("a", encoding="utf-8", errors="replace") as more:
                more.write(outputs["markdown"](result))
        except OSError as error:
            failed(f"{_SUMMARY}={summary}: {error.strerror}")
    return codes
