# SPDX-License-Identifier: Apache-2.0
"""``kickbench scenario``: check, list and make scenario files. It runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kickbench.cli.run import shipped_names
from kickbench.errors import EXIT_USAGE, ScenarioError

app = typer.Typer(help="Check, list and make scenario files.", no_args_is_help=True)


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


@app.command()
def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Scenario files, or names of shipped ones.",
            autocompletion=shipped_names,
        ),
    ],
) -> None:
    """Check scenario files.

    For each file it prints "ok" and the number of cases, or what is wrong. It checks all files,
    even if one is wrong.
    """
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve
    from kickbench.scenario.sweep import case_count
    from kickbench.text import printable

    wrong = False
    for file in files:
        try:
            scenario = load(resolve(file))
        except ScenarioError as error:
            wrong = True
            typer.echo(f"kickbench: {error}", err=True)
        else:
            typer.echo(f"{printable(file)}: ok, {_cases(case_count(scenario))}")
    if wrong:
        raise typer.Exit(EXIT_USAGE)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario file.

    Editors use it to check and complete a file (taplo, Even Better TOML).
    """
    import json

    from kickbench.scenario.model import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command("list")
def list_shipped() -> None:
    """List the shipped scenarios.

    Each line has the name, the number of cases, and what the scenario stands for.
    """
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import shipped
    from kickbench.scenario.sweep import case_count
    from kickbench.text import printable

    scenarios = {name: load(path) for name, path in shipped().items()}
    width = max(map(len, scenarios), default=0)
    for name, scenario in scenarios.items():
        summary = printable(scenario.description.strip().partition("\n")[0])
        typer.echo(f"{name:<{width}}  {_cases(case_count(scenario)):>9}  {summary}")


@app.command("from")
def from_results(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            help="The folder of an observation, or one with runs below it. Of several runs, the "
            "newest is taken.",
        ),
    ] = Path("results"),
) -> None:
    """Print a scenario that behaves as an observed VM did.

    For example: kickbench scenario from results/observed-my_guest > my_guest.toml
    """
    from kickbench.observe.replay import scenario_of
    from kickbench.results.discover import find_run

    typer.echo(scenario_of(find_run(results)), nl=False)
