# SPDX-License-Identifier: Apache-2.0
"""``kickbench predict``: what a protocol's lock costs with vCPUs and nodes that you do not have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kickbench.cli.terminal import Line, print_lines
from kickbench.errors import ResultsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kickbench.report.words.names import Summary
    from kickbench.summary.prediction import Basis, Level, Predicted


_POINTS_PER_SECOND = 10


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run that measured exits with sigmask and sigmask_same, or one "
            "with runs below it. Of several runs, the newest is taken.",
        ),
    ] = Path("results"),
    handovers: Annotated[
        Path | None,
        typer.Option(
            "--handovers",
            metavar="RUN",
            help="The run with the hand-overs of a cache line, if it is another one.",
        ),
    ] = None,
    vcpus: Annotated[
        str,
        typer.Option("--vcpus", metavar="LIST", help="Numbers of vCPUs, such as 1,16,64."),
    ] = "1,2,4,8,16,32,64,128,256,512,1024",
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="LIST", help="Numbers of NUMA nodes, such as 1,2.")
    ] = "1,2,4,8",
    other_node_ns: Annotated[
        float | None,
        typer.Option(
            "--other-node-ns",
            metavar="NS",
            help="What a hand-over between nodes takes, if this host has one node only.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Predict what siglock costs with more vCPUs and NUMA nodes.

    A simulation of the kernel's queued spinlock starts from a run with one vCPU, and from the time
    that a cache line takes from CPU to CPU. For example: kickbench run siglock_prediction, then
    kickbench predict. It is a prediction, and is shown beside what was measured.
    """
    from kickbench.compare.identity import changes
    from kickbench.results.discover import find_run
    from kickbench.results.schema import dump_json
    from kickbench.summary import prediction
    from kickbench.summary.data import RunData

    sizes = _numbers("--vcpus", vcpus, prediction.MOST_VCPUS)
    counts = _numbers("--nodes", nodes, prediction.MOST_NODES)
    if other_node_ns is not None and not (math.isfinite(other_node_ns) and other_node_ns > 0):
        raise UsageError("--other-node-ns must be a time above 0")
    summary = RunData.load(find_run(run)).summary
    lines = RunData.load(find_run(handovers)).summary if handovers else summary
    for change in changes(summary["environment"], lines["environment"]):
        if change.blocks:
            raise ResultsError(
                f"the two runs are of different hosts ({change.title}: {change.before} and "
                f"{change.after}): take both on one host"
            )
    bases = prediction.bases(summary, lines, other_node_ns)
    if not bases:
        raise ResultsError(f"{summary['run_id']}: {prediction.missing(summary, lines)}")
    points = [prediction.points(basis, sizes, counts) for basis in bases]
    if not all(points) and min(counts) > 1 and not all(basis.other_node_ns for basis in bases):
        raise UsageError(
            "the run does not know what a hand-over between nodes takes: say it with "
            "--other-node-ns, or add 1 to --nodes"
        )
    if not all(points):
        raise UsageError("none of these numbers of vCPUs is as large as a number of nodes")
    if (count := sum(map(len, points))) > prediction.MOST_POINTS:
        raise UsageError(
            f"these are {count:,} points, and at most {prediction.MOST_POINTS} are simulated: "
            "choose fewer numbers of vCPUs or nodes"
        )
    typer.echo(f"simulating {count} points, some {count / _POINTS_PER_SECOND:.0f} s", err=True)
    found = [
        (basis, list(prediction.predict(basis, wanted)))
        for basis, wanted in zip(bases, points, strict=True)
    ]
    if as_json:
        document = {"schema": 1, "predictions": [_document(*one) for one in found]}
        typer.echo(dump_json(document, ensure_ascii=True), nl=False)
    else:
        print_lines(_lines(summary, found))


def _numbers(option: str, text: str, most: int) -> list[int]:
    from kickbench.cpu_list import parse_cpu_list

    try:
        found = parse_cpu_list(text)
    except ValueError:
        found = ()
    if not found or not 1 <= found[0] <= found[-1] <= most:
        raise UsageError(f"{option} takes numbers from 1 to {most:,}, such as 1,2,4")
    return list(found)


def _lines(summary: Summary, found: list[tuple[Basis, list[Predicted]]]) -> Iterator[Line]:
    from kickbench.report.words.names import nanoseconds, rate_name
    from kickbench.report.words.prediction import answer, rows

    for basis, points in found:
        first, *others = answer(summary, basis, points)
        yield first, "bold", ""
        yield from ((text, "", "") for text in others)
        yield "", "", ""
        unit = nanoseconds(summary)
        yield f"{basis.isolates} in {unit} per exit, {rate_name(basis.exit_rate_hz)}:", "bold", ""
        table = list(rows(points, basis))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = zip(row, widths, strict=True)
            yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in cells), "", "  "
        yield "", "", ""


def _document(basis: Basis, points: list[Predicted]) -> dict[str, Any]:
    return {
        "case": basis.case,
        "method": basis.method,
        "control": basis.control,
        "exit_rate_hz": basis.exit_rate_hz,
        "exit_ns": _level(basis.exit_ns),
        "lock_ns": _level(basis.lock_ns),
        "same_node_ns": _level(basis.same_node_ns),
        "other_node_ns": _level(basis.other_node_ns),
        "assumed": basis.assumed,
        "predicted": [
            {"vcpus": point.vcpus, "nodes": point.nodes, "ns_per_exit": _level(point.ns)}
            for point in points
        ],
        "measured": [
            {"vcpus": count, "ns_per_exit": _level(level)}
            for count, level in sorted(basis.measured.items())
        ],
    }


def _level(level: Level | None) -> dict[str, Any] | None:
    return {"value": level.value, "ci95": [level.low, level.high]} if level else None
