# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab explain``: every instruction of an exit, by function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kickbench.cli.lab import Kernel, MachineName, TimeLimit, heed_sigterm, prepare
from kickbench.errors import UsageError


def explain(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="[SCENARIO]", help="A scenario's file, or a name that scenario list shows."
        ),
    ] = "instruction_counts",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Explain these methods. The first one is the baseline.",
            show_default="the scenario's",
        ),
    ] = None,
    machine: MachineName = "amd-count",
    kernel: Kernel = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write a page with flame graphs there, and the call paths as files.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all counts there.", show_default=False),
    ] = None,
    time_limit: TimeLimit = None,
) -> None:
    """Explain what an exit costs: its instructions, function by function.

    The machine is watched from outside while it runs the methods' own loops. So the functions add
    up to what lab counts prints.
    """
    import json

    from kickbench.lab.emulator import LIMIT_SECONDS, Limits
    from kickbench.lab.explain import words
    from kickbench.lab.explain.case import cases_of
    from kickbench.lab.explain.explain import explain as count
    from kickbench.lab.explain.page import PAGE, page
    from kickbench.scenario.shipped import resolve

    cases = cases_of(resolve(scenario), methods.split(",") if methods else None)
    chosen, bzimage = prepare(machine, kernel)
    for place in filter(None, (output, as_json and as_json.parent)):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{place}: cannot make this folder: {error.strerror}") from None
    heed_sigterm()
    found = count(chosen, bzimage, cases, Limits(total=time_limit or LIMIT_SECONDS))
    if as_json:
        as_json.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    if output:
        for one in found.found:
            text = "".join(f"{line}\n" for line in words.folded_lines(one.folded))
            name = "-".join(filter(None, (one.method, one.state)))
            (output / f"{name}.folded").write_text(text)
        (output / PAGE).write_text(page(found), encoding="utf-8")
        typer.echo(f"Page: {output / PAGE}", err=True)
    for line in (*words.answer(found), *words.tables(found)):
        typer.echo(line)
