# SPDX-License-Identifier: Apache-2.0
"""The Parquet tables of a results folder: every column with its type, unit and meaning.

:data:`TABLES` is the one place that defines them. A new table is one entry there and its name in
the kinds that write it; the store, the reader's checks and the reference in ``docs/results.md``
(which a test compares) follow. This module also turns the worker's plain numpy arrays into those
tables. It does not touch the disk, except for reading one worker's ``.npy`` file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kickbench.errors import MeasurementError
from kickbench.methods import method_label
from kickbench.results.schema import SCHEMA

# Parquet gives dictionary indices back as int32, whatever was written.
METHOD_TYPE = pa.dictionary(pa.int32(), pa.string())

# The largest number that a float64 holds exactly; sums are taken in float64.
LARGEST = 2**53


@dataclass(frozen=True)
class Column:
    """One column: ``minimum`` is the smallest valid value (-1 where -1 says "unknown").

    A ``later`` column is not in the tables of earlier runs. There it reads as ``absent``: its
    ``minimum``, or NaN. So does a column that replaced another, because columns that are not
    listed here are not read.
    """

    name: str
    type: pa.DataType
    unit: str
    doc: str
    minimum: int = 0
    later: bool = False

    @property
    def absent(self) -> pa.Scalar:
        """What a run without the column has in it."""
        floating = pa.types.is_floating(self.type)
        return pa.scalar(math.nan if floating else self.minimum).cast(self.type)

    @property
    def field(self) -> pa.Field:
        """The Arrow field, not nullable, with unit and doc as its metadata."""
        metadata = {"unit": self.unit, "doc": self.doc}
        return pa.field(self.name, self.type, nullable=False, metadata=metadata)


@dataclass(frozen=True)
class Table:
    """One Parquet table. ``max_rows`` is the most that a reader accepts.

    ``kinds`` always have it, ``kinds_with_kicks`` only when the case has a ``kick_rate_hz``, and
    ``kinds_with_noise`` only when it has noise.
    ``at_most`` has pairs of columns: the first never exceeds the second.
    """

    name: str
    doc: str
    kinds: tuple[str, ...]
    max_rows: int
    columns: tuple[Column, ...]
    kinds_with_kicks: tuple[str, ...] = ()
    kinds_with_noise: tuple[str, ...] = ()
    at_most: tuple[tuple[str, str], ...] = ()

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema; units and docs are in the metadata of its fields."""
        return pa.schema(
            [column.field for column in self.columns],
            metadata={"doc": self.doc, "schema": str(SCHEMA)},
        )


_PROCESS = Column("process", pa.int16(), "", "index of the worker process within the case")
_ROUND = Column("round", pa.int32(), "", "index of the round within the process")
_METHOD = Column("method", METHOD_TYPE, "", "id of the kick protocol")
_CONTROL = Column(
    "control", pa.bool_(), "", "true for the baseline's second entry, the A/A control"
)
_PLACEBO = Column(
    "placebo",
    pa.bool_(),
    "",
    "true for the baseline's third entry, another copy of its loop",
    later=True,
)
_WHO = (_METHOD, _CONTROL, _PLACEBO)
ROLES = ("control", "placebo")
"""The columns that mark a row of the A/A control or of the placebo."""
_PLACE = (
    _PROCESS,
    _ROUND,
    Column("position", pa.int16(), "", "place of the block within its round"),
)
"""The columns that name the block of a row."""
_VCPU = Column("vcpu", pa.int16(), "", "index of the vCPU")
_SPURIOUS = Column("spurious", pa.int64(), "", "returns with EINTR when no kick was pending")

_PERCENT = (1, 2.5, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9)
QUANTILES: dict[str, float] = {
    f"p{percent:g}_cycles".replace(".", "_"): round(percent / 100, 6) for percent in _PERCENT
}
"""The columns with the quantiles of a block's exits, and their levels from 0 to 1, rising."""

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            name="blocks",
            doc="one row per process, round, position in the round, and vCPU",
            kinds=("exits",),
            max_rows=2**25,
            columns=(
                *_PLACE,
                *_WHO,
                _VCPU,
                Column("cpu", pa.int32(), "", "CPU at the end of the block; -1 unknown", -1),
                Column("exits", pa.int64(), "exits", "returns of KVM_RUN in the block"),
                Column(
                    "elapsed_cycles",
                    pa.int64(),
                    "cycles",
                    "length of the vCPU's window: to the exit that went beyond its end, or to its "
                    "end if no exit did",
                ),
                Column(
                    "skew_cycles",
                    pa.int64(),
                    "cycles",
                    "the vCPU's window began so much later than the block's; -1 unknown",
                    -1,
                    later=True,
                ),
                Column(
                    "stalled_cycles",
                    pa.int64(),
                    "cycles",
                    "part of the window: from one spurious return to the next without an exit of "
                    "the guest between; -1 unknown",
                    -1,
                    later=True,
                ),
                Column("timed_exits", pa.int64(), "exits", "exits that have a time"),
                Column(
                    "timed_cycles",
                    pa.int64(),
                    "cycles",
                    "sum of their times: from return to return of KVM_RUN at full speed, "
                    "the guest's own round trips when paced",
                ),
                Column("max_cycles", pa.int64(), "cycles", "the longest of them"),
                Column("cpu_ns", pa.int64(), "ns", "CPU time of the vCPU thread; -1 unknown", -1),
                Column(
                    "run_delay_ns",
                    pa.int64(),
                    "ns",
                    "time the thread was runnable but waited for a CPU; -1 unknown",
                    -1,
                ),
                Column("voluntary_switches", pa.int32(), "", "context switches: it slept"),
                Column("involuntary_switches", pa.int32(), "", "context switches: preempted"),
                Column("migrations", pa.int32(), "", "moves to another CPU; -1 unknown", -1),
                Column(
                    "steal_ns",
                    pa.int64(),
                    "ns",
                    "steal time of its CPU, on the first row of the block with that CPU; 0 on "
                    "others; -1 unknown (before schema 2 all of them had it)",
                    -1,
                ),
                Column("rescues", pa.int32(), "", "kicks that had to be repeated to end the block"),
                Column(
                    "kicked",
                    pa.int32(),
                    "",
                    "1: a kick ended the block; 0: the clock did; -1 unknown",
                    -1,
                    later=True,
                ),
                Column(
                    "spurious_exits",
                    pa.int64(),
                    "exits",
                    "KVM_RUN gave up with no kick pending; -1 unknown",
                    -1,
                    later=True,
                ),
                Column("unsampled", pa.int64(), "exits", "exits that did not fit the raw buffer"),
                *(
                    Column(
                        name,
                        pa.float32(),
                        "cycles",
                        f"quantile of the block's timed exits at {100 * level:g} %, ties spread "
                        "over the clock's step; NaN: there was none, or unknown",
                        later=True,
                    )
                    for name, level in QUANTILES.items()
                ),
            ),
        ),
        Table(
            name="exit_histograms",
            doc="distribution of every timed exit, one row per process, method and bin that is "
            "not empty",
            kinds=("exits",),
            max_rows=2**24,
            columns=(
                _PROCESS,
                *_WHO,
                Column("low_cycles", pa.uint32(), "cycles", "lower edge of the bin, inclusive"),
                Column("high_cycles", pa.uint64(), "cycles", "upper edge of the bin, exclusive"),
                Column("count", pa.int64(), "exits", "timed exits in the bin"),
            ),
        ),
        Table(
            name="exit_samples",
            doc="raw times of single exits, of whole rounds, evenly decimated to the sample budget",
            kinds=("exits",),
            max_rows=2**31,
            columns=(
                _PROCESS,
                _ROUND,
                *_WHO,
                _VCPU,
                Column("cycles", pa.uint32(), "cycles", "time of one exit, in order of happening"),
            ),
        ),
        Table(
            name="kicks",
            doc="one row per kick",
            kinds=("kick",),
            max_rows=2**25,
            columns=(
                *_PLACE,
                *_WHO,
                _VCPU,
                Column("kicker", pa.int16(), "", "index of the kicking thread"),
                Column(
                    "volley",
                    pa.int32(),
                    "",
                    "index within the block of the moment that all kickers' kicks were due at; "
                    "-1 unknown",
                    -1,
                    later=True,
                ),
                Column(
                    "cpu",
                    pa.int32(),
                    "",
                    "CPU that the kicker's call began and ended on; -1 unknown, or another",
                    -1,
                    later=True,
                ),
                Column("met", pa.bool_(), "", "the vCPU was seen to be in the wanted state"),
                Column("lost", pa.bool_(), "", "only the rescue made KVM_RUN return"),
                Column("at_cycles", pa.int64(), "cycles", "when, since the block's begin"),
                Column("send_cycles", pa.uint32(), "cycles", "length of the kicker's call"),
                Column(
                    "delivery_cycles",
                    pa.uint32(),
                    "cycles",
                    "from just before the kick until the handler ran; 0: none was seen",
                ),
                Column(
                    "returned_cycles",
                    pa.int64(),
                    "cycles",
                    "from just before the kick until KVM_RUN returned; 0: a look at the flag took "
                    "it; -1 unknown; saturates at 2^32 - 1",
                    -1,
                    later=True,
                ),
                Column(
                    "latency_cycles",
                    pa.uint32(),
                    "cycles",
                    "from just before the kick until the protocol knew of it, its own work after "
                    "KVM_RUN included; saturates",
                ),
                Column(
                    "resumed_cycles",
                    pa.uint32(),
                    "cycles",
                    "from just before the kick until the guest was entered again and ran, the "
                    "protocol's clean-up included; 0: that was not seen; saturates",
                    later=True,
                ),
                Column(
                    "signals",
                    pa.uint32(),
                    "",
                    "signals that the kicker's call sent; more than one: it sent again",
                    later=True,
                ),
            ),
        ),
        Table(
            name="kick_blocks",
            doc="the kicks of a block counted, one row per block",
            kinds=("kick",),
            kinds_with_kicks=("exits",),
            max_rows=2**24,
            columns=(
                *_PLACE,
                *_WHO,
                Column("sent", pa.int64(), "kicks", "kicks sent, rescues not counted"),
                Column("met", pa.int64(), "kicks", "those that met the wanted state"),
                Column("lost", pa.int64(), "kicks", "those that needed a rescue"),
                _SPURIOUS,
                Column("elapsed_cycles", pa.int64(), "cycles", "length of the block"),
            ),
            at_most=(("met", "sent"), ("lost", "sent")),
        ),
        Table(
            name="pauses",
            doc="one row per pause of all vCPUs",
            kinds=("pause_all",),
            max_rows=2**24,
            columns=(
                *_PLACE,
                *_WHO,
                Column("at_cycles", pa.int64(), "cycles", "when, since the block's begin"),
                Column("send_cycles", pa.int64(), "cycles", "until all vCPUs had been kicked"),
                Column("first_cycles", pa.int64(), "cycles", "until the first vCPU acknowledged"),
                Column(
                    "median_cycles",
                    pa.int64(),
                    "cycles",
                    "until half of them had, rounded up",
                ),
                Column("last_cycles", pa.int64(), "cycles", "until the last one had"),
                Column(
                    "clock_cycles",
                    pa.int64(),
                    "cycles",
                    "until the last one had called KVM_KVMCLOCK_CTRL; 0: none did",
                    later=True,
                ),
                Column(
                    "state_cycles",
                    pa.int64(),
                    "cycles",
                    "until the state of the last one had been read; 0: none was",
                    later=True,
                ),
                Column("rescues", pa.int32(), "", "kicks that had to be repeated"),
                Column(
                    "not_run",
                    pa.int32(),
                    "",
                    "vCPUs whose guest had not run since the pause before; -1 unknown",
                    -1,
                    later=True,
                ),
            ),
        ),
        Table(
            name="races",
            doc="the aimed kicks of a block counted, one row per block",
            kinds=("race",),
            max_rows=2**24,
            columns=(
                *_PLACE,
                *_WHO,
                Column("sent", pa.int64(), "kicks", "kicks sent, rescues not counted"),
                Column(
                    "landed",
                    pa.int64(),
                    "kicks",
                    "those that could have been lost: they came between the look at the flag and "
                    "the guest's next instruction, or were lost; -1 unknown",
                    -1,
                    later=True,
                ),
                Column("lost", pa.int64(), "kicks", "those that needed a rescue"),
                Column(
                    "resent",
                    pa.int64(),
                    "kicks",
                    "those whose call sent more than one signal",
                    later=True,
                ),
                _SPURIOUS,
                Column("rescues", pa.int64(), "kicks", "rescue kicks sent"),
                Column("timeout_cycles", pa.int64(), "cycles", "a kick may be lost after it"),
                Column("elapsed_cycles", pa.int64(), "cycles", "length of the block"),
                Column(
                    "latency_max_cycles",
                    pa.int64(),
                    "cycles",
                    "the longest latency of a kick that was not lost; 0: none was timed",
                ),
            ),
            at_most=(("landed", "sent"), ("resent", "sent"), ("lost", "sent")),
        ),
        Table(
            name="nested",
            doc="one row per iteration of the guest hypervisor (L1), in order of happening",
            kinds=("nested",),
            max_rows=2**27,
            columns=(
                *_PLACE,
                Column("method", METHOD_TYPE, "", "id of the iteration's way"),
                _CONTROL,
                _PLACEBO,
                Column(
                    "cycles",
                    pa.int64(),
                    "cycles",
                    "by L1's TSC, from just before it entered L2 until it had the exit",
                ),
                Column(
                    "exit_reason",
                    pa.int64(),
                    "",
                    "basic exit reason (VMX), or the low 32 bits of the exit code (SVM)",
                ),
                Column("expected", pa.bool_(), "", "L2 left for the reason that was expected"),
                Column("injected", pa.bool_(), "", "an event was injected into L2"),
                Column("delivered", pa.int64(), "", "runs of L2's handler for that event"),
                Column("work", pa.int64(), "loops", "turns of L2's loop before the exit"),
                Column(
                    "detail",
                    pa.int64(),
                    "",
                    "exit qualification (VMX) or EXITINFO1 (SVM); saturates at 2^53",
                ),
                Column(
                    "latency_cycles",
                    pa.int64(),
                    "cycles",
                    "from the sender's stamp until L1 had the exit, if a thread sent the event; "
                    "else 0",
                ),
            ),
        ),
        Table(
            name="handovers",
            doc="one row per block: a pair of CPUs, or one CPU alone",
            kinds=("handover",),
            max_rows=2**25,
            columns=(
                *_PLACE,
                Column("method", METHOD_TYPE, "", "id of the way: handover or alone"),
                _CONTROL,
                _PLACEBO,
                Column(
                    "first_cpu", pa.int32(), "", "CPU of the first thread, which times the bouts"
                ),
                Column(
                    "second_cpu",
                    pa.int32(),
                    "",
                    "CPU of the other thread; of alone, the same as first_cpu",
                ),
                Column(
                    "first_node",
                    pa.int32(),
                    "",
                    "node of first_cpu and of the line's memory; -1 unknown",
                    -1,
                ),
                Column("second_node", pa.int32(), "", "node of second_cpu; -1 unknown", -1),
                Column(
                    "distance",
                    pa.int32(),
                    "",
                    "distance of the two nodes as the firmware says it, 10 within a node; "
                    "-1 unknown, or alone",
                    -1,
                ),
                Column("siblings", pa.bool_(), "", "the two CPUs are threads of one core"),
                Column("handovers", pa.int64(), "hand-overs", "hand-overs of the block"),
                Column("elapsed_cycles", pa.int64(), "cycles", "length of the block"),
                Column(
                    "quiet_cycles",
                    pa.float32(),
                    "cycles",
                    "time per quiet hand-over: the mean of five low quantiles of the bouts",
                ),
            ),
        ),
        Table(
            name="lives",
            doc="one row per fresh VM, which is kicked once",
            kinds=("lifecycle",),
            max_rows=2**25,
            columns=(
                *_PLACE,
                *_WHO,
                Column(
                    "fate",
                    pa.int8(),
                    "",
                    "what became of the kick. 0: answered; 1: late; 2: lost; 3: refused; "
                    "4: poisoned; 5: killed",
                ),
                Column("met", pa.bool_(), "", "the kick was sent before the moment was over"),
                Column(
                    "error",
                    pa.int32(),
                    "",
                    "errno of KVM_RUN if poisoned, of the kick if refused; else 0",
                ),
                Column(
                    "delay_ns", pa.int64(), "ns", "from the moment's begin until the kick was due"
                ),
                Column(
                    "latency_cycles",
                    pa.int64(),
                    "cycles",
                    "until the protocol knew of the kick; 0: it never did",
                ),
                Column(
                    "waited_cycles",
                    pa.int64(),
                    "cycles",
                    "time of these in which the vCPU's thread waited for a CPU",
                ),
            ),
        ),
        Table(
            name="observed_ways",
            doc="the ways in which each vCPU left KVM_RUN while it was looked at closely",
            kinds=("observed",),
            max_rows=2**18,
            columns=(
                _VCPU,
                Column(
                    "reason",
                    pa.int32(),
                    "",
                    "KVM's exit reason (linux/kvm.h), or 65536 plus the errno of KVM_RUN",
                ),
                Column("write", pa.bool_(), "", "the guest wrote; of I/O only"),
                Column("size", pa.int32(), "bytes", "length of one access; of I/O only"),
                Column(
                    "address",
                    pa.int64(),
                    "",
                    "port, or guest-physical address; of I/O only; saturates",
                ),
                Column("exits", pa.int64(), "exits", "exits of this way"),
                Column("timed", pa.int64(), "exits", "those whose KVM_RUN was seen to begin"),
                Column("in_run_ns", pa.int64(), "ns", "sum of their times in KVM_RUN"),
                Column("handled", pa.int64(), "exits", "those after which KVM_RUN began again"),
                Column("userspace_ns", pa.int64(), "ns", "sum of the times between"),
            ),
            at_most=(("timed", "exits"), ("handled", "exits")),
        ),
        Table(
            name="observed_times",
            doc="distributions of a vCPU's times, one row per bin that is not empty",
            kinds=("observed",),
            max_rows=2**22,
            columns=(
                _VCPU,
                Column(
                    "figure",
                    pa.int8(),
                    "",
                    "0: gap from one exit to the next; 1: user space, from an exit to the next "
                    "KVM_RUN; 2: in KVM_RUN",
                ),
                Column("low_ns", pa.int64(), "ns", "lower edge of the bin, inclusive"),
                Column("high_ns", pa.int64(), "ns", "upper edge of the bin, exclusive"),
                Column("count", pa.int64(), "exits", "times in the bin"),
            ),
        ),
        Table(
            name="observed_kicks",
            doc="one row per signal that a vCPU's thread was sent, in order of sending",
            kinds=("observed",),
            max_rows=2**25,
            columns=(
                _VCPU,
                Column("sender", pa.int32(), "", "thread that sent it; 0: a timer or the kernel"),
                Column("signal", pa.int16(), "", "its number"),
                Column("code", pa.int32(), "", "si_code (sigaction(2)): how it was sent", -(2**31)),
                Column(
                    "state",
                    pa.int8(),
                    "",
                    "what the vCPU did: 0 in user space, 1 in KVM_RUN and running, 2 in KVM_RUN "
                    "and asleep, 3 in KVM_RUN and waiting for a CPU",
                ),
                Column("more", pa.int32(), "", "further signals to it before the answer"),
                Column(
                    "reason",
                    pa.int32(),
                    "",
                    "how KVM_RUN returned, as in observed_ways; -1: it did not, because the vCPU "
                    "was in user space",
                    -1,
                ),
                Column(
                    "set_by_sender",
                    pa.bool_(),
                    "",
                    "immediate_exit was set when the signal was sent",
                ),
                Column("set_at_exit", pa.bool_(), "", "it was set when KVM_RUN returned"),
                Column("at_ns", pa.int64(), "ns", "when, since the observation began"),
                Column(
                    "latency_ns",
                    pa.int64(),
                    "ns",
                    "from the signal until KVM_RUN returned; -1: it did not",
                    -1,
                ),
                Column(
                    "handled_ns",
                    pa.int64(),
                    "ns",
                    "from the signal until its handler was entered; -1: none was",
                    -1,
                ),
                Column("answered", pa.bool_(), "", "false: it was pending at the end"),
            ),
        ),
        Table(
            name="noise",
            doc="the noise of a block counted, one row per block",
            kinds=(),
            kinds_with_noise=("exits", "kick", "pause_all", "race"),
            max_rows=2**24,
            columns=(
                *_PLACE,
                *_WHO,
                Column(
                    "foreign_sent",
                    pa.int64(),
                    "signals",
                    "signals that are no kicks, sent to the threads of all vCPUs",
                ),
                Column(
                    "foreign_taken",
                    pa.int64(),
                    "signals",
                    "those whose handler ran; two that are pending at once are one",
                ),
                Column(
                    "siglock_taken",
                    pa.int64(),
                    "",
                    "times that the threads that make noise took siglock",
                ),
                _SPURIOUS,
                Column("elapsed_cycles", pa.int64(), "cycles", "length of the block"),
            ),
            at_most=(("foreign_taken", "foreign_sent"),),
        ),
        Table(
            name="observed_turns",
            doc="about a second of the observation, one row per vCPU",
            kinds=("observed",),
            max_rows=2**26,
            columns=(
                Column("turn", pa.int32(), "", "index of the turn"),
                Column("at_ns", pa.int64(), "ns", "its begin, since the observation began"),
                Column("elapsed_ns", pa.int64(), "ns", "its length"),
                _VCPU,
                Column("exits", pa.int64(), "exits", "exits in the turn"),
                Column("cpu", pa.int32(), "", "CPU of the thread at the end; -1 unknown", -1),
            ),
        ),
        Table(
            name="observed_blocks",
            doc="what observing costs, one row per block",
            kinds=("observed",),
            max_rows=2**16,
            columns=(
                _ROUND,
                Column("state", pa.int8(), "", "0: nothing was observed; 1: counted; 2: times too"),
                Column(
                    "exits",
                    pa.int64(),
                    "exits",
                    "exits as KVM counts them, those that the kernel handles too",
                ),
                Column("elapsed_ns", pa.int64(), "ns", "length of the block"),
            ),
        ),
    )
}


def tables_of(kind: str, *, kicks: bool = False, noise: bool = False) -> tuple[Table, ...]:
    """The tables that a finished case of ``kind`` has; empty for a kind that is not known.

    ``kicks``: whether the case has a ``kick_rate_hz``; ``noise``: whether it has noise.
    """
    return tuple(
        table
        for table in TABLES.values()
        if kind in table.kinds
        or (kicks and kind in table.kinds_with_kicks)
        or (noise and kind in table.kinds_with_noise)
    )


def tables_of_case(parameters: Mapping[str, Any]) -> tuple[Table, ...]:
    """The tables of a finished case with these parameters (the "case" of its case.json)."""
    return tables_of(
        parameters["kind"],
        kicks=parameters.get("kick_rate_hz") is not None,
        noise=has_noise(parameters),
    )


def has_noise(parameters: Mapping[str, Any]) -> bool:
    """Whether a case with these parameters has noise. Those of earlier versions have none."""
    return bool(parameters.get("foreign_signals_hz") or parameters.get("siglock_threads"))


def from_worker(
    name: str,
    array: NDArray[np.void],
    *,
    entries: Sequence[Mapping[str, Any]],
    process: int,
) -> pa.Table:
    """Turn one worker's structured array into the Arrow table ``name``.

    The array has the table's columns, but ``entry`` (an index into ``entries``, each with "method"
    and "role") in place of ``method``, ``control`` and ``placebo``, and no ``process``. Truth
    values may be integers, 0 and 1. Further fields are ignored. Raises MeasurementError when a
    field is missing or a value does not fit.
    """
    table = TABLES[name]
    fields = array.dtype.names or ()
    wanted = {c.name for c in table.columns} - {"process", "method", *ROLES} | {"entry"}
    missing = sorted(wanted - set(fields))
    if missing or array.ndim != 1:
        what = f"without {', '.join(missing)}" if missing else f"of {array.ndim} dimensions"
        raise MeasurementError(f"worker {process} returned the table {name} {what}")
    entry = np.ascontiguousarray(array["entry"]).astype(np.int64)
    if len(entry) and not 0 <= entry.min() <= entry.max() < len(entries):
        raise MeasurementError(
            f"worker {process} returned the table {name} with an entry outside its schedule"
        )
    labels = [method_label(str(item["method"])) for item in entries]
    methods = list(dict.fromkeys(labels))
    method_of = np.array([methods.index(label) for label in labels], np.int32)
    role_of = np.array([str(item["role"]) for item in entries])

    def column(spec: Column) -> pa.Array:
        if spec.name == "process":
            return pa.array(np.full(len(array), process, np.int16))
        if spec.name == "method":
            return pa.DictionaryArray.from_arrays(pa.array(method_of[entry]), pa.array(methods))
        if spec.name in ROLES:
            return pa.array(role_of[entry] == spec.name)
        values = np.ascontiguousarray(array[spec.name])
        if pa.types.is_boolean(spec.type) and not ((values == 0) | (values == 1)).all():
            # A cast would call anything but 0 true.
            raise MeasurementError(
                f"worker {process} returned the table {name} with a bad {spec.name}: not 0 or 1"
            )
        try:
            return pa.array(values).cast(spec.type)
        except pa.ArrowException as error:
            raise MeasurementError(
                f"worker {process} returned the table {name} with a bad {spec.name}: {error}"
            ) from None

    return pa.Table.from_arrays([column(spec) for spec in table.columns], schema=table.schema)


def combine(tables: Sequence[pa.Table]) -> pa.Table:
    """Put the same table of several processes one below the other (at least one)."""
    return pa.concat_tables(tables).unify_dictionaries()


def load_worker_array(path: Path) -> NDArray[np.void]:
    """Read a worker's ``.npy`` file, never a pickle. Raises MeasurementError when it is damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MeasurementError(f"cannot read the worker's result {path}: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.names is None:
        raise MeasurementError(f"the worker's result {path} is not a structured array")
    return array
