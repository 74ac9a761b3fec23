# SPDX-License-Identifier: Apache-2.0
"""``kickbench observe``: watches a VM that runs already, and stores what it did."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench import interrupts
from kickbench.cli.folders import folder
from kickbench.errors import EXIT_INTERRUPTED, EXIT_USAGE, MeasurementError, UsageError
from kickbench.numbers import plural
from kickbench.remote.machines import machine_of

if TYPE_CHECKING:
    from kickbench.watch.process import Vmm


def observe(
    pid: Annotated[
        int | None,
        typer.Argument(
            metavar="PID",
            help="The process of the VM. Without it the VMs of this host are listed.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="GUEST", help="The VM with this name instead of a PID."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="How long to observe.")
    ] = 30.0,
    results: Annotated[
        Path,
        typer.Option(
            "--results",
            metavar="DIR",
            help="Make the folder of the results in DIR.",
            parser=folder,
        ),
    ] = Path("results"),
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="SCENARIO",
            help="Run the guest of this scenario file, and observe it.",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Show what the VM does, once a second.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="USER@BOX",
            help="Observe a VM of this machine, by ssh.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Observe a running VM: its exits, its kicks and its protocol.

    It shows what the VM pays, too. The VM runs on meanwhile. For example:
    sudo kickbench observe $(pidof qemu-system-x86_64)
    """
    from kickbench.observe import recording
    from kickbench.watch import turns
    from kickbench.watch.process import check_namespace

    turns.check_seconds(seconds)
    if sum(one is not None for one in (pid, name, replay)) > 1:
        raise UsageError("name a PID, --name GUEST or --replay SCENARIO, one of them")
    if replay is not None and host is not None:
        raise UsageError("--replay runs its guest on this host: leave out --host")
    interrupts.heed(signal.SIGTERM)
    with machine_of(host) as machine, ExitStack() as stack:
        if replay is not None:
            from kickbench.observe.replay import replaying

            check_namespace()
            vmm = stack.enter_context(replaying(replay, seconds))
        else:
            found = machine.vms(pid, name)
            if pid is None and name is None:
                _list(found, host)
                raise typer.Exit(EXIT_USAGE)
            (vmm,) = found
        folder, ended_by = recording.record(machine, vmm, seconds, results, live=live)

    from kickbench.cli.show import show  # imported now for the reason that recording.py has

    show(folder)
    if isinstance(ended_by, KeyboardInterrupt):
        typer.echo("kickbench: interrupted; what was seen until then is kept", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if ended_by is not None:
        raise MeasurementError(f"{ended_by}; what was seen until then is kept")


def _list(running: list[Vmm], host: str | None) -> None:
    if not running:
        where = "here" if host is None else f"on {host}"
        typer.echo(
            f"kickbench: no VM runs {where}, or none that you may look at (root sees all)", err=True
        )
        return
    typer.echo("kickbench: name one of these VMs by its PID:", err=True)
    for vmm in running:
        typer.echo(f"  {vmm.title}, {plural(len(vmm.vcpu_files), 'vCPU')}", err=True)
