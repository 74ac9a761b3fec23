# SPDX-License-Identifier: Apache-2.0
"""Describes a VM that was observed: how often it leaves and why, its kicks, and what it pays.

An entry of the table of kinds in :mod:`kickbench.report.words.verdict`.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Collection

from kickbench.compare.runs import UNKNOWN_PROTOCOL, Comparison
from kickbench.numbers import listed, measured, plural, significant, whole
from kickbench.report.words.names import Summary, duration, finished, nanoseconds, second_name

PORTS = {
    0x20: "the interrupt controller",
    0x40: "the interval timer",
    0x43: "the interval timer",
    0x60: "the keyboard controller",
    0x64: "the keyboard controller",
    0x70: "the real-time clock",
    0x71: "the real-time clock",
    0x80: "the POST code",
    0x92: "system control port A",
    0x2F8: "COM2",
    0x3F8: "COM1",
    0x402: "the firmware's debug port",
    0x510: "QEMU's fw_cfg",
    0x511: "QEMU's fw_cfg",
    0x608: "the ACPI PM timer",
    0xB008: "the ACPI PM timer",
    0xCF8: "PCI configuration",
    0xCFC: "PCI configuration",
}
"""What is usually at a port of a PC."""

STATES = {
    "running": "while the vCPU ran",
    "halted": "while it was halted",
    "userspace": "while it was in user space",
    "waiting": "while it waited for a CPU",
}
"""What a vCPU did when it was kicked, as a sentence goes on, in the order of a report."""

_CODES = {-6: "tgkill(2)", 0: "kill(2)", -1: "sigqueue(3)", -2: "a POSIX timer", 128: "the kernel"}
_MOST_WAYS = 3
_MUCH_WAITING = 0.05
"""A vCPU that waits for a CPU for this share of the time is told."""
_CANNOT_TELL = 0.2
"""If the interval of what observing costs is wider, the VM's own rate varied too much."""


def answer_observed(summary: Summary, _: Collection[str]) -> list[str]:
    """What each observed VM did, the answer first."""
    said = []
    for case in finished(summary, "observed"):
        said += [
            _exits(summary, case),
            *_siglock(summary, case),
            *_pauses(summary, case),
            *_kicks(summary, case),
            *_oddities(summary, case),
            *_waiting(case),
            *_nodes(case),
            _evidence(case),
            *_observing(summary, case),
        ]
    return said


def compare_vms(comparison: Comparison) -> list[str]:
    """What sets two observed VMs apart, apart from the figures that are judged."""
    said = []
    ends = comparison.base, comparison.other
    cases = [finished(summary, "observed") for summary in ends]
    for one in cases[0]:
        two = next((case for case in cases[1] if case["id"] == one["id"]), None)
        if two is None:
            continue
        both = (one, two)
        for facts, words in (
            ([_protocol(case) for case in both], "{0} uses {1}"),
            ([plural(case["vcpus"], "vCPU") for case in both], "{0} has {1}"),
            ([_most_ways(case) for case in both], "{0} leaves {1}"),
        ):
            if facts[0] != facts[1]:
                parts = [words.format(*p) for p in zip(comparison.names, facts, strict=True)]
                said.append(f"{' and '.join(parts)}.")
    return said


def _protocol(case: Summary) -> str:
    protocol: str = case["protocol"]["id"]
    return protocol if protocol != UNKNOWN_PROTOCOL else "an unknown protocol"


def _most_ways(case: Summary) -> str:
    ways = [f"{percent(w['share'])} {way_name(w)}" for w in _frequent(case)]
    return listed(ways) or "for no reason that was noted"


def _frequent(case: Summary) -> list[Summary]:
    return [way for way in case["exits"]["ways"][:_MOST_WAYS] if way["share"] >= 0.01]


def lost_events(summary: Summary) -> list[str]:
    """An alarm for each observation that did not see all."""
    said = []
    for case in finished(summary, "observed"):
        if case["lost_events"]:
            parts = listed([f"{whole(n)} {name}" for name, n in case["lost"].items() if n])
            counted = case["lost"].get("kicks") == case["lost_events"] and case["kicks"].get("n")
            said.append(
                f"{plural(case['lost_events'], 'event')} of {vm_name(case)} got lost ({parts}): "
                + ("its kicks were counted, but " if counted else "its counts are too low, and ")
                + "its times are of a part."
            )
    return said


def vm_name(case: Summary) -> str:
    """E.g. "qemu-system-x86_64 (pid 4711)", with the guest's name if it has one."""
    guest = f", guest {case['guest']}" if case["guest"] else ""
    return f"{case['vmm']} (pid {case['pid']}{guest})"


def way_name(way: Summary) -> str:
    """A way to leave in words, e.g. "to read port 0x608 (the ACPI PM timer)"."""
    do = "write" if way["write"] else "read"
    address = f"{way['address']:#x}"
    if way["reason"] == "io":
        usual = PORTS.get(way["address"])
        return f"to {do} port {address}" + (f" ({usual})" if usual else "")
    if way["reason"] == "mmio":
        return f"to {do} address {address} (MMIO)"
    if way["reason"] == "EINTR":
        return "because of a signal (EINTR)"
    return f"for {way['reason']}"


def a_second(summary: Summary) -> str:
    """E.g. "a second", as a rate goes on."""
    return f"{'an' if summary['emulated'] else 'a'} {second_name(summary)}"


def percent(share: float) -> str:
    """E.g. "92 %", "0.042 %"."""
    return f"{significant(100 * share, 2).removesuffix('.0')} %"


def told_cost(case: Summary) -> float | None:
    """How much longer exits took while observed, as a share; None if that cannot be told."""
    ci95 = case["overhead"]["ci95"]
    if ci95 is None or ci95[1] - ci95[0] > _CANNOT_TELL:
        return None
    share: float | None = case["overhead"]["share"]
    return share


def signal_name(number: int) -> str:
    """E.g. "SIGUSR1", or "signal 40" for one without a name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def code_name(code: int) -> str:
    """How a signal was sent, by its si_code, e.g. "tgkill(2)"."""
    return _CODES.get(code, f"si_code {code}")


def sender_name(sender: Summary) -> str:
    """Who sends a signal and how, e.g. "SIGUSR1 by the tgkill(2) of CPU 0/KVM"."""
    how = code_name(sender["code"])
    name = signal_name(sender["signal"])
    if not sender["thread"]:
        return f"{name} by {how}"
    return f"{name} by the {how} of {sender['name'] or 'a thread'}"


def _exits(summary: Summary, case: Summary) -> str:
    exits = case["exits"]
    if not exits["n"]:
        return "This VM did not leave to user space."
    ways = [f"{percent(way['share'])} {way_name(way)}" for way in _frequent(case)]
    rate = f"{significant(exits['per_second'], 3)} times {a_second(summary)}"
    return f"This VM leaves to user space {rate}{', ' if ways else ''}{listed(ways)}."


def _siglock(summary: Summary, case: Summary) -> list[str]:
    """The protocol, and what siglock costs the VM with it."""
    lock, protocol = case["siglock"], case["protocol"]["id"]
    said = []
    if protocol == "unknown":
        said.append("Its kick protocol is not known.")
    elif protocol != "sigmask":
        said.append(f"It uses {protocol}, so siglock costs its exits nothing.")
    elif (cost := lock["cost"]) is None:
        said.append(
            "It uses sigmask, so each exit takes siglock. What that costs is not measured on this "
            "host yet: kickbench run smp_windows_like --quick does it."
        )
    else:
        value, low, high = measured(cost["value"], cost["ci95"])
        share = duration(summary, cost["value"] * case["exits"]["per_second"])
        said.append(
            f"It uses sigmask, so each exit takes siglock: {share} {a_second(summary)} in all."
        )
        said.append(
            f"On this host sigmask costs {value} {nanoseconds(summary)} ({low} to {high}) per exit "
            f"more than immediate_exit (run {cost['run']})."
        )
    if lock["waits"]:
        said.append(
            f"{'Its' if protocol == 'sigmask' else 'Elsewhere its'} "
            f"{plural(lock['threads'], 'thread')} waited for siglock "
            f"{plural(lock['waits'], 'time')}, {duration(summary, lock['wait_ns'])} in all."
        )
    return said


def _pauses(summary: Summary, case: Summary) -> list[str]:
    pauses = case["kicks"]["pauses"]
    if not pauses:
        return []
    last = case["kicks"]["pause_ns"]["last"]
    longest = duration(summary, last["max"])
    usual = f"{duration(summary, last['p50'])} at p50 and at most " if pauses > 1 else ""
    return [f"Pausing it took {usual}{longest} ({plural(pauses, 'pause')})."]


def _kicks(summary: Summary, case: Summary) -> list[str]:
    kicks = case["kicks"]
    if not kicks["sent"]:
        return ["No kick was sent to its vCPUs."]
    who = next((sender_name(one) for one in kicks["senders"] if not one["to_process"]), "")
    said = [
        f"Its vCPUs were kicked {plural(kicks['sent'], 'time')}, most often with {who}."
        if who
        else f"Its vCPUs were kicked {plural(kicks['sent'], 'time')}."
    ]
    latency = kicks["latency_ns"]
    if latency["p50"] is not None and kicks["left"] == 1:
        said.append(f"KVM_RUN returned {duration(summary, latency['max'])} after the one kick.")
    elif latency["p50"] is not None:
        said.append(
            f"KVM_RUN returned {duration(summary, latency['p50'])} after the kick at p50, "
            f"{duration(summary, latency['p99'])} at p99 and at most "
            f"{duration(summary, latency['max'])} ({plural(kicks['left'], 'kick')})."
        )
    states = [
        f"{duration(summary, found['latency_ns']['p50'])} {words}"
        for state, words in STATES.items()
        if (found := kicks["by_state"].get(state)) and found["latency_ns"]["p50"] is not None
    ]
    if len(states) > 1:
        said.append(f"At p50 it took {listed(states)}.")
    if (kept := kicks.get("kept", 0)) < (n := kicks.get("n", 0)):
        said.append(f"Pauses, and times of kicks, are those of {kept:,} of {plural(n, 'kick')}.")
    return said


def _oddities(summary: Summary, case: Summary) -> list[str]:
    kicks = case["kicks"]
    said = []
    if kicks["unanswered"]:
        oldest = kicks.get("oldest_unanswered_ns")
        said.append(
            f"{plural(kicks['unanswered'], 'kick')} had no answer when observing ended"
            + (f", the oldest after {duration(summary, oldest)}." if oldest is not None else ".")
        )
    if kicks["failed"]:
        said.append(f"{plural(kicks['failed'], 'kick')} could not be sent.")
    if before := kicks.get("before_run"):
        said.append(
            f"{plural(before, 'signal')} came to vCPUs' threads before these were seen to run them."
        )
    if kicks["unasked"]:
        said.append(
            f"KVM_RUN returned EINTR {plural(kicks['unasked'], 'time')} without a signal or "
            "immediate_exit."
        )
    return said


def _waiting(case: Summary) -> list[str]:
    waited = [v for v in case["vcpus_seen"] if (v["waited_share"] or 0) > _MUCH_WAITING]
    if not waited:
        return []
    most = max(waited, key=lambda vcpu: float(vcpu["waited_share"]))
    others = f", and {plural(len(waited) - 1, 'other')} for less" if len(waited) > 1 else ""
    share = f"{100 * most['waited_share']:.0f} %"
    return [f"vCPU {most['id']} waited for a CPU for {share} of the time{others}."]


def _nodes(case: Summary) -> list[str]:
    """Where its threads ran, and where its memory is, if these are several NUMA nodes."""
    ran = sorted({node for vcpu in case["vcpus_seen"] for node in vcpu.get("nodes", ())})
    pages = {node: n for node, n in case["memory_nodes"].items() if n}
    total = sum(pages.values())
    if not ran or not total or {str(node) for node in ran} | set(pages) == {str(ran[0])}:
        return []
    shares = [
        f"{percent(n / total)} on node {node}"
        for node, n in sorted(pages.items(), key=lambda one: -one[1])
    ]
    on = f"node{'s' if len(ran) > 1 else ''} {listed([str(node) for node in ran])}"
    return [f"Its vCPUs ran on {on}. Its memory is {listed(shares)}."]


def _evidence(case: Summary) -> str:
    return f"What tells the protocol: {'; '.join(case['protocol']['evidence']) or 'nothing'}."


def _observing(summary: Summary, case: Summary) -> list[str]:
    seen = f"{vm_name(case)} was observed for {duration(summary, case['seconds'] * 1e9)}"
    said = [f"{seen}." if not case["ended"] else f"{seen}, because {case['ended']}."]
    if case["looked_at_share"] <= 0.9:
        said.append(
            f"Times and reasons are those of {percent(case['looked_at_share'])} of this time."
        )
    over = case["overhead"]
    if over["share"] is None or over["ci95"] is None:
        return [*said, "It leaves too rarely to tell what observing cost it."]
    value, low, high = measured(100 * over["share"], [100 * end for end in over["ci95"]])
    if told_cost(case) is None:
        return [*said, f"Its rate varies too much to tell what observing cost ({low} to {high} %)."]
    return [*said, f"Observing made its exits {value} % ({low} to {high} %) longer."]
