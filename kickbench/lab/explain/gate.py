# SPDX-License-Identifier: Apache-2.0
"""A gate: whether a kernel takes more instructions than another one, for a pull request.

The counts are exact, so any difference is one of the two kernels. Nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.subject import Subject
from kickbench.lab.explain.words import rows_of
from kickbench.numbers import plural
from kickbench.report.words.explanation import more
from kickbench.report.words.markdown import code, escaped, table


@dataclass(frozen=True)
class Compared:
    """What a method takes with the new kernel (``after``) and with the old one."""

    subject: Subject
    after: Explained
    before: Explained

    @property
    def difference(self) -> int:
        """How many instructions more."""
        return self.after.instructions - self.before.instructions


def compared(found: Explanation, base: Explanation) -> list[Compared]:
    """What was counted with both kernels."""
    before = base.by_subject()
    return [
        Compared(subject, one, before[subject][name])
        for subject, methods in found.by_subject().items()
        for name, one in methods.items()
        if name in before.get(subject, {})
    ]


def grew(found: Explanation, base: Explanation) -> list[Compared]:
    """What takes more instructions, the most first."""
    more_of = [one for one in compared(found, base) if one.difference > 0]
    return sorted(more_of, key=lambda one: -one.difference)


def to_markdown(found: Explanation, base: Explanation) -> str:
    """The comment on a pull request: the answer, the counts, and the functions that differ."""
    everything = compared(found, base)
    rows = [
        [
            escaped(one.subject.name),
            code(one.after.method),
            f"{one.before.instructions:,}",
            f"{one.after.instructions:,}",
            f"{one.difference:+,}" if one.difference else "0",
        ]
        for one in everything
    ]
    heads = ["of", "method", escaped(base.kernel), escaped(found.kernel), "difference"]
    # In a comment on GitHub a new line is one, so no paragraph is wrapped.
    blocks = [f"**{_answer(found, base)}**"]
    if rows:
        blocks.append(table(heads, rows, [False, False, True, True, True]))
    blocks += _functions([one for one in everything if one.difference])
    missing = [*found.skipped.items(), *base.skipped.items()]
    blocks += [f"{escaped(name)} was skipped: {escaped(why)}" for name, why in missing]
    blocks.append(
        f"Instructions of the path, counted in an emulated machine ({escaped(found.machine)}). "
        "The counts are exact, and no times."
    )
    return "\n\n".join(blocks) + "\n"


def _answer(found: Explanation, base: Explanation) -> str:
    if not compared(found, base):
        return "Nothing could be counted with both kernels."
    if not (worse := grew(found, base)):
        return "No exit and no kick takes more instructions."
    most = worse[0]
    others = f" {plural(len(worse) - 1, 'other count')} grew, too." if len(worse) > 1 else ""
    return escaped(
        f"With {most.after.method}, {most.subject.name} takes {more(most.difference)} "
        f"instructions.{others}"
    )


def _functions(differ: list[Compared]) -> Iterator[str]:
    """A table of the functions of each, folded away."""
    for one in differ:
        rows = [
            [code(row.name.strip()), f"{row.before:,}", f"{row.after:,}", row.change]
            for row in rows_of(one.after, one.before)
        ]
        heading = escaped(f"{one.subject.name}, {one.after.method}: by function")
        shown = table(["function", "before", "after", "difference"], rows, [False, *[True] * 3])
        yield f"<details><summary>{heading}</summary>\n\n{shown}\n\n</details>"
