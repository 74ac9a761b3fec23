# SPDX-License-Identifier: Apache-2.0
"""Describes a VM that was observed: how often it leaves and why, its kicks, and what it pays.

An entry of the table of kinds in :mod:`kickbench.report.words.verdict`.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Collection

from kickbench.numbers import listed, measured, plural, significant, whole
from kickbench.report.words.names import Summary, duration, finished

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
MUCH_OVERHEAD = 0.03


def answer_observed(summary: Summary, _: Collection[str]) -> list[str]:
    """What each observed VM did, the answer first."""
    said = []
    for case in finished(summary, "observed"):
        said += [
            _exits(summary, case),
            *_kicks(summary, case),
            *_pauses(summary, case),
            *_oddities(case),
            *_protocol(case),
            *_siglock(summary, case),
            *_waiting(case),
            *_observing(summary, case),
        ]
    return said


def lost_events(summary: Summary) -> list[str]:
    """An alarm for each observation that did not see all."""
    said = []
    for case in finished(summary, "observed"):
        if case["lost_events"]:
            parts = listed([f"{whole(n)} {name}" for name, n in case["lost"].items() if n])
            said.append(
                f"{plural(case['lost_events'], 'event')} of {vm_name(case)} got lost ({parts}): "
                "its counts are too low, and its times are of a part."
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
    return "an emulated second" if summary["emulated"] else "a second"


def percent(share: float) -> str:
    """E.g. "92 %", "0.042 %"."""
    return f"{significant(100 * share, 2).removesuffix('.0')} %"


def signal_name(number: int) -> str:
    """E.g. "SIGUSR1", or "signal 40" for one without a name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sender_name(sender: Summary) -> str:
    """Who sends a signal and how, e.g. "SIGUSR1 by CPU 0/KVM with tgkill(2)"."""
    how = _CODES.get(sender["code"], f"si_code {sender['code']}")
    name = signal_name(sender["signal"])
    if not sender["thread"]:
        return f"{name} by {how}"
    return f"{name} by {sender['name'] or 'a thread'} with {how}"


def _exits(summary: Summary, case: Summary) -> str:
    exits = case["exits"]
    vm = f"{vm_name(case)}, {plural(case['vcpus'], 'vCPU')},"
    if not exits["n"]:
        return f"{vm} did not leave to user space in {_time(summary, case)}."
    ways = [
        f"{percent(way['share'])} {way_name(way)}"
        for way in exits["ways"][:_MOST_WAYS]
        if way["share"] >= 0.01
    ]
    rest = f", {listed(ways)}" if ways else ""
    rate = f"{significant(exits['per_second'], 3)} times {a_second(summary)}"
    return f"{vm} leaves to user space {rate}{rest}."


def _time(summary: Summary, case: Summary) -> str:
    return duration(summary, case["seconds"] * 1e9)


def _protocol(case: Summary) -> list[str]:
    protocol = case["protocol"]
    evidence = "; ".join(protocol["evidence"])
    if protocol["id"] == "unknown":
        return [f"Its kick protocol is not known: {evidence}."]
    return [f"It uses {protocol['id']}: {evidence}."]


def _kicks(summary: Summary, case: Summary) -> list[str]:
    kicks = case["kicks"]
    if not kicks["sent"]:
        return ["No kick was sent to its vCPUs."]
    who = next((sender_name(one) for one in kicks["senders"] if not one["to_process"]), "")
    said = [f"Its vCPUs were kicked {plural(kicks['sent'], 'time')}, most by {who}."]
    latency = kicks["latency_ns"]
    if latency["p50"] is not None:
        said.append(
            f"From the kick until KVM_RUN returned it took {duration(summary, latency['p50'])} at "
            f"p50, {duration(summary, latency['p99'])} at p99 and at most "
            f"{duration(summary, latency['max'])} ({plural(kicks['left'], 'kick')})."
        )
    states = [
        f"{duration(summary, found['latency_ns']['p50'])} {words}"
        for state, words in STATES.items()
        if (found := kicks["by_state"].get(state)) and found["latency_ns"]["p50"] is not None
    ]
    if len(states) > 1:
        said.append(f"At p50 it took {listed(states)}.")
    return said


def _pauses(summary: Summary, case: Summary) -> list[str]:
    pauses = case["kicks"]["pauses"]
    if not pauses:
        return []
    last = case["kicks"]["pause_ns"]["last"]
    times = dict.fromkeys(duration(summary, last[name]) for name in ("p50", "max"))
    return [f"All vCPUs were paused {plural(pauses, 'time')}, in {' to '.join(times)}."]


def _oddities(case: Summary) -> list[str]:
    kicks = case["kicks"]
    said = []
    if kicks["unanswered"]:
        said.append(f"{plural(kicks['unanswered'], 'kick')} had no answer when observing ended.")
    if kicks["failed"]:
        said.append(f"{plural(kicks['failed'], 'kick')} could not be sent.")
    if kicks["unasked"]:
        said.append(
            f"KVM_RUN returned EINTR {plural(kicks['unasked'], 'time')} without a signal or "
            "immediate_exit."
        )
    return said


def _siglock(summary: Summary, case: Summary) -> list[str]:
    lock = case["siglock"]
    said = []
    if case["protocol"]["id"] == "sigmask":
        cost = lock["cost"]
        rate = case["exits"]["per_second"]
        if cost is None:
            said.append(
                "Each exit takes siglock. What that costs on this host is not measured: kickbench "
                "run smp_windows_like --quick does it."
            )
        else:
            value, low, high = measured(cost["value"], cost["ci95"])
            share = duration(summary, cost["value"] * rate)
            said.append(
                f"sigmask costs {value} ns ({low} to {high}) per exit more than immediate_exit on "
                f"this host (run {cost['run']}): {share} {a_second(summary)} of this VM."
            )
    elif case["protocol"]["id"] != "unknown":
        said.append(f"Its exits do not take siglock, which {lock['threads']} threads share.")
    if lock["waits"]:
        said.append(
            f"Threads waited for siglock {plural(lock['waits'], 'time')}, "
            f"{duration(summary, lock['wait_ns'])} in all."
        )
    return said


def _waiting(case: Summary) -> list[str]:
    said = []
    waited = [v for v in case["vcpus_seen"] if (v["waited_share"] or 0) > 0.05]
    if waited:
        most = max(waited, key=lambda vcpu: float(vcpu["waited_share"]))
        said.append(
            f"{plural(len(waited), 'vCPU')} waited for a CPU, vCPU {most['id']} for "
            f"{100 * most['waited_share']:.0f} % of the time."
        )
    return said


def _observing(summary: Summary, case: Summary) -> list[str]:
    over = case["overhead"]
    looked = case["looked_at_share"]
    part = (
        ""
        if looked > 0.9
        else f" Times and reasons are those of {significant(100 * looked, 2)} % of the time."
    )
    ended = f" It ended early, because {case['ended']}." if case["ended"] else ""
    seen = f"It was observed for {_time(summary, case)}."
    if over["share"] is None:
        return [f"{seen} What that cost cannot be measured: it leaves too rarely.{part}{ended}"]
    value, low, high = measured(100 * over["share"], [100 * end for end in over["ci95"]])
    return [f"{seen} That made its exits {value} % ({low} to {high} %) longer.{part}{ended}"]
