# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab``: a kernel with the proposed ioctls, and emulated machines to run it in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench import interrupts
from kickbench.cli.run import Quick, Results, Resume, ScenarioName, TrustProtocols, run_on
from kickbench.errors import EXIT_HOST, UsageError
from kickbench.lab import ARCHITECTURES

if TYPE_CHECKING:
    from kickbench.lab.machines import Machine

_ARCHITECTURES = " or ".join(ARCHITECTURES)

app = typer.Typer(
    help="Run scenarios in an emulated host.\n\n"
    "The host has a patched kernel, and NUMA nodes or nested virtualization.",
    no_args_is_help=True,
)

MachineName = Annotated[
    str,
    typer.Option("--machine", metavar="NAME", help="The emulated machine. lab doctor lists them."),
]
Kernel = Annotated[
    Path | None,
    typer.Option(
        "--kernel", metavar="BZIMAGE", help="Boot this kernel, not the lab's.", show_default=False
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="How many compilers run at once.", show_default="all CPUs"
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        min=1,
        help="End the machine after this time.",
        show_default="4 hours",
    ),
]


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the machines, and the tools that the lab needs.

    It also shows how to install what is missing. The exit code is 3 if something is missing.
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
        answer = {"schema": 1, "complete": not lacking, "tools": rows}
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
            help="The source of the kernel: a folder or a tarball.",
            show_default="Debian's linux-source-6.12",
        ),
    ] = None,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="NAME",
            help="The configuration: lab, debug, no-immediate-exit, observe, private-memory, kexec "
            "or kexec-no-immediate-exit.",
        ),
    ] = "lab",
    arch: Annotated[
        str,
        typer.Option("--arch", metavar="NAME", help=f"The architecture: {_ARCHITECTURES}."),
    ] = ARCHITECTURES[0],
    no_patches: Annotated[
        bool, typer.Option("--no-patches", help="Leave out the proposed ioctls.")
    ] = False,
    jobs: Jobs = None,
) -> None:
    """Build the lab's kernel, and print its path.

    A kernel is built once, and so is the root of machines of another architecture. The next call
    prints the path at once. Without the patches, any source of Linux 6.1 or later can be built, for
    example to explain it with lab explain --against.
    """
    from kickbench.lab import build as builder
    from kickbench.lab.root import root

    heed_sigterm()
    image = builder.build(source, config, jobs, arch, patched=not no_patches)
    if arch != ARCHITECTURES[0]:  # whose machines have this host's root
        root(arch)
    typer.echo(str(image))


@app.command()
def run(
    scenario: ScenarioName = None,
    machine: MachineName = "amd-numa",
    kernel: Kernel = None,
    results: Results = Path("results"),
    quick: Quick = False,
    resume: Resume = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if the machine cannot run every case.")
    ] = False,
    trust_protocols: TrustProtocols = False,
    time_limit: TimeLimit = None,
) -> None:
    """Measure a scenario in an emulated machine.

    The results are stored as those of kickbench run, and marked as emulated.
    """
    if (scenario is None) == (resume is None):
        raise UsageError(
            "run needs either a scenario or --resume; name a scenario to run, or a run's folder "
            "with --resume"
        )
    if resume is not None and (quick or strict):
        raise UsageError(
            "--resume finishes a run with the settings it began with; leave out --quick and "
            "--strict"
        )

    from kickbench.cli.machines import MACHINES
    from kickbench.lab.emulator import LIMIT_SECONDS, Limits
    from kickbench.results.reader import load_manifest
    from kickbench.results.writer import check_place
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    # The check here takes a moment. To find the error later would take the machine's whole boot.
    if scenario is not None:
        load(resolve(scenario))
        check_place(results)
    else:
        assert resume is not None
        load_manifest(resume)
    heed_sigterm()
    run_on(
        MACHINES["lab"](machine, kernel, Limits(total=time_limit or LIMIT_SECONDS)),
        scenario,
        results,
        resume,
        quick=quick,
        strict=strict,
        trust_protocols=trust_protocols,
    )


@app.command()
def counts(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run, or one with runs below it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the exact instruction counts of a run.

    The run must be of a machine that counts instructions.
    """
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
            metavar="[-- COMMAND...]", help="Run COMMAND instead of a shell.", show_default=False
        ),
    ] = None,
    machine: MachineName = "amd-numa",
    kernel: Kernel = None,
    time_limit: TimeLimit = None,
) -> None:
    """Open a shell in an emulated machine.

    The machine sees this host's files, and cannot change them. It ends with the shell, or with
    Ctrl-A x. With a COMMAND, the exit code is that of the COMMAND.

    intel-vmx has no shell: it runs a COMMAND only. It sees only a few programs, and the files
    that the COMMAND names. The machines with arm64 have a few programs of their own, and this
    host's files in /host.
    """
    import math
    import os
    import shutil
    import sys

    from kickbench.lab.emulation import Order
    from kickbench.lab.emulator import LIMIT_SECONDS, Limits, environment, execute
    from kickbench.lab.run import resume_words
    from kickbench.run.emulated import Mark

    if not command and not sys.stdin.isatty():
        raise UsageError("a shell needs a terminal, and there is none; name a command after --")
    chosen, bzimage = prepare(machine, kernel)
    columns, rows = shutil.get_terminal_size()
    # What kickbench finds inside is found in an emulated host.
    mark = Mark(
        chosen.description(),
        ["kickbench", *sys.argv[1:]],
        resume_words(chosen, kernel),
        chosen.count_step,
    )
    order = Order(
        command or [_shell(chosen)],
        environment({"KICKBENCH_MACHINE": chosen.id, **mark.to_environment()}),
        chosen.emulator.place(Path.cwd()),
        # The user's own programs and their input, for a machine that does not see this host.
        # (Path.is_file() would raise for a script's text, which is no name.)
        reads=[Path(word) for word in command or () if os.path.isfile(word)],  # noqa: PTH113
        terminal=None if command else (rows, columns),
    )
    total = time_limit or (LIMIT_SECONDS if command else math.inf)
    heed_sigterm()
    raise typer.Exit(execute(chosen, bzimage, order, Limits(total=total)))


def _shell(machine: Machine) -> str:
    """The user's shell, if the machine has this host's programs."""
    import os

    ours = os.environ.get("SHELL", "/bin/sh")
    return ours if machine.emulator.place(Path(ours)) == Path(ours) else "/bin/sh"


def prepare(name: str, kernel: Path | None) -> tuple[Machine, Path]:
    """The machine and its kernel. Raises UsageError or HostError if one of them is missing."""
    from kickbench.lab import build as builder
    from kickbench.lab import machines, tools

    machine = machines.find(name)
    tools.require(machine.id)
    if kernel is None:
        return machine, builder.built(arch=machine.emulator.arch)
    if not kernel.is_file():
        raise UsageError(f"{kernel}: no such file")
    wanted, found = machine.emulator.arch, builder.arch_of(kernel)
    if found not in (wanted, None):
        raise UsageError(f"{kernel}: this kernel is for {found}, and {name} boots one for {wanted}")
    return machine, kernel


def heed_sigterm() -> None:
    """Keep finished cases when a service manager ends this command, as after Ctrl-C."""
    import signal

    interrupts.heed(signal.SIGTERM)
