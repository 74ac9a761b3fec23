# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab explain``: every instruction of an exit, by function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kickbench.cli.lab import Kernel, MachineName, TimeLimit, heed_sigterm, prepare
from kickbench.cli.run import shipped_names


def explain(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario's file, or a name that scenario list shows. All that can be explained "
            "of it is.",
            show_default="exits and kicks of a halted vCPU",
            autocompletion=shipped_names,
        ),
    ] = None,
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
    base: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="BZIMAGE",
            help="Explain this kernel too, and say what the other one does more.",
            show_default=False,
        ),
    ] = None,
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
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="RUN",
            help="Write the page and all counts into the folder of a run. Its report shows them.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all counts there.", show_default=False),
    ] = None,
    as_markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            help="With --against: write what differs there, as a comment on a pull request.",
            show_default=False,
        ),
    ] = None,
    fail: Annotated[
        bool,
        typer.Option(
            "--fail-on-increase", help="With --against: exit code 1 if a count is larger."
        ),
    ] = False,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines/--no-lines",
            help="Find the cache lines that threads share, too, in a machine of several CPUs.",
        ),
    ] = True,
    time_limit: TimeLimit = None,
) -> None:
    """Explain the instructions of an exit and a kick, by function.

    The machine is watched from outside while it runs the methods' own loops. So the functions of
    an exit add up to what lab counts prints. A function that the compiler put into its caller
    counts as its caller. Another machine, of several CPUs, shows which cache lines the threads
    share.
    """
    import json
    from dataclasses import replace

    from kickbench.errors import EXIT_REGRESSION, UsageError
    from kickbench.lab.beside import beside
    from kickbench.lab.emulator import LIMIT_SECONDS, Limits
    from kickbench.lab.explain import shared_words, words
    from kickbench.lab.explain.case import cases_of
    from kickbench.lab.explain.explain import explain as count
    from kickbench.lab.explain.gate import grew, to_markdown
    from kickbench.lab.explain.page import page
    from kickbench.lab.explain.shared import jobs, shared
    from kickbench.lab.explain.subject import EXIT
    from kickbench.lab.explain.symbols import system_map_of
    from kickbench.lab.machines import LINES, find
    from kickbench.results.discover import find_run
    from kickbench.results.explanation import FILE, PAGE
    from kickbench.results.files import make_folder, replace_file, write_output
    from kickbench.scenario.shipped import resolve

    if base is None and (as_markdown or fail):
        raise UsageError("--markdown and --fail-on-increase need a kernel to compare: --against")
    path = resolve(scenario or "instruction_counts")
    named = methods.split(",") if methods else None
    cases = cases_of(path, named, machine=find(machine), everything=scenario is not None)
    chosen, bzimage = prepare(machine, kernel)
    images = [bzimage] if base is None else [bzimage, prepare(machine, base)[1]]
    for image in images:  # before the first machine has run for a while
        system_map_of(image)
    run = find_run(into) if into else None
    files = [file.parent for file in (as_json, as_markdown) if file]
    for place in filter(None, (output, *files)):
        make_folder(place, "choose another one")
    heed_sigterm()
    limits = Limits(total=time_limit or LIMIT_SECONDS)
    where = LINES[chosen.emulator.arch]
    wanted = jobs(cases) if lines and base is None else []
    # Two machines take a CPU each.
    with beside(lambda: shared(where, bzimage, wanted, limits) if wanted else []) as lines_found:
        found, *others = [count(chosen, image, cases, limits) for image in images]
        found = replace(found, shared=tuple(lines_found()))
    other = others[0] if others else None
    document = found.to_dict() | ({"against": other.to_dict()} if other else {})
    as_text = f"{json.dumps(document, indent=2)}\n".encode()
    if as_json:
        write_output(as_json, as_text)
    if as_markdown and other:
        write_output(as_markdown, to_markdown(found, other).encode())
    if run:
        replace_file(run / PAGE, page(found).encode())
        replace_file(run / FILE, as_text)
        typer.echo(f"Page: {run / PAGE}", err=True)
    if output:
        for one in found.found:
            text = "".join(f"{line}\n" for line in words.folded_lines(one.folded))
            name = one.method if one.subject == EXIT else f"{one.method}-{one.subject.id}"
            replace_file(output / f"{name}.folded", text.encode())
        replace_file(output / PAGE, page(found).encode())
        typer.echo(f"Page: {output / PAGE}", err=True)
    said = words.against(found, other) if other else (*words.answer(found), *words.tables(found))
    for line in (*said, *shared_words.text(found.shared)):
        typer.echo(line)
    if fail and other and grew(found, other):
        raise typer.Exit(EXIT_REGRESSION)
