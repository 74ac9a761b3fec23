# SPDX-License-Identifier: Apache-2.0
"""Puts differences and their intervals into words.

It decides which contrasts of a case are shown. The others are hidden, with a reason. Names are in
:mod:`kickbench.report.words.names`.
"""

from __future__ import annotations

from collections.abc import Iterable

from kickbench.methods import CATALOGUE, control_pairs
from kickbench.numbers import measured
from kickbench.report.words.names import Summary
from kickbench.scenario.kinds import FIGURES
from kickbench.stats.independent import Estimate, difference

HEADLINES: dict[str, tuple[str, ...]] = {
    "exits": tuple(FIGURES.values()),
    "kick": ("latency_p50_ns",),
    "pause_all": ("pause_last_ns",),
    "nested": ("round_trip_p50_ns",),
    "handover": ("handover_ns",),
}
"""By kind, the metrics that can be the headline of a case, the best first.

A run of an earlier kickbench has no quiet exits. The kind race has no headline."""

CONTROLS = {"control": "A/A control", "placebo": "placebo"}
"""By the key of a case, the name of what the baseline is compared with to test the run."""

FEW_ROUNDS = 10

TOO_FEW = "too few rounds"

FLOOD = 2
"""Spurious exits per kick from which they are a flood. A kick can leave a signal or a flag behind,
which makes one at most."""

HARDLY_RAN = "guest hardly ran"

WAITED = "waited for CPUs"

_METRICS = {
    # metric: (what a method does with more time, per what, the baseline's figure to divide by)
    "quiet_ns_per_exit": ("costs", "per quiet exit", ("ns_per_exit", "quiet")),
    "ns_per_exit": ("costs", "per exit", ("ns_per_exit", "mean")),
    "cpu_ns_per_exit": ("costs", "of CPU time per exit", ("ns_per_exit", "mean")),
    "ns_per_kick": ("costs", "per whole kick", ("ns_per_exit", "mean")),
    "latency_p50_ns": ("takes", "per kick at p50", ("latency_ns", "p50")),
    "latency_p99_ns": ("takes", "per kick at p99", ("latency_ns", "p99")),
    "send_p50_ns": ("takes", "per call at p50", ("send_ns", "p50")),
    "send_mean_ns": ("takes", "per call", ("send_ns", "p50")),
    "pause_last_ns": ("takes", "per pause", ("last_ns", "p50")),
    "round_trip_p50_ns": ("takes", "per round trip at p50", ("round_trip_ns", "p50")),
    "handover_ns": ("takes", "per hand-over", ("ns_per_handover", "quiet")),
    "injection_p50_ns": ("takes", "per round trip at p50", ("round_trip_ns", "p50")),
}


def headline(case: Summary) -> str | None:
    """The metric that represents a case: the first of :data:`HEADLINES` that it has."""
    there = {contrast["metric"] for contrast in case["contrasts"]}
    metrics = HEADLINES.get(case["kind"], ())
    return next((metric for metric in metrics if metric in there), metrics[-1] if metrics else None)


def per_headline(case: Summary) -> str:
    """The unit of a case's headline in words, e.g. "per quiet exit"."""
    return per(str(headline(case)))


def level_of(case: Summary, contrast: Summary) -> float | None:
    """The baseline's figure that a difference is a share of; None if there is none."""
    _, _, (figure, name) = _METRICS[contrast["metric"]]
    found = case["methods"].get(contrast["baseline"], {}).get(figure, {}).get(name)
    return None if found is None else float(found)


def controls(case: Summary, role: str = "control") -> list[Summary]:
    """What the A/A control or the placebo found: in the headline, then in the mean of exits."""
    found = case.get(role, {})
    return [one for one in (found, found.get("mean", {})) if one.get("metric")]


def contrasts(case: Summary, metric: str | None = None) -> dict[str, Summary]:
    """By method, a case's differences from the baseline that are shown: see :func:`why_hidden`.

    All have an interval. The metric is by default the headline of the case.
    """
    found = _with_interval(case, metric)
    return {method: found[method] for method in found if not why_hidden(case, found[method])}


def hidden(case: Summary, metric: str | None = None) -> dict[str, Summary]:
    """By method, the differences that :func:`contrasts` leaves out; :func:`why_hidden` says why."""
    found = _with_interval(case, metric)
    return {method: found[method] for method in found if why_hidden(case, found[method])}


def parts(case: Summary, metric: str | None = None) -> list[Summary]:
    """The differences between a protocol and its control, which are a part of its cost.

    Only those that are shown, as in :func:`contrasts`.
    """
    found = [
        _with_interval(case, metric, control).get(method)
        for method, control in control_pairs(case["methods"], case["baseline"])
    ]
    return [one for one in found if one is not None and not why_hidden(case, one)]


def part_name(part: Summary) -> str:
    """The name of one of :func:`parts` in a figure, e.g. "siglock: sigmask - sigmask_same"."""
    control = CATALOGUE[part["baseline"]]
    return f"{control.isolates}: {part['method']} - {control.id}"


def costs(case: Summary) -> dict[str, Summary]:
    """What a figure of costs draws for a case: contrasts by method, and parts by their names."""
    return {**contrasts(case), **{part_name(part): part for part in parts(case)}}


def cost_names(cases: Iterable[Summary]) -> list[str]:
    """The names of all :func:`costs` in the cases, each once; the methods' first."""
    cases = list(cases)
    names = [name for case in cases for name in costs(case)]
    return list(dict.fromkeys([*contrast_methods(cases), *names]))


def why_hidden(case: Summary, contrast: Summary) -> str:
    """Why a difference is not shown; "" if it is.

    It is hidden if its interval says nothing, or if the guest of one of the two hardly ran, because
    its times are then not the protocol's cost. The mean of vCPUs that waited for CPUs is not the
    protocol's cost either, but their quiet exits are.
    """
    if hardly_ran(case) & {contrast["method"], contrast["baseline"]}:
        return HARDLY_RAN
    is_mean = contrast["metric"] == "ns_per_exit" and headline(case) != "ns_per_exit"
    if is_mean and case.get("oversubscribed"):
        return WAITED
    return TOO_FEW if _says_nothing(case, contrast) else ""


def hardly_ran(case: Summary) -> set[str]:
    """The methods whose guest stood still, or left KVM_RUN far more often than it was kicked."""
    return {
        str(finding["method"])
        for finding in case["findings"]
        if finding["what"] == "stood_still" or is_flood(case, finding)
    }


def is_flood(case: Summary, finding: Summary) -> bool:
    """Whether a finding has far more spurious exits than kicks: nobody clears a flag.

    A foreign signal explains one of them.
    """
    noise = case["methods"][finding["method"]].get("noise", {})
    unexplained = finding["count"] - noise.get("foreign_taken", 0)
    return bool(finding["what"] == "spurious" and unexplained >= FLOOD * max(1, finding["of"]))


def _with_interval(
    case: Summary, metric: str | None, baseline: str | None = None
) -> dict[str, Summary]:
    """The differences from the case's baseline, or from another.

    A metric that only one pair of methods has is taken with the baseline of that pair.
    """
    wanted = metric or headline(case)
    of_metric = [contrast for contrast in case["contrasts"] if contrast["metric"] == wanted]
    if baseline is None and case["baseline"] in {one["baseline"] for one in of_metric}:
        baseline = case["baseline"]
    return {
        contrast["method"]: contrast
        for contrast in of_metric
        if baseline in (None, contrast["baseline"])
        and contrast["diff"] is not None
        and contrast["ci95"] is not None
    }


def _says_nothing(case: Summary, contrast: Summary) -> bool:
    """Whether a difference from few rounds could be as large as the baseline's whole figure.

    From two or three rounds an interval can be a thousand times the spread of its rounds.
    """
    low, high = contrast["ci95"]
    level = level_of(case, contrast)
    return bool(few(contrast) and level is not None and (high - low) / 2 > level)


def contrast_methods(cases: Iterable[Summary]) -> list[str]:
    """The methods that have a difference to the baseline anywhere in the cases."""
    return list(dict.fromkeys(method for case in cases for method in contrasts(case)))


def interval(contrast: Summary) -> str:
    """E.g. "(95 % CI 29 to 33)"; it adds "few rounds" if there are few."""
    _, low, high = measured(contrast["diff"], contrast["ci95"])
    return f"(95 % CI {low} to {high}{few(contrast)})"


def few(contrast: Summary) -> str:
    """ ", few rounds" for a difference from fewer than :data:`FEW_ROUNDS`, to follow its interval.

    A few rounds do not show their own spread well. Pooled rounds count as one.
    """
    return ", few rounds" if (contrast.get("chunks") or contrast["rounds"]) < FEW_ROUNDS else ""


def judged(control: Summary) -> tuple[str, str, str]:
    """An A/A control's difference, and the ends of the interval by which it is judged.

    The difference is rounded by its own 95 % interval, so that it is the same number everywhere.
    """
    return amount(control, "").rstrip(), *measured(control["diff"], control["ci_family"])[1:]


def amount(contrast: Summary, unit: str) -> str:
    """E.g. "31 ns", rounded by the interval."""
    return f"{measured(contrast['diff'], contrast['ci95'])[0]} {unit}"


def per(metric: str) -> str:
    """The unit of a metric in words, e.g. "per exit"."""
    return _METRICS[metric][1]


def is_seen(contrast: Summary) -> bool:
    """Whether the interval of a difference excludes 0."""
    low, high = contrast["ci95"]
    return not low <= 0 <= high


def magnitude(contrast: Summary) -> tuple[str, Summary]:
    """The word "more" or "less", and the difference without its sign."""
    if contrast["diff"] >= 0:
        return "more", contrast
    low, high = contrast["ci95"]
    return "less", {**contrast, "diff": -contrast["diff"], "ci95": [-high, -low]}


def cost(contrast: Summary, unit: str) -> str:
    """One difference as a clause: how much more or less a method costs, or that none is seen."""
    method, baseline = contrast["method"], contrast["baseline"]
    verb, each, _ = _METRICS[contrast["metric"]]
    if not is_seen(contrast):
        _, first, last = measured(contrast["diff"], contrast["ci95"])
        return (
            f"no difference seen between {method} and {baseline} "
            f"(95 % CI {first} to {last} {unit} {each}{few(contrast)})"
        )
    word, size = magnitude(contrast)
    return f"{method} {verb} {amount(size, unit)} {word} {each} than {baseline} {interval(size)}"


def differ(first: Summary, last: Summary) -> int:
    """Compares differences of separate cases: 1 if the last is larger, -1 if smaller, else 0."""
    step = difference(_estimate(last), _estimate(first))
    if not step.seen:
        return 0
    return 1 if step.value > 0 else -1


def _estimate(contrast: Summary) -> Estimate:
    low, high = contrast["ci95"]
    return Estimate(contrast["diff"], low, high, processes=0)
