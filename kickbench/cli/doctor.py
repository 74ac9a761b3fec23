# SPDX-License-Identifier: Apache-2.0
"""``kickbench doctor``: prints what :mod:`kickbench.host.doctor` finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kickbench.cli.run import Host
from kickbench.errors import EXIT_HOST
from kickbench.remote.machines import machine_of

if TYPE_CHECKING:
    from kickbench.host.doctor import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    host: Host = None,
) -> None:
    """Show what forbids or disturbs a measurement on this host.

    Each finding has an advice. The exit code is 3 if this host cannot measure.
    """
    import dataclasses
    import json

    from kickbench.host.doctor import can_run

    with machine_of(host) as machine:
        findings = machine.survey().findings
    runs = can_run(findings)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json.dumps({"schema": 1, "can_run": runs, "findings": rows}, indent=2))
    else:
        _print(findings, answer(findings, host))
    if not runs:
        raise typer.Exit(EXIT_HOST)


def answer(findings: list[Finding], host: str | None = None) -> str:
    """The outcome in a sentence. ``host`` is another machine's name."""
    who = host or "This host"
    failed = [finding.title for finding in findings if finding.status == "fail"]
    warned = sum(1 for finding in findings if finding.status == "warn")
    if failed:
        return f"{who} cannot run kickbench: see {', '.join(failed)}."
    if warned:
        things = (
            "1 thing limits or disturbs it"
            if warned == 1
            else (f"{warned} things limit or disturb it")
        )
        return f"{who} can run kickbench, but {things}."
    return f"{who} can run kickbench, and nothing disturbs it."


def _print(findings: list[Finding], headline: str) -> None:
    import shutil
    import textwrap

    typer.secho(headline, bold=True)
    typer.echo()
    title_width = max(len(finding.title) for finding in findings)
    indent = " " * (2 + 4 + 2 + title_width + 2)
    width = max(60, min(100, shutil.get_terminal_size().columns))

    def wrapped(text: str, label: str = "") -> str:
        return textwrap.fill(
            " ".join(text.split()),
            width=width,
            initial_indent=indent + label,
            subsequent_indent=indent + " " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )

    for finding in findings:
        status = typer.style(f"{finding.status:<4}", fg=COLOURS[finding.status], bold=True)
        detail = wrapped(finding.detail)[len(indent) :]
        typer.echo(f"  {status}  {finding.title:<{title_width}}  {detail}")
        if finding.status != "ok":
            typer.echo(wrapped(finding.why, "why: "))
            if finding.advice:
                typer.echo(wrapped(finding.advice, "do:  "))
