# SPDX-License-Identifier: Apache-2.0
"""Names of figures, hosts that have something in common, and shares, in words.

The pages and the Markdown say the same. Texts are foreign, and are returned as they are, but those
that can be long are shortened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from kickbench.compare.metrics import METRICS
from kickbench.fleet.judge.found import (
    Cohort,
    Effect,
    Figure,
    Finding,
    Found,
    Group,
    Oddity,
    Sibling,
    Verdict,
)
from kickbench.fleet.judge.words import FACT, value
from kickbench.numbers import NOTHING, measured, plural, signed, significant
from kickbench.results.schema import one_line

LOOK: dict[Verdict, str] = {"regression": "bad", "improvement": "good", "moved": "", "gone": ""}
VERDICT: dict[Verdict, str] = {
    "regression": "worse",
    "improvement": "better",
    "moved": "cost moved",
    "gone": "went away",
}
SIBLING: dict[Sibling, str] = {
    "unchanged": "did not change",
    "changed": "changed too",
    "unclear": "cannot be told",
}
ODDITY: dict[Oddity, str] = {
    "level": "off on most nights",
    "scatter": "nights differ",
    "step": "changed alone",
}

_RANK = {name: rank for rank, name in enumerate(METRICS)}
_DIFFERENCE = " difference"
_LEAST_SHARE = 1e-6


# --- figures -----------------------------------------------------------------------------------


def metric_name(figure: Figure) -> str:
    """E.g. "time per quiet exit, sigmask"; of a paired difference both methods."""
    metric = METRICS.get(figure.metric.removesuffix(_DIFFERENCE))
    title = figure.metric if metric is None else metric.title
    who = figure.method if figure.baseline is None else f"{figure.method} - {figure.baseline}"
    return f"{title}, {who}" if who else title


def case_name(found: Found, figure: Figure) -> str:
    """The case. If the store has several scenarios, the scenario stands before it."""
    several = any(one.scenario != figure.scenario for one in found.figures)
    return f"{figure.scenario}: {figure.case}" if several else figure.case


def figure_name(found: Found, index: int) -> str:
    """E.g. "time per quiet exit, sigmask (exits-pm_timer-1vcpu-max-any)"."""
    figure = found.figures[index]
    return f"{metric_name(figure)} ({case_name(found, figure)})"


def figure_order(found: Found) -> list[int]:
    """The figures as pages list them: by kind, scenario, case and metric, levels first."""

    def key(index: int) -> tuple[object, ...]:
        one = found.figures[index]
        rank = _RANK.get(one.metric.removesuffix(_DIFFERENCE), len(_RANK))
        pair = (one.baseline is not None, one.method, one.baseline or "")
        return (one.kind, one.scenario, one.case, rank, one.metric, *pair)

    return sorted(range(len(found.figures)), key=key)


def worse(figure: Figure) -> int:
    """1 if a figure that rises gets worse, -1 if it gets better."""
    return 1 if figure.better == "lower" else -1


# --- shares ------------------------------------------------------------------------------------


def percent(share: float, digits: int = 2) -> str:
    """E.g. "+2.1 %". A share that is not known is "-"."""
    hundredths = 100 * float(share)
    if not math.isfinite(hundredths):
        return NOTHING
    if abs(share) < _LEAST_SHARE:
        return "0 %"
    return f"{signed(significant(hundredths, digits))} %"


def change(effect: Effect) -> str:
    """E.g. "+2.10 % (1.94 to 2.26 %)"."""
    middle, *ends = (100 * share for share in (effect.relative, effect.low, effect.high))
    if not all(map(math.isfinite, (middle, *ends))):
        return percent(effect.relative)
    value, low, high = measured(middle, ends)
    return f"{signed(value)} % ({low} to {high} %)"


def effect_look(found: Found, effect: Effect) -> str:
    """How a change looks: "bad" if it is for the worse."""
    cost = effect.relative * worse(found.figures[effect.figure])
    return "bad" if cost > 0 else "good" if cost < 0 else ""


def chance(probability: float) -> str:
    """A p or q, e.g. "0.003" or "< 0.0001"."""
    if not math.isfinite(probability):
        return NOTHING
    return "< 0.0001" if probability < 1e-4 else significant(probability, 2)


# --- hosts -------------------------------------------------------------------------------------


def fact_name(name: str) -> str:
    """E.g. "CPU" for "cpu_model"."""
    return FACT.get(name, name.replace("_", " "))


def facts(of: Mapping[str, str]) -> str:
    """E.g. "CPU AMD EPYC 9654, kernel 6.12.9"."""
    return ", ".join(f"{fact_name(name)} {value(text)}" for name, text in of.items())


def move(moved: tuple[str, str], before: Sequence[str] = ()) -> str:
    """E.g. "kernel 6.12.8 → 6.12.9"."""
    name, text = moved
    old = " or ".join(map(value, before[:3])) + (" or others" if len(before) > 3 else "")
    return " ".join(filter(None, [fact_name(name), old, "→", value(text)]))


def in_common(cohort: Cohort) -> str:
    """What the hosts have in common, e.g. "CPU AMD EPYC 9654, kernel 6.12.8 → 6.12.9"."""
    moved = [] if cohort.moved is None else [move(cohort.moved, cohort.before)]
    also = [f"also {move(one)}" for one in cohort.also]
    return ", ".join(filter(None, [facts(cohort.where), *moved, *also])) or "nothing that is known"


def apart(cohort: Cohort, other: Cohort) -> str:
    """What distinguishes other hosts from those of a finding."""
    return ", ".join(_apart(cohort, other)) or in_common(other)


def _apart(cohort: Cohort, other: Cohort) -> Iterator[str]:
    for name, text in other.where.items():
        if cohort.where.get(name) != text:
            yield f"{fact_name(name)} {value(text)}"
    if other.moved != cohort.moved:
        if other.moved is not None:
            yield move(other.moved, other.before)
        elif cohort.moved is not None:
            yield f"no move to {fact_name(cohort.moved[0])} {value(cohort.moved[1])}"


def days(cohort: Cohort) -> str:
    """E.g. "2026-11-12 to 2026-11-14", or one day."""
    return " to ".join(dict.fromkeys([cohort.first_day, cohort.last_day]))


def group_name(group: Group) -> str:
    """E.g. "AMD EPYC 9654"."""
    rest = {name: text for name, text in group.facts.items() if name != "cpu_model"}
    model = value(group.facts.get("cpu_model") or "CPU not known")
    return ", ".join(filter(None, [model, facts(rest)]))


# --- findings ----------------------------------------------------------------------------------


def first_effect(finding: Finding) -> Effect | None:
    """The largest effect; None if the finding has none."""
    return finding.effects[0] if finding.effects else None


def finding_title(found: Found, finding: Finding) -> str:
    """E.g. "Worse: time per quiet exit, sigmask, +2.1 % on 214 hosts"."""
    hosts = plural(len(finding.cohort.hosts), "host")
    verdict = VERDICT[finding.verdict]
    effect = first_effect(finding)
    if effect is None:
        return f"{verdict.capitalize()}, on {hosts}"
    name = metric_name(found.figures[effect.figure])
    return f"{verdict.capitalize()}: {name}, {percent(effect.relative)} on {hosts}"


def answer(found: Found) -> tuple[str, list[str]]:
    """What to read first, and the other sentences of the answer."""
    said = [sentence for sentence in found.answer if one_line(sentence)]
    return (said[0], said[1:]) if said else ("The store has nothing that can be judged.", [])
