# SPDX-License-Identifier: Apache-2.0
"""Names of things: cases, units, times and exit reasons.

Words, tables and figures all take their names from here, so that a case has one name everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kickbench.numbers import listed, plural, significant
from kickbench.scenario.kinds import DEFAULT_PAUSE_GAP_US, NOISE, moment_name, state_name

Summary = Mapping[str, Any]


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


_SERIES = ("program", "irqchip", "exit_rate_hz", "kick_rate_hz", "transport", "placement")


@dataclass(frozen=True)
class Series:
    """Finished cases of one kind that differ in the number of vCPUs only, sorted by it."""

    kind: str
    program: str | None
    irqchip: str | None
    exit_rate_hz: float | None
    kick_rate_hz: float | None
    transport: str
    placement: str
    foreign_signals_hz: float | None
    siglock_threads: int
    siglock_hz: float | None
    pause_gap_us: float | None
    order: str
    cases: tuple[Summary, ...]


# --- names -------------------------------------------------------------------------------------


def emulation(summary: Summary) -> str:
    """E.g. "Emulated (QEMU TCG)"; "" if the run was not emulated."""
    if not summary["emulated"]:
        return ""
    by = summary.get("emulated_by")
    return f"Emulated ({by})" if by else "Emulated"


def nanoseconds(summary: Summary) -> str:
    """The unit of times, "ns" or "emulated ns": they are never mistaken for times on hardware."""
    return "emulated ns" if summary["emulated"] else "ns"


def microseconds(summary: Summary) -> str:
    """The same for microseconds."""
    return "emulated µs" if summary["emulated"] else "µs"


def seconds(summary: Summary) -> str:
    """The same for seconds."""
    return "emulated s" if summary["emulated"] else "s"


def second_name(summary: Summary) -> str:
    """The word "second" of a rate; "emulated second" if the run was emulated."""
    return "emulated second" if summary["emulated"] else "second"


def duration(summary: Summary, ns: float) -> str:
    """A time in the unit that suits it, e.g. "50 µs". For sentences, not for columns."""
    scale, unit = next(((s, u) for s, u in _SCALES if abs(ns) / s < 999.5), _SCALES[-1])
    number = significant(ns / scale, 3)
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {'emulated ' if summary['emulated'] else ''}{unit}"


def rate_name(exit_rate_hz: float | None) -> str:
    """E.g. "full speed" or "20,000 exits/s per vCPU"."""
    if exit_rate_hz is None:
        return "full speed"
    return f"{significant(exit_rate_hz)} exits/s per vCPU"


def kick_rate_name(kick_rate_hz: float | None) -> str:
    """E.g. "no kicks" or "1,000 kicks/s per vCPU"."""
    if kick_rate_hz is None:
        return "no kicks"
    return f"{significant(kick_rate_hz)} kicks/s per vCPU"


def noise_name(case: Mapping[str, Any]) -> str:
    """E.g. "100 foreign signals/s per vCPU and 2 siglock threads at 10,000/s"; "" without noise."""
    words = []
    if case["foreign_signals_hz"]:
        words.append(f"{case['foreign_signals_hz']:,.10g} foreign signals/s per vCPU")
    if case["siglock_threads"]:
        threads = plural(case["siglock_threads"], "siglock thread")
        words.append(f"{threads} at {case['siglock_hz']:,.10g}/s")
    return listed(words)


def vendor_name(case: Summary) -> str:
    """The name "VMX" or "SVM"; "VMX or SVM" if the case does not have it."""
    vendor = (case.get("nested") or {}).get("vendor")
    return _VENDORS.get(str(vendor), "VMX or SVM")


def exit_reason_name(case: Summary, reason: str) -> str:
    """Why L2 left, e.g. "HLT (12)"; only the number if it has no name here."""
    vendor = (case.get("nested") or {}).get("vendor")
    known = _EXIT_REASONS.get(str(vendor), {})
    name = known.get(int(reason)) if reason.isdecimal() and len(reason) < 12 else None
    if name is None:
        return f"reason {reason}"
    return f"{name} ({int(reason):#x})" if vendor == "svm" else f"{name} ({reason})"


def window_name(summary: Summary, window_ns: float | None) -> str:
    """E.g. "a window of 50 µs" or "the natural window"."""
    return f"a window of {duration(summary, window_ns)}" if window_ns else "the natural window"


def conditions(summary: Summary, case: Summary | Series, *, of_kind: bool = True) -> str:
    """What distinguishes a case's series from the others of its run, e.g. "local, full speed".

    The placement is always there. Exit rate, kick rate, transport, number of kickers, noise,
    program and interrupt chip are there if they differ within the kind; all but the last two also
    if they are not the default. Without ``of_kind`` it leaves out what its kind kicks (state,
    window, all vCPUs).
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
    words += _pause_words(summary, values)
    if noise := noise_name(values):
        words.append(noise)
    elif any(_differ(summary, values, key) for key in NOISE):
        words.append("no noise")
    return ", ".join(words)


def _pause_words(summary: Summary, case: Mapping[str, Any]) -> list[str]:
    """How pauses are made, if they are not made as by default, or not alike in the run."""
    words = []
    if case["order"] == "serial":
        words.append("one at a time")
    elif case["order"] is not None and _differ(summary, case, "order"):
        words.append("all at once")
    gap_us = case["pause_gap_us"]
    usual = gap_us == DEFAULT_PAUSE_GAP_US and not _differ(summary, case, "pause_gap_us")
    if gap_us is not None and not usual:
        gap = duration(summary, gap_us * 1e3)
        words.append(f"{gap} between pauses" if gap_us else "back to back")
    return words


def _kind_words(summary: Summary, case: Mapping[str, Any]) -> list[str]:
    match case["kind"]:
        case "kick":
            return [f"kicked {state_name(case['state'])}"]
        case "race":
            return [f"race at {window_name(summary, case['window_ns'])}"]
        case "pause_all":
            return ["pause all"]
        case "lifecycle":
            return [f"kicked {moment_name(case['moment'])}"]
        case "nested":
            return [f"nested by {vendor_name(case)}"]
        case _:
            return []


def label(summary: Summary, case: Summary, *, of_kind: bool = True) -> str:
    """A case in a few words, e.g. "2 vCPUs, local"."""
    who = "pairs of CPUs" if case["kind"] == "handover" else plural(case["vcpus"], "vCPU")
    return f"{who}, {conditions(summary, case, of_kind=of_kind)}"


def crowded(case: Summary, oversubscribed: Iterable[str]) -> str:
    """ ", more vCPUs than CPUs" if the case had, to follow its label."""
    return ", more vCPUs than CPUs" if case["id"] in oversubscribed else ""


def _differ(summary: Summary, like: Summary, key: str) -> bool:
    """Whether the key differs within the cases of a kind; within a state, for each has programs."""
    state = like.get("state")
    alike = [case for case in summary["cases"] if case["kind"] == like["kind"]]
    return len({case[key] for case in alike if state in (None, case["state"])}) > 1


def finished(summary: Summary, kind: str | None = None) -> list[Summary]:
    """The cases that have figures, in the order of the scenario; of one kind or of all."""
    cases = [case for case in summary["cases"] if case["status"] == "ok"]
    return [case for case in cases if kind in (None, case["kind"])]


def series_of(summary: Summary, kind: str = "exits") -> list[Series]:
    """The finished cases of a kind by series, in the order of the scenario."""
    keys = (*_SERIES, *NOISE, "pause_gap_us", "order")
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
