# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab``: a kernel with the proposed ioctls, and emulated machines to run it in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench.errors import EXIT_HOST, UsageError

if TYPE_CHECKING:
    from kickbench.lab.machines import Machine

app = typer.Typer(
    help="Run scenarios in an emulated host: patched kernel, NUMA nodes, nested virtualization.",
    no_args_is_help=True,
)

MachineName = Annotated[
    str, typer.Option("--machine", metavar="NAME", help="An emulated machine; see lab doctor.")
]
Kernel = Annotated[
    Path | None,
    typer.Option(
        "--kernel", metavar="BZIMAGE", help="Another kernel than the lab's.", show_default=False
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        min=1,
        help="End the machine after this time, in all.",
        show_default="4 hours",
    ),
]


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the machines, the tools that the lab needs, and how to install what is missing.

    Exit code 3 when something is missing.
    """
    import json

    from kickbench.lab.machines import MACHINES
    from kickbench.lab.tools import TOOLS, install_line

    found = {tool.name: tool.find() for tool in TOOLS}
    lacking = [tool for tool in TOOLS if found[tool.name] is None]
    if as_json:
        rows = [
            {**vars(tool), "found": path and str(path)}
            for tool, path in zip(TOOLS, found.values(), strict=True)
        ]
        answer = {"complete": not lacking, "tools": rows}
        answer["install"] = install_line(lacking) if lacking else None
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.secho("The lab's machines:", bold=True)
        width = max(map(len, MACHINES))
        for machine in MACHINES.values():
            typer.echo(f"  {machine.id:<{width}}  {machine.doc}")
        typer.echo()
        typer.secho("What they and the kernel's build need:", bold=True)
        width = max(len(tool.name) for tool in TOOLS)
        packages = max(len(tool.package) for tool in TOOLS)
        for tool in TOOLS:
            there = found[tool.name] is not None
            status = typer.style(
                "found  " if there else "missing", fg="green" if there else "red", bold=True
            )
            typer.echo(
                f"  {status}  {tool.name:<{width}}  {tool.package:<{packages}}  "
                f"{tool.doc} ({', '.join(tool.users)})"
            )
        if lacking:
            typer.echo(f"\nInstall what is missing:\n  {install_line(lacking)}")
    if lacking:
        raise typer.Exit(EXIT_HOST)


@app.command()
def build(
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            help="A kernel's source, a folder or tarball.",
            show_default="Debian's linux-source-6.12",
        ),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", metavar="NAME", help="lab, debug or no-immediate-exit.")
    ] = "lab",
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Compilers at once.", show_default="all CPUs"),
    ] = None,
) -> None:
    """Build the lab's kernel, once, and print where it is."""
    from kickbench.lab import build as builder

    _heed_sigterm()
    typer.echo(str(builder.build(source, config, jobs)))


@app.command()
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(help="A scenario file, or the name of a shipped one.", show_default=False),
    ] = None,
    machine: MachineName = "amd-numa",
    kernel: Kernel = None,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where run folders are made.")
    ] = Path("results"),
    quick: Annotated[bool, typer.Option("--quick", help="As of kickbench run.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="DIR", help="Finish this interrupted run.", show_default=False
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when the machine cannot run every case.")
    ] = False,
    trust_protocols: Annotated[
        bool,
        typer.Option(
            "--trust-protocols", help="With --resume: compile and run the C files it names."
        ),
    ] = False,
    time_limit: TimeLimit = None,
) -> None:
    """Measure a scenario in an emulated machine and store the results, marked as emulated."""
    if (scenario is None) == (resume is None):
        raise UsageError("name a scenario to run, or a run's folder with --resume")
    if resume is not None and (quick or strict):
        raise UsageError("--resume finishes a run as it was begun: name no scenario, no --quick")

    from kickbench.lab import run as lab
    from kickbench.lab.emulator import LIMIT_SECONDS, Limits
    from kickbench.methods import is_protocol_file
    from kickbench.results.reader import load_manifest
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    chosen, bzimage = _prepare(machine, kernel)
    if scenario is not None:
        # Here, where it takes a moment: what is wrong with it is not worth a machine.
        reads = resolve(scenario)
        methods = load(reads).measure.methods
        writes_to = lab.inside(chosen, results)
        arguments = [scenario, "--results", str(writes_to)]
        arguments += ["--quick"] * quick + ["--strict"] * strict
    else:
        assert resume is not None
        begun = load_manifest(resume)
        reads = writes_to = lab.inside(chosen, resume)
        methods = tuple(method for entry in begun["cases"] for method in entry["case"]["methods"])
        arguments = ["--resume", str(reads)] + ["--trust-protocols"] * trust_protocols
    if not chosen.emulator.sees_host and any(map(is_protocol_file, methods)):
        raise UsageError(f"{chosen.id} has no compiler for protocols of your own: use amd-numa")
    _heed_sigterm()
    status = lab.run(
        chosen,
        bzimage,
        arguments,
        reads=reads,
        writes_to=writes_to,
        resume=lab.resume_words(chosen, kernel),
        limits=Limits(total=time_limit or LIMIT_SECONDS),
    )
    raise typer.Exit(status)


@app.command()
def counts(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one with runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a run's exact counts of instructions, of a machine that counts them."""
    import json

    from kickbench.lab.counts import counts as count
    from kickbench.results.discover import find_run

    rows = list(count(find_run(run)))
    if as_json:
        plain = [
            {"case": row.case, "method": row.method, "what": row.what, **vars(row.count)}
            for row in rows
        ]
        typer.echo(json.dumps(plain, indent=2))
        return
    case = None
    for row in rows:
        if row.case != case:
            case = row.case
            typer.secho(f"\n{case}", bold=True)
            typer.echo(
                f"  {'method':<34}  {'what':<8}  instructions     least      mean  share of samples"
            )
        one = row.count
        name = f"{row.method:<34}  {row.what:<8}"
        share = f"{one.share:.1%} of {one.samples:,}"
        numbers = f"{one.instructions:>12,}  {one.least:>8,}  {one.mean:>8,.0f}"
        typer.echo(f"  {name}  {numbers}  {share}")


@app.command(context_settings={"ignore_unknown_options": True})
def shell(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]", help="Run this instead of a shell.", show_default=False
        ),
    ] = None,
    machine: MachineName = "amd-numa",
    kernel: Kernel = None,
    time_limit: TimeLimit = None,
) -> None:
    """Open a shell in an emulated machine: this host's files, which it cannot change.

    Ends with the shell, or with Ctrl-A x. With a COMMAND, its exit code is the command's.
    intel-vmx runs a COMMAND only, and has a few programs and the files that the COMMAND names.
    """
    import math
    import os
    import shutil
    import sys

    from kickbench.lab.emulation import Order
    from kickbench.lab.emulator import LIMIT_SECONDS, Limits, environment, execute

    if not command and not sys.stdin.isatty():
        raise UsageError("a shell needs a terminal; name a command after --")
    chosen, bzimage = _prepare(machine, kernel)
    columns, rows = shutil.get_terminal_size()
    order = Order(
        command or [os.environ.get("SHELL", "/bin/sh")],
        environment({"KICKBENCH_MACHINE": chosen.id}),
        Path.cwd(),
        # Programs of the user's own, and what they read, for a machine that does not see this host.
        # (Path.is_file() would raise for a script's text, which is no name.)
        reads=[Path(word) for word in command or () if os.path.isfile(word)],  # noqa: PTH113
        terminal=None if command else (rows, columns),
    )
    total = time_limit or (LIMIT_SECONDS if command else math.inf)
    _heed_sigterm()
    raise typer.Exit(execute(chosen, bzimage, order, Limits(total=total)))


def _prepare(name: str, kernel: Path | None) -> tuple[Machine, Path]:
    """The machine and its kernel. Raises UsageError or HostError for what is not there."""
    from kickbench.lab import build as builder
    from kickbench.lab import machines, tools

    machine = machines.find(name)
    tools.require(machine.id)
    if kernel is None:
        return machine, builder.built()
    if not kernel.is_file():
        raise UsageError(f"{kernel}: no such file")
    return machine, kernel


def _heed_sigterm() -> None:
    """Ended by a service manager: as with Ctrl-C, what is finished is kept."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
