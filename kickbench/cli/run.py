# SPDX-License-Identifier: Apache-2.0
"""``kickbench run``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from kickbench.errors import EXIT_INTERRUPTED, MeasurementError, UsageError


def run(
    scenario: Annotated[
        str | None,
        typer.Argument(help="A scenario file, or the name of a shipped one.", show_default=False),
    ] = None,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where run folders are made.")
    ] = Path("results"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One process a case, a second each at most.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="DIR", help="Finish this interrupted run.", show_default=False
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when this host cannot run every case.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait while another kickbench measures on this host."),
    ] = False,
    trust_protocols: Annotated[
        bool,
        typer.Option(
            "--trust-protocols", help="With --resume: compile and run the C files it names."
        ),
    ] = False,
) -> None:
    """Measure a scenario on real KVM and store the results."""
    if resume is not None and (scenario is not None or quick or strict):
        raise UsageError("--resume finishes a run as it was begun: name no scenario, no --quick")

    from kickbench.cli.show import show
    from kickbench.run import runner
    from kickbench.run.progress import observer
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    # Ended by a service manager: as with Ctrl-C, what is finished is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def say(text: str) -> None:
        typer.echo(f"kickbench: {text}", err=True)

    watching, display = observer()
    try:
        with display:
            if resume is not None:
                outcome = runner.resume(
                    resume, watching, trust_protocols=trust_protocols, wait=wait, say=say
                )
            elif scenario is not None:
                model = load(resolve(scenario))
                outcome = runner.run(
                    model, results, watching, quick=quick, strict=strict, wait=wait, say=say
                )
            else:
                raise UsageError("name a scenario to run (kickbench scenario list has some)")
    except runner.RunInterruptedError as interrupted:
        outcome = interrupted.outcome
        cases = "case is" if outcome.finished == 1 else "cases are"
        typer.echo(
            f"kickbench: interrupted; {outcome.finished} finished {cases} kept, continue with\n"
            f"{outcome.resume}",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    show(outcome.folder)
    if outcome.failed:
        case_id, reason = next(iter(outcome.failed.items()))
        cases = "a case" if len(outcome.failed) == 1 else f"{len(outcome.failed)} cases"
        raise MeasurementError(
            f"{cases} failed, {case_id}: {reason}\nwhen that is mended: {outcome.resume}"
        )
