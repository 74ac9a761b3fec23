# SPDX-License-Identifier: Apache-2.0
"""``kickbench run``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from kickbench import interrupts
from kickbench.cli.folders import folder
from kickbench.errors import EXIT_INTERRUPTED, MeasurementError, UsageError
from kickbench.remote.machines import machine_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kickbench.run.machine import Machine
    from kickbench.run.runner import Outcome


def shipped_names(incomplete: str) -> list[str]:
    """What a shell completes. It completes files by itself if there is nothing."""
    from kickbench.scenario.shipped import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


ScenarioName = Annotated[
    str | None,
    typer.Argument(
        help="A scenario file, or the name of a shipped one.",
        show_default=False,
        autocompletion=shipped_names,
    ),
]
Results = Annotated[
    Path,
    typer.Option("--results", metavar="DIR", help="Make the run's folder in DIR.", parser=folder),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="One process a case, and some 12 seconds of measuring in all."),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume", metavar="DIR", help="Finish the interrupted run in DIR.", show_default=False
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="USER@BOX",
        help="Measure on this machine, by ssh. Give it again for more machines, at once.",
        show_default=False,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="USER@BOX", help="Look at this machine, by ssh.", show_default=False
    ),
]
TrustProtocols = Annotated[
    bool,
    typer.Option(
        "--trust-protocols",
        help="With --resume: compile and run the C files that the run names.",
    ),
]


def run(
    scenario: ScenarioName = None,
    results: Results = Path("results"),
    quick: Quick = False,
    resume: Resume = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if this host cannot run every case.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait while another kickbench measures on this host."),
    ] = False,
    hosts: Hosts = None,
    trust_protocols: TrustProtocols = False,
) -> None:
    """Measure a scenario on real KVM and store the results.

    For example: kickbench run smp_windows_like --quick
    """
    if resume is not None and (scenario is not None or quick or strict):
        raise UsageError(
            "--resume finishes a run with the settings it began with; "
            "leave out the scenario, --quick and --strict"
        )

    if resume is None and scenario is None:
        raise UsageError(
            "no scenario is named; name one to run (kickbench scenario list shows some)"
        )
    # A service manager ends the run. As after Ctrl-C, finished cases are kept.
    interrupts.heed(signal.SIGTERM)
    if hosts and len(hosts) > 1:
        if scenario is None:
            raise UsageError("--resume finishes a run on the one --host that it began on")
        options = {"--quick": quick, "--strict": strict, "--wait": wait}
        chosen = [name for name, is_set in options.items() if is_set]
        _run_on_several(hosts, [scenario, "--results", str(results), *chosen])
    run_on(
        machine_of(hosts[0] if hosts else None),
        scenario,
        results,
        resume,
        quick=quick,
        strict=strict,
        wait=wait,
        trust_protocols=trust_protocols,
    )


def run_on(
    opened: AbstractContextManager[Machine],
    scenario: str | None,
    results: Path,
    resume: Path | None,
    **options: bool,
) -> None:
    """Run or resume on a machine, and show what was found. ``options`` are those of the runner."""
    with opened as machine:
        outcome = _measure(machine, scenario, results, resume, **options)
    from kickbench.cli.show import show

    show(outcome.folder)
    if outcome.failed:
        case_id, reason = next(iter(outcome.failed.items()))
        cases = "a case" if len(outcome.failed) == 1 else f"{len(outcome.failed)} cases"
        raise MeasurementError(
            f"{cases} failed, {case_id}: {reason}\nwhen that is fixed, continue with: "
            f"{outcome.resume}"
        )


def _run_on_several(hosts: list[str], arguments: list[str]) -> NoReturn:
    from kickbench.cli import several
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    load(resolve(arguments[0]))  # what is wrong with it is said once
    raise typer.Exit(several.run_on(list(dict.fromkeys(hosts)), arguments))


def _measure(
    machine: Machine,
    scenario: str | None,
    results: Path,
    resume: Path | None,
    *,
    quick: bool,
    strict: bool,
    trust_protocols: bool,
    wait: bool = False,
) -> Outcome:
    """Run or resume. Meanwhile a connection to another machine is being made."""
    from kickbench.run import runner
    from kickbench.run.progress import observer
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    def say(text: str) -> None:
        typer.echo(f"kickbench: {text}", err=True)

    watching, display = observer()
    try:
        with display:
            if resume is not None:
                return runner.resume(
                    resume,
                    watching,
                    trust_protocols=trust_protocols,
                    wait=wait,
                    say=say,
                    machine=machine,
                )
            assert scenario is not None
            return runner.run(
                load(resolve(scenario)),
                results,
                watching,
                quick=quick,
                strict=strict,
                wait=wait,
                say=say,
                machine=machine,
            )
    except runner.RunInterruptedError as interrupted:
        outcome = interrupted.outcome
        cases = "case is" if outcome.finished == 1 else "cases are"
        typer.echo(
            f"kickbench: interrupted; {outcome.finished} finished {cases} kept; continue with\n"
            f"{outcome.resume}",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
