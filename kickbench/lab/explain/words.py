# SPDX-License-Identifier: Apache-2.0
"""What an explanation says in words: the difference to the baseline, function by function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kickbench.lab.explain.events import PHASES
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.stacks import self_counts
from kickbench.lab.explain.subject import Subject
from kickbench.lab.explain.trace import NOT_RARE
from kickbench.report.words.explanation import Row, difference_rows, more
from kickbench.results.explanation import SEPARATOR

_COLUMN = 14


def answer(found: Explanation) -> Iterator[str]:
    """A sentence for each method of each kind: how many instructions more than the baseline."""
    for subject, methods in found.by_subject().items():
        yield from answer_of(found, subject, methods)
    yield from _skipped(found)


def _skipped(found: Explanation) -> Iterator[str]:
    for name, reason in found.skipped.items():
        yield f"{name} was skipped: {reason}"


def answer_of(
    found: Explanation, subject: Subject, methods: Mapping[str, Explained]
) -> Iterator[str]:
    """The sentences of one kind."""
    what, baseline = subject.name, found.baseline_of(methods)
    if baseline is not None:
        yield f"With {baseline.method}, {what} takes {baseline.instructions:,} instructions."
    for one in methods.values():
        if baseline is None:
            yield f"With {one.method}, {what} takes {one.instructions:,} instructions."
        elif one is not baseline:
            difference = more(one.instructions - baseline.instructions)
            yield f"With {one.method} it takes {one.instructions:,}: {difference}."
    rare = {one.method: one.share for one in methods.values() if one.share < NOT_RARE}
    if rare:
        shares = ", ".join(f"{share:.1%} with {name}" for name, share in rare.items())
        yield f"Few have the same count ({shares}). Compare the calls only."


def tables(found: Explanation) -> Iterator[str]:
    """A table for each method that is not the baseline, each with a heading."""
    for subject, methods in found.by_subject().items():
        if (baseline := found.baseline_of(methods)) is None:
            continue
        for one in methods.values():
            if one is not baseline:
                yield ""
                yield f"{subject.heading}, {one.method}:"
                yield from difference_table(one, baseline, one.method, baseline.method)


def against(found: Explanation, base: Explanation) -> Iterator[str]:
    """What differs between two kernels, method by method: a sentence, and a table if they do."""
    for subject, methods in found.by_subject().items():
        before = base.by_subject().get(subject, {})
        for name, one in methods.items():
            if name not in before:
                yield f"{subject.heading}, {name}: not in {base.kernel}: {base.skipped[name]}"
                continue
            other = before[name]
            yield (
                f"{subject.heading}, {name}: {one.instructions:,} instructions in {found.kernel}, "
                f"and {other.instructions:,} in {base.kernel}: "
                f"{more(one.instructions - other.instructions)}."
            )
            if self_counts(one.folded) != self_counts(other.folded):
                yield from difference_table(one, other, found.kernel, base.kernel)
                yield ""
    yield from _skipped(found)


def difference_table(
    one: Explained, baseline: Explained, name: str, baseline_name: str
) -> Iterator[str]:
    """The rows in columns of fixed width, under these names."""
    rows = rows_of(one, baseline)
    width = max(len(row.name) for row in rows)
    heads = [head.rjust(_COLUMN) for head in (baseline_name, name, "difference")]
    yield "  ".join([" " * width, *heads])
    for row in rows:
        cells = [f"{row.before:,}", f"{row.after:,}", row.change]
        fitted = [cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True)]
        yield "  ".join([f"{row.name:<{width}}", *fitted])


def rows_of(one: Explained, baseline: Explained) -> list[Row]:
    """The functions that differ, and the phases of a kick."""
    rows = difference_rows(self_counts(one.folded), self_counts(baseline.folded))
    if one.phases and baseline.phases:
        rows += [Row(f"  {n}", baseline.phases[n].total(), one.phases[n].total()) for n in PHASES]
    return rows


def folded_lines(folded: Mapping[tuple[str, ...], int]) -> Iterator[str]:
    """The call paths as flamegraph.pl and speedscope read them: ``outer;inner COUNT``."""
    for path, count in sorted(folded.items()):
        yield f"{SEPARATOR.join(path)} {count}"
