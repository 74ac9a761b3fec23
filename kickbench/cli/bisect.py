# SPDX-License-Identifier: Apache-2.0
"""``kickbench bisect``: the commit that changed an exact count of instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kickbench.cli.lab import Jobs, heed_sigterm
from kickbench.cli.run import shipped_names
from kickbench.errors import MeasurementError


def bisect(
    source: Annotated[
        Path, typer.Option("--source", metavar="GIT", help="A git repository of the kernel.")
    ],
    good: Annotated[str, typer.Option("--good", metavar="REV", help="A commit before the change.")],
    bad: Annotated[str, typer.Option("--bad", metavar="REV", help="A commit after the change.")],
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario's file, or a name that scenario list shows.",
            autocompletion=shipped_names,
        ),
    ] = "instruction_counts",
    case: Annotated[
        str | None,
        typer.Option(
            "--case",
            metavar="ID",
            help="Count in this case of the scenario.",
            show_default="the first that has the metric",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Count this method: an id, or a C file.",
            show_default="the scenario's baseline",
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", metavar="exit|send|kick|shared_lines", help="What to count.")
    ] = "exit",
    min_step: Annotated[
        int,
        typer.Option("--min-step", metavar="N", min=1, help="Ignore smaller changes of the count."),
    ] = 1,
    count_all: Annotated[
        bool, typer.Option("--all", help="Count every commit, and find every change.")
    ] = False,
    jobs: Jobs = None,
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            min=1,
            help="Skip a commit whose machine takes longer.",
        ),
    ] = 1800,
) -> None:
    """Find the commit that changed the cost of an exit or a kick.

    The cost is counted in instructions. With shared_lines it is the number of cache lines that two
    vCPUs share in an exit. Kernels are built without the lab's patches, and run in an emulated
    machine. git bisect chooses the commits, in a worktree of its own. So the repository's files,
    HEAD, index and refs stay as they are. A commit that cannot be built or run is skipped. After
    Ctrl-C, the same command goes on.

    The last line is "first bad commit: SHA SUBJECT".
    """
    from kickbench.lab import tools
    from kickbench.lab.bisect import counting, search, words
    from kickbench.lab.bisect.repository import Repository
    from kickbench.lab.emulator import Limits
    from kickbench.lab.kbuild import say
    from kickbench.scenario.shipped import resolve

    chosen = counting.case_of(resolve(scenario), metric, method, case)
    what = counting.METRICS[metric]
    for user in ("bisect", what.machine):
        tools.require(user)
    repository = Repository.of(source)
    first, last = repository.commit(good), repository.commit(bad)
    repository.check_range(first, last)
    heed_sigterm()
    limits = Limits(total=time_limit)
    with counting.place(repository, first) as place:
        say(f"working in {place.folder}: if this is interrupted, the same command goes on")
        lab = counting.Lab(what, chosen, place.worktree, place.objects, jobs, limits)
        counts = counting.Counts(place.counts(lab.what()), metric, lab.count)
        if count_all:
            found = search.series(repository, counts, first, last, min_step)
        else:
            found = search.search(place.worktree, counts, first, last, min_step, place.log)
        for line in words.lines(found):
            typer.echo(line)
    if not count_all:
        say(f"git's log: {place.log}")
    if found.steps and len(found.steps[0].suspects) > 1:
        raise MeasurementError(
            f"the first bad commit is one of {len(found.steps[0].suspects)}: all but the last of "
            "them could not be built or run"
        )
