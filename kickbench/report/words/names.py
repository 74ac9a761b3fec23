# SPDX-License-Identifier: Apache-2.0
"""What things are called: cases, units, times, and one difference between two methods.

Words, tables and figures all take their names from here, so that a case has one name everywhere.
Nothing is computed here but what rounding and comparing need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kickbench.methods import CATALOGUE, control_pairs
from kickbench.numbers import measured, plural, significant
from kickbench.stats.independent import Estimate, difference

Summary = Mapping[str, Any]

HEADLINES = {
    "exits": ("quiet_ns_per_exit", "ns_per_exit"),
    "kick": ("latency_p50_ns",),
    "pause_all": ("pause_last_ns",),
    "nested": ("round_trip_p50_ns",),
}
"""By kind, the metrics of the contrasts that a case may stand for, the best first. A run of an
earlier kickbench has no quiet exits. The kind race has none."""

CONTROLS = {"control": "A/A control", "placebo": "placebo"}
"""By the key of a case, what the differences of the baseline from its second selves are called."""

FEW_ROUNDS = 10

TOO_FEW = "too few rounds"

FLOOD = 2
"""Spurious exits per kick from which they are a flood. What a kick leaves behind, a signal or a
flag, makes one at most."""

HARDLY_RAN = "guest hardly ran"

WAITED = "waited for CPUs"

_LEVELS = {
    "quiet_ns_per_exit": ("ns_per_exit", "quiet"),
    "ns_per_exit": ("ns_per_exit", "mean"),
    "cpu_ns_per_exit": ("ns_per_exit", "mean"),
    "ns_per_kick": ("ns_per_exit", "mean"),
    "latency_p50_ns": ("latency_ns", "p50"),
    "latency_p99_ns": ("latency_ns", "p99"),
    "send_p50_ns": ("send_ns", "p50"),
    "send_mean_ns": ("send_ns", "p50"),
    "pause_last_ns": ("last_ns", "p50"),
    "round_trip_p50_ns": ("round_trip_ns", "p50"),
    "injection_p50_ns": ("round_trip_ns", "p50"),
}
"""By metric of a difference, the baseline's figure that it is to be seen against."""

_METRICS = {
    # metric: (what a method does with more time, per what)
    "quiet_ns_per_exit": ("costs", "per quiet exit"),
    "ns_per_exit": ("costs", "per exit"),
    "cpu_ns_per_exit": ("costs", "of CPU time per exit"),
    "ns_per_kick": ("costs", "per whole kick"),
    "latency_p50_ns": ("takes", "per kick at p50"),
    "latency_p99_ns": ("takes", "per kick at p99"),
    "send_p50_ns": ("takes", "per call at p50"),
    "send_mean_ns": ("takes", "per call"),
    "pause_last_ns": ("takes", "per pause"),
    "round_trip_p50_ns": ("takes", "per round trip at p50"),
    "injection_p50_ns": ("takes", "per round trip at p50"),
}

_STATES = {
    "guest": "in the guest",
    "halted": "while halted",
    "userspace": "in userspace",
    "storm": "while exiting at full speed",
}

_VENDORS = {"vmx": "VMX", "svm": "SVM"}

_EXIT_REASONS: dict[str, dict[int, str]] = {
    # Intel SDM volume 3, appendix C: basic exit reasons.
    "vmx": {
        0: "exception or NMI",
        1: "external interrupt",
        2: "triple fault",
        7: "interrupt window",
        10: "CPUID",
        12: "HLT",
        18: "VMCALL",
        28: "control-register access",
        30: "I/O instruction",
        33: "entry failure: invalid guest state",
        34: "entry failure: MSR loading",
        48: "EPT violation",
        49: "EPT misconfiguration",
        52: "preemption timer",
    },
    # AMD APM volume 2, appendix C: exit codes, the low 32 bits.
    "svm": {
        0x60: "INTR",
        0x61: "NMI",
        0x64: "VINTR",
        0x72: "CPUID",
        0x78: "HLT",
        0x7B: "IOIO",
        0x7F: "SHUTDOWN",
        0x81: "VMMCALL",
        0x400: "nested page fault",
        0xFFFF_FFFF: "INVALID",
    },
}

_SCALES = ((1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s"))


@dataclass(frozen=True)
class Series:
    """Finished cases of one kind that differ in the number of vCPUs only, by that number."""

    kind: str
    program: str | None
    irqchip: str | None
    exit_rate_hz: float | None
    kick_rate_hz: float | None
    transport: str
    placement: str
    cases: tuple[Summary, ...]


# --- names -------------------------------------------------------------------------------------


def emulation(summary: Summary) -> str:
    """ "Emulated (QEMU TCG)" for a run that was taken under emulation, else ""."""
    if not summary["emulated"]:
        return ""
    by = summary.get("emulated_by")
    return f"Emulated ({by})" if by else "Emulated"


def nanoseconds(summary: Summary) -> str:
    """The unit of all times: an emulator's clock is never shown as a time on hardware."""
    return "emulated ns" if summary["emulated"] else "ns"


def microseconds(summary: Summary) -> str:
    """ "µs", of the clock that the run had."""
    return "emulated µs" if summary["emulated"] else "µs"


def seconds(summary: Summary) -> str:
    """ "s", of the clock that the run had."""
    return "emulated s" if summary["emulated"] else "s"


def duration(summary: Summary, ns: float) -> str:
    """A time in the unit that suits it, e.g. "50 µs": for sentences, where no column compares."""
    scale, unit = next(((s, u) for s, u in _SCALES if abs(ns) / s < 999.5), _SCALES[-1])
    number = significant(ns / scale, 3)
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {'emulated ' if summary['emulated'] else ''}{unit}"


def rate_name(exit_rate_hz: float | None) -> str:
    """ "full speed", or "20,000 exits/s per vCPU"."""
    if exit_rate_hz is None:
        return "full speed"
    return f"{significant(exit_rate_hz)} exits/s per vCPU"


def kick_rate_name(kick_rate_hz: float | None) -> str:
    """ "no kicks", or "1,000 kicks/s per vCPU"."""
    if kick_rate_hz is None:
        return "no kicks"
    return f"{significant(kick_rate_hz)} kicks/s per vCPU"


def state_name(state: object) -> str:
    """What a vCPU was doing when it was kicked, e.g. "in the guest"."""
    return _STATES.get(str(state), f"in the state {state}")


def vendor_name(case: Summary) -> str:
    """ "VMX" or "SVM", or "VMX or SVM" of a case that does not say."""
    vendor = (case.get("nested") or {}).get("vendor")
    return _VENDORS.get(str(vendor), "VMX or SVM")


def exit_reason_name(case: Summary, reason: str) -> str:
    """Why L2 left, e.g. "HLT (12)"; only the number where it has no name here."""
    vendor = (case.get("nested") or {}).get("vendor")
    known = _EXIT_REASONS.get(str(vendor), {})
    name = known.get(int(reason)) if reason.isdecimal() and len(reason) < 12 else None
    if name is None:
        return f"reason {reason}"
    return f"{name} ({int(reason):#x})" if vendor == "svm" else f"{name} ({reason})"


def window_name(summary: Summary, window_ns: float | None) -> str:
    """ "a window of 50 µs", or "the natural window"."""
    return f"a window of {duration(summary, window_ns)}" if window_ns else "the natural window"


def conditions(summary: Summary, case: Summary | Series, *, of_kind: bool = True) -> str:
    """What tells a case's series from the others of its run, e.g. "local, full speed".

    The placement always; exit rate, kick rate, transport, number of kickers, program and interrupt
    chip where they are not the same throughout the kind, or not what goes without saying. Without
    ``of_kind`` it leaves out what its kind kicks (state, window, all vCPUs).
    """
    values = vars(case) if isinstance(case, Series) else case
    words = [str(values["placement"])]
    if values["exit_rate_hz"] is not None or _differ(summary, values, "exit_rate_hz"):
        words.append(rate_name(values["exit_rate_hz"]))
    if values["kick_rate_hz"] is not None or _differ(summary, values, "kick_rate_hz"):
        words.append(kick_rate_name(values["kick_rate_hz"]))
    if of_kind:
        words += _kind_words(summary, values)
    kickers = values.get("kickers") or 1
    if kickers > 1 or (values.get("kickers") and _differ(summary, values, "kickers")):
        words.append(plural(kickers, "kicker"))
    if values["transport"] != "tgkill" or _differ(summary, values, "transport"):
        words.append(f"by {values['transport']}")
    words += [
        str(values[key])
        for key in ("program", "irqchip")
        if values[key] and _differ(summary, values, key)
    ]
    return ", ".join(words)


def _kind_words(summary: Summary, case: Mapping[str, Any]) -> list[str]:
    match case["kind"]:
        case "kick":
            return [f"kicked {state_name(case['state'])}"]
        case "race":
            return [f"race at {window_name(summary, case['window_ns'])}"]
        case "pause_all":
            return ["pause all"]
        case "nested":
            return [f"nested by {vendor_name(case)}"]
        case _:
            return []


def label(summary: Summary, case: Summary, *, of_kind: bool = True) -> str:
    """A case in a few words, e.g. "2 vCPUs, local"."""
    return f"{plural(case['vcpus'], 'vCPU')}, {conditions(summary, case, of_kind=of_kind)}"


def crowded(case: Summary, oversubscribed: Iterable[str]) -> str:
    """ ", more vCPUs than CPUs" of a case that had, to follow its label."""
    return ", more vCPUs than CPUs" if case["id"] in oversubscribed else ""


def _differ(summary: Summary, like: Summary, key: str) -> bool:
    """Whether the key is not the same in all cases of a kind; a state has its own programs."""
    state = like.get("state")
    alike = [case for case in summary["cases"] if case["kind"] == like["kind"]]
    return len({case[key] for case in alike if state in (None, case["state"])}) > 1


def finished(summary: Summary, kind: str | None = None) -> list[Summary]:
    """The cases that have figures, in the order of the scenario; of one kind or of all."""
    cases = [case for case in summary["cases"] if case["status"] == "ok"]
    return [case for case in cases if kind in (None, case["kind"])]


def series_of(summary: Summary, kind: str = "exits") -> list[Series]:
    """The finished cases of a kind by series, in the order of the scenario."""
    keys = ("program", "irqchip", "exit_rate_hz", "kick_rate_hz", "transport", "placement")
    found: dict[tuple[Any, ...], list[Summary]] = {}
    for case in finished(summary, kind):
        found.setdefault(tuple(case[key] for key in keys), []).append(case)
    return [
        Series(
            kind=kind,
            cases=tuple(sorted(cases, key=_vcpus)),
            **dict(zip(keys, values, strict=True)),
        )
        for values, cases in found.items()
    ]


def _vcpus(case: Summary) -> int:
    return int(case["vcpus"])


# --- one difference ----------------------------------------------------------------------------


def headline(case: Summary) -> str | None:
    """The metric that a case stands for: the first of :data:`HEADLINES` that it has."""
    there = {contrast["metric"] for contrast in case["contrasts"]}
    metrics = HEADLINES.get(case["kind"], ())
    return next((metric for metric in metrics if metric in there), metrics[-1] if metrics else None)


def per_headline(case: Summary) -> str:
    """Per what the headline of a case is, e.g. "per quiet exit"."""
    return per(str(headline(case)))


def level_of(case: Summary, contrast: Summary) -> float | None:
    """The baseline's figure that a difference is to be seen against; None where it has none."""
    figure, name = _LEVELS[contrast["metric"]]
    found = case["methods"].get(contrast["baseline"], {}).get(figure, {}).get(name)
    return None if found is None else float(found)


def controls(case: Summary, role: str = "control") -> list[Summary]:
    """What the A/A control, or the placebo, found: of the headline, then of the mean of exits."""
    found = case.get(role, {})
    return [one for one in (found, found.get("mean", {})) if one.get("metric")]


def contrasts(case: Summary, metric: str | None = None) -> dict[str, Summary]:
    """By method, a case's differences to the baseline; only those that have an interval, and one
    that says anything.

    The metric is by default the headline of the case's kind.
    """
    found = _with_interval(case, metric)
    return {method: found[method] for method in found if not why_hidden(case, found[method])}


def hidden(case: Summary, metric: str | None = None) -> dict[str, Summary]:
    """By method, the differences that :func:`contrasts` leaves out; :func:`why_hidden` says why."""
    found = _with_interval(case, metric)
    return {method: found[method] for method in found if why_hidden(case, found[method])}


def parts(case: Summary, metric: str | None = None) -> list[Summary]:
    """The differences between a protocol and its control, which are a part of what it costs; those
    that :func:`contrasts` would tell.
    """
    found = [
        _with_interval(case, metric, control).get(method)
        for method, control in control_pairs(case["methods"], case["baseline"])
    ]
    return [one for one in found if one is not None and not why_hidden(case, one)]


def part_name(part: Summary) -> str:
    """What a figure calls one of :func:`parts`, e.g. "siglock: sigmask - sigmask_same"."""
    control = CATALOGUE[part["baseline"]]
    return f"{control.isolates}: {part['method']} - {control.id}"


def costs(case: Summary) -> dict[str, Summary]:
    """What a figure of costs draws of a case: contrasts by method, and parts by their names."""
    return {**contrasts(case), **{part_name(part): part for part in parts(case)}}


def cost_names(cases: Iterable[Summary]) -> list[str]:
    """The names of all :func:`costs` in the cases, each once; the methods' first."""
    cases = list(cases)
    names = [name for case in cases for name in costs(case)]
    return list(dict.fromkeys([*contrast_methods(cases), *names]))


def why_hidden(case: Summary, contrast: Summary) -> str:
    """Why a difference is not told, or "": its interval says nothing, or the guest of one of the
    two hardly ran, so that its times are no price of a protocol. Nor is a mean over exits of vCPUs
    that waited for CPUs; their quiet exits are.
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
        if finding["what"] == "stood_still" or is_flood(finding)
    }


def is_flood(finding: Summary) -> bool:
    """Whether a finding is of far more spurious exits than kicks: a flag that nobody clears."""
    return bool(finding["what"] == "spurious" and finding["count"] >= FLOOD * max(1, finding["of"]))


def _with_interval(
    case: Summary, metric: str | None, baseline: str | None = None
) -> dict[str, Summary]:
    """Those to the case's baseline, or to another; a metric of one pair only has no other."""
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
    """Whether a difference from few rounds could be as large as all that the baseline takes.

    From two or three rounds an interval can be a thousand times the spread of its rounds.
    """
    low, high = contrast["ci95"]
    level = level_of(case, contrast)
    return bool(few(contrast) and level is not None and (high - low) / 2 > level)


def contrast_methods(cases: Iterable[Summary]) -> list[str]:
    """The methods that have a difference to the baseline anywhere in the cases."""
    return list(dict.fromkeys(method for case in cases for method in contrasts(case)))


def interval(contrast: Summary) -> str:
    """ "(95 % CI 29 to 33)", and that it rests on few rounds if so."""
    _, low, high = measured(contrast["diff"], contrast["ci95"])
    return f"(95 % CI {low} to {high}{few(contrast)})"


def few(contrast: Summary) -> str:
    """ ", few rounds" of a difference from fewer than :data:`FEW_ROUNDS`, to follow its interval.

    Such an interval takes the spread that it is made from on trust. Pooled rounds count as one.
    """
    return ", few rounds" if (contrast.get("chunks") or contrast["rounds"]) < FEW_ROUNDS else ""


def judged(control: Summary) -> tuple[str, str, str]:
    """An A/A control's difference, and the ends of the interval that it is judged by.

    The difference is as fine as with its own interval, so that it is the same number everywhere.
    """
    return amount(control, "").rstrip(), *measured(control["diff"], control["ci_family"])[1:]


def amount(contrast: Summary, unit: str) -> str:
    """ "31 ns", rounded by the interval."""
    return f"{measured(contrast['diff'], contrast['ci95'])[0]} {unit}"


def per(metric: str) -> str:
    """Per what a metric is, e.g. "per exit"."""
    return _METRICS[metric][1]


def is_seen(contrast: Summary) -> bool:
    """Whether the interval of a difference excludes 0."""
    low, high = contrast["ci95"]
    return not low <= 0 <= high


def magnitude(contrast: Summary) -> tuple[str, Summary]:
    """ "more" or "less", and the difference without its sign."""
    if contrast["diff"] >= 0:
        return "more", contrast
    low, high = contrast["ci95"]
    return "less", {**contrast, "diff": -contrast["diff"], "ci95": [-high, -low]}


def cost(contrast: Summary, unit: str) -> str:
    """One difference as a clause: what a method costs more or less per exit, or that none shows."""
    method, baseline = contrast["method"], contrast["baseline"]
    verb, each = _METRICS[contrast["metric"]]
    if not is_seen(contrast):
        _, first, last = measured(contrast["diff"], contrast["ci95"])
        return (
            f"no difference seen between {method} and {baseline} "
            f"(95 % CI {first} to {last} {unit} {each}{few(contrast)})"
        )
    word, size = magnitude(contrast)
    return f"{method} {verb} {amount(size, unit)} {word} {each} than {baseline} {interval(size)}"


def differ(first: Summary, last: Summary) -> int:
    """Whether two differences of separate cases differ: 1 when the last is larger, -1, or 0."""
    step = difference(_estimate(last), _estimate(first))
    if not step.seen:
        return 0
    return 1 if step.value > 0 else -1


def _estimate(contrast: Summary) -> Estimate:
    low, high = contrast["ci95"]
    return Estimate(contrast["diff"], low, high, processes=0)
