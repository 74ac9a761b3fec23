# SPDX-License-Identifier: Apache-2.0
"""The typed model of a scenario file: its keys, their units, limits and defaults.

:meth:`Scenario.from_dict` takes any data. It returns a :class:`Scenario`, or raises one
:class:`~kickbench.errors.ScenarioError` that names the file, the key, what was expected and what
was found. :mod:`kickbench.run.plan` decides whether *this* host can run the scenario.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from kickbench.cpu_list import parse_cpu_list
from kickbench.errors import ScenarioError
from kickbench.guest.mix import (
    EXITS,
    LAST_ADDRESS,
    MAX_EXITS,
    MAX_SHARE,
    SIZES,
    why_kept,
    why_not_an_exit,
)
from kickbench.guest.programs import PROGRAMS
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.native import placebo_name
from kickbench.scenario.findings import Axis, OneOf, Table, expected, expecting, explain, problem
from kickbench.scenario.kinds import (
    AFTER,
    ARRIVALS,
    DEFAULT_ITERATIONS,
    DEFAULT_ORDER,
    DEFAULT_PAUSE_GAP_US,
    DEFAULT_SIGLOCK_HZ,
    DEFAULT_TRANSPORT,
    DEFAULT_VMS,
    KINDS,
    MAX_GAP_US,
    MAX_GAPS,
    MAX_KICKERS,
    MAX_KICKS_HZ,
    MAX_SIGLOCK_THREADS,
    MAX_VCPU_RATE,
    MIN_GAP_US,
    MIN_GAPS,
    MIN_VCPU_RATE,
    MOMENTS,
    NOISY_KINDS,
    ORDERS,
    PRECISION_OF,
    STATES,
    TRANSPORTS,
    USUAL_STATES,
)
from kickbench.text import did_you_mean, quoted

MAX_VCPUS = 1024
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# Line breaks and tabs are text; other control characters would reach terminals and reports.
_TEXT_PATTERN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
_CPU_RANGE = r"[0-9]{1,4}(-[0-9]{1,4})?"
# The name of a protocol's file, without ".c", or without "lib" and ".so", is its name in results.
# The folder is anything.
_PROTOCOL_PATTERN = (
    r"^([^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*/)?"
    r"([a-z][a-z0-9_]{0,63}\.c|(lib)?[a-z][a-z0-9_]{0,63}\.so)$"
)
_WHERE_PATTERN = rf"^(any|node:[0-9]{{1,4}}|cpu:{_CPU_RANGE}(,{_CPU_RANGE})*)$"


# --- Types of fields: the limits, and the words for what is expected ------------------------


def _cpu_list_parses(where: str) -> str:
    if where.startswith("cpu:"):
        parse_cpu_list(where.removeprefix("cpu:"))
    return where


Name = Annotated[
    str,
    Field(strict=True, pattern=NAME_PATTERN),
    expecting("1 to 64 letters, digits, '_', '-' or '.' that begin with a letter or digit"),
]
Text = Annotated[
    str,
    Field(strict=True, max_length=2000, pattern=_TEXT_PATTERN),
    expecting("at most 2000 characters of text without control characters"),
]
Where = Annotated[
    str,
    Field(strict=True, max_length=4096, pattern=_WHERE_PATTERN),
    AfterValidator(_cpu_list_parses),
    expecting("any, node:N (as in node:0) or cpu:LIST (as in cpu:0-3,8)"),
]
VcpuCount = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_VCPUS),
    expecting(f"a whole number from 1 to {MAX_VCPUS}"),
]
RateHz = Annotated[
    Literal["max"] | Annotated[float, Field(strict=True, ge=0.001, le=1e9, allow_inf_nan=False)],
    expecting('"max" or a number of exits per second from 0.001 to 1e9'),
]
_Zero = Annotated[float, Field(strict=True, ge=0, le=0)]
KickRateHz = Annotated[
    _Zero | Annotated[float, Field(strict=True, ge=0.001, le=1e6, allow_inf_nan=False)],
    expecting("0 (no kicks) or a number of kicks per second from 0.001 to 1e6"),
]
ForeignHz = Annotated[
    _Zero | Annotated[float, Field(strict=True, ge=0.001, le=1e6, allow_inf_nan=False)],
    expecting("0 (none) or a number of signals per second from 0.001 to 1e6"),
]
SiglockThreads = Annotated[
    int,
    Field(strict=True, ge=0, le=MAX_SIGLOCK_THREADS),
    expecting(f"a whole number from 0 to {MAX_SIGLOCK_THREADS}"),
]
SiglockHz = Annotated[
    Annotated[float, Field(strict=True, ge=0.001, le=1e6, allow_inf_nan=False)] | None,
    expecting("a number of times per second from 0.001 to 1e6"),
]
KickerCount = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_KICKERS),
    expecting(f"a whole number from 1 to {MAX_KICKERS}"),
]
WindowNs = Annotated[
    _Zero | Annotated[float, Field(strict=True, ge=1, le=1e9, allow_inf_nan=False)],
    expecting("0 (the natural window) or a number of nanoseconds from 1 to 1e9"),
]
PauseGapUs = Annotated[
    _Zero | Annotated[float, Field(strict=True, ge=1, le=1e6, allow_inf_nan=False)],
    expecting("0 (back to back) or a number of microseconds from 1 to 1e6"),
]
GapUs = Annotated[
    float,
    Field(strict=True, ge=MIN_GAP_US, le=MAX_GAP_US, allow_inf_nan=False),
    expecting(f"a number of microseconds from {MIN_GAP_US} to 1e6"),
]
VcpuRate = Annotated[
    float,
    Field(strict=True, ge=MIN_VCPU_RATE, le=MAX_VCPU_RATE, allow_inf_nan=False),
    expecting(f"a number from {MIN_VCPU_RATE} to {MAX_VCPU_RATE}"),
]
ProgramName = Annotated[str, OneOf(tuple(PROGRAMS))]
KindName = Annotated[str, OneOf(tuple(KINDS))]
StateName = Annotated[str, OneOf(tuple(STATES))]
AfterName = Annotated[str, OneOf(tuple(AFTER))]
OrderName = Annotated[str, OneOf(tuple(ORDERS))]
MomentName = Annotated[str, OneOf(tuple(MOMENTS))]
TransportName = Annotated[str, OneOf(tuple(TRANSPORTS))]


def _method(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """An id of the catalogue, or the path of a C file or a library, made absolute."""
    try:
        method: str = handler(value)
    except ValidationError:
        if isinstance(value, str) and is_protocol_file(value):
            raise expected(
                "the path of a C file whose name is a small letter, then at most 63 small letters, "
                "digits or '_', then .c; or of a library of such a name, then .so"
            ) from None
        raise expected(
            f"one of {', '.join(CATALOGUE)}, or a C file (as in ./my_protocol.c) or a library",
            did_you_mean(value, CATALOGUE),
        ) from None
    return _protocol_file(method, info.context) if is_protocol_file(method) else method


def _protocol_file(value: str, folder: Path | None) -> str:
    """The absolute path of a protocol's file; ``folder`` is the scenario file's.

    Without one (results, perhaps another host's) the file need not be there.
    """
    if folder is None:
        if not value.startswith("/"):
            raise expected("an absolute path, because there is no scenario file to begin at")
        return value
    path = str(folder / value)
    try:
        path.encode()
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its folder's name is not UTF-8"
        raise problem(f"{quoted(value)} cannot be read: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise problem(f"{quoted(value)} is {what}; expected a C file or a library")
    if not re.match(_PROTOCOL_PATTERN, path):
        raise problem(f"{quoted(value)} is in a folder whose name has control characters")
    return path


def _distinct_labels(methods: tuple[str, ...]) -> tuple[str, ...]:
    labels: dict[str, str] = {}
    for method in methods:
        label = method_label(method)
        if is_protocol_file(method) and label in CATALOGUE:
            raise problem(
                f"{PurePath(method).name} would be called {label} in the results, as a protocol of "
                "the catalogue is; rename the file"
            )
        if label.endswith(placebo_name("")):
            raise problem(
                f"names that end in {placebo_name('')} are for placebos; rename "
                f"{PurePath(method).name}"
            )
        if label in labels:
            raise problem(
                f"{labels[label]} and {PurePath(method).name} would both be called {label} in the "
                "results; rename one"
            )
        labels[label] = PurePath(method).name
    return methods


MethodName = Annotated[
    Annotated[str, OneOf(tuple(CATALOGUE))]
    | Annotated[str, Field(strict=True, max_length=4096, pattern=_PROTOCOL_PATTERN)],
    WrapValidator(_method),
]


# --- The tables of a file -------------------------------------------------------------------


class Vm(Table):
    """The virtual machine."""

    vcpus: Axis[VcpuCount] = Field(
        description="Number of vCPUs, 1 to 1024. A list is an axis of the sweep."
    )
    irqchip: Annotated[str, OneOf(("none", "split", "kernel"))] = Field(
        default="kernel",
        description="Where interrupts are emulated: none (no in-kernel controller), split (local "
        "APIC in the kernel) or kernel (all of it in the kernel).",
    )


def _one_of_the_sizes(size: int) -> int:
    if size not in SIZES:
        raise ValueError
    return size


class Mix(Table):
    """One exit of the program mix."""

    exit: Annotated[str, OneOf(tuple(EXITS))] = Field(
        description="What the guest does: port_read, port_write, mmio_read or mmio_write."
    )
    size: Annotated[
        int,
        Field(strict=True, json_schema_extra={"enum": list(SIZES)}),
        AfterValidator(_one_of_the_sizes),
        expecting("1, 2 or 4 (bytes)"),
    ] = Field(description="Bytes that are read or written: 1, 2 or 4.")
    address: Annotated[
        int,
        Field(strict=True, ge=0, le=LAST_ADDRESS),
        expecting(f"a whole number from 0 to {LAST_ADDRESS:#x}"),
    ] = Field(
        description="The port, 0 to 0xffff, or the address, 0x80000000 to 0xffffffff. The guest "
        "has no memory there."
    )
    share: Annotated[
        float,
        Field(strict=True, gt=0, le=MAX_SHARE, allow_inf_nan=False),
        expecting("a number above 0 and at most 1e12"),
    ] = Field(
        description="How many of the exits are this one. The shares of all [[guest.mix]] tables "
        "are scaled to a sum of 1."
    )

    @field_validator("address")
    @classmethod
    def _guest_can_leave_there(cls, address: int, info: ValidationInfo) -> int:
        if not {"exit", "size"} <= info.data.keys():  # wrong themselves
            return address
        if words := why_not_an_exit(info.data["exit"], address, info.data["size"]):
            raise expected(words)
        return address


def _mix_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_EXITS:
        raise expected(f"at most {MAX_EXITS} [[guest.mix]] tables (two brackets on each side)")
    return tuple(value)


def _gap_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not MIN_GAPS <= len(value) <= MAX_GAPS:
        raise expected(f"a list of {MIN_GAPS} to {MAX_GAPS} numbers")
    return tuple(value)


def _ascending(gaps: tuple[float, ...]) -> tuple[float, ...]:
    for index, (one, two) in enumerate(pairwise(gaps)):
        if one > two:
            raise problem(f"gaps ascend, and number {index + 2} is less than the one before it")
    return gaps


def _rate_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_VCPUS:
        raise expected("a list with a number for each vCPU")
    return tuple(value)


def _default_rate(guest: Mapping[str, Any]) -> tuple[Literal["max"] | float, ...]:
    gaps = guest["gaps_us"]
    return ("max",) if gaps is None else (float(f"{1e6 * len(gaps) / sum(gaps):.5g}"),)


def _default_arrival(guest: Mapping[str, Any]) -> str:
    return "periodic" if guest["gaps_us"] is None else "recorded"


class Guest(Table):
    """What the vCPUs run."""

    program: Axis[ProgramName] = Field(
        description="The guest program that every vCPU runs. A list is an axis of the sweep."
    )
    mix: Annotated[tuple[Mix, ...], BeforeValidator(_mix_list)] = Field(
        default=(),
        validate_default=True,
        description="The exits of the program mix, in one table each. Only with that program.",
    )
    gaps_us: (
        Annotated[tuple[GapUs, ...], BeforeValidator(_gap_list), AfterValidator(_ascending)] | None
    ) = Field(
        default=None,
        description=f"Recorded gaps between exits in microseconds, {MIN_GAPS} to {MAX_GAPS} of "
        "them, ascending. Each stands for an equal part of all gaps.",
    )
    exit_rate_hz: Axis[RateHz] = Field(
        default_factory=_default_rate,
        validate_default=True,
        description='Exits per second and vCPU: "max" (full speed) or a rate that the guest '
        "paces itself to. A list is an axis of the sweep. Default: the rate of gaps_us if they are "
        'set, else "max".',
    )
    arrival: Annotated[str, OneOf(tuple(ARRIVALS))] = Field(
        default_factory=_default_arrival,
        description="Gaps between paced exits: periodic (all equal), poisson (exponential) or "
        'recorded (distributed as gaps_us). Without effect at "max". Default: recorded if gaps_us '
        "are set, else periodic.",
    )
    vcpu_rates: Annotated[tuple[VcpuRate, ...], BeforeValidator(_rate_list)] | None = Field(
        default=None,
        description="Exit rates of the vCPUs against each other, one for each. exit_rate_hz is "
        "the mean of all. Default: all are equal.",
    )
    kick_rate_hz: Axis[KickRateHz] = Field(
        default=(0.0,),
        description="Kicks per second and vCPU while exits are measured, 0 for none. A list is an "
        "axis of the sweep, of kind exits only.",
    )
    kicked_vcpus: Axis[VcpuCount] | None = Field(
        default=None,
        description="Number of vCPUs in the cases with kicks of kick_rate_hz, an axis of the "
        "sweep. Default: vm.vcpus.",
    )

    @field_validator("mix")
    @classmethod
    def _mix_is_the_programs(cls, mix: tuple[Mix, ...], info: ValidationInfo) -> tuple[Mix, ...]:
        programs = info.data.get("program")
        if programs is None:  # wrong itself
            return mix
        if "mix" in programs and not mix:
            raise problem(
                'the program "mix" takes its exits from [[guest.mix]] tables; add at least one'
            )
        if mix and "mix" not in programs:
            raise problem(
                'these tables are for the program "mix"; add it to guest.program, or leave the '
                "tables out"
            )
        return mix

    @field_validator("exit_rate_hz")
    @classmethod
    def _recording_is_played(
        cls, rates: tuple[Literal["max"] | float, ...], info: ValidationInfo
    ) -> tuple[Literal["max"] | float, ...]:
        if info.data.get("gaps_us") is not None and set(rates) == {"max"}:
            raise problem(
                'a guest at "max" has no gaps, and guest.gaps_us is set; add a rate, or leave one '
                "of the two keys out"
            )
        return rates

    @field_validator("arrival")
    @classmethod
    def _recording_is_there(cls, arrival: str, info: ValidationInfo) -> str:
        if "gaps_us" not in info.data:  # wrong itself
            return arrival
        if arrival == "recorded" and info.data["gaps_us"] is None:
            raise problem('"recorded" needs guest.gaps_us; add the gaps that were recorded')
        if arrival != "recorded" and info.data["gaps_us"] is not None:
            raise expected('"recorded", because guest.gaps_us is set')
        return arrival

    @field_validator("vcpu_rates")
    @classmethod
    def _rates_are_of_a_paced_guest(
        cls, rates: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if rates is not None and set(info.data.get("exit_rate_hz", ())) == {"max"}:
            raise problem(
                'the rates are of a paced guest, and guest.exit_rate_hz is "max"; set a rate, or '
                "leave vcpu_rates out"
            )
        return rates

    @field_validator("exit_rate_hz")
    @classmethod
    def _program_can_be_paced(
        cls, rates: tuple[Literal["max"] | float, ...], info: ValidationInfo
    ) -> tuple[Literal["max"] | float, ...]:
        for program in info.data.get("program", ()):
            if not PROGRAMS[program].paced and any(rate != "max" for rate in rates):
                raise expected(f'"max", because the program {program} cannot be paced')
        return rates


class Placement(Table):
    """Where the threads of one variant run: "any", "node:N" or "cpu:LIST"."""

    name: Name = Field(
        description="Name of the placement, unique in the file, part of the case's id."
    )
    creator: Where = Field(
        default="any",
        description="Where the thread that creates the worker process runs. The process's siglock "
        "is allocated on that NUMA node.",
    )
    vcpus: Where = Field(default="any", description="Where the vCPU threads run.")
    kicker: Where = Field(default="any", description="Where the threads that kick vCPUs run.")


def _default_baseline(measure: Mapping[str, Any]) -> str:
    methods: tuple[str, ...] = measure["methods"]
    return "immediate_exit" if "immediate_exit" in methods else methods[0]


class Measure(Table):
    """What is measured, against what, and for how long."""

    kinds: Axis[KindName] = Field(
        default=("exits",), description="Kinds of measurement. Each kind has cases of its own."
    )
    methods: Annotated[Axis[MethodName], AfterValidator(_distinct_labels)] = Field(
        default=("sigmask", "immediate_exit"),
        description="Kick protocols: names of the catalogue, or paths of C files relative to the "
        "scenario file. They are measured side by side in interleaved rounds.",
    )
    transports: Axis[TransportName] = Field(
        default=(DEFAULT_TRANSPORT,),
        description="How the signal of a kick is sent. A list is an axis of the sweep.",
    )
    baseline: MethodName = Field(
        default_factory=_default_baseline,
        description="The method that the others are compared with and that the A/A control runs "
        "twice. Default: immediate_exit when it is measured, else the first method.",
    )
    processes: Annotated[
        int, Field(strict=True, ge=1, le=100), expecting("a whole number from 1 to 100")
    ] = Field(
        default=10,
        description="Worker processes per case, 1 to 100. Each has a memory layout of its own.",
    )
    precision: Annotated[
        float,
        Field(strict=True, gt=0, le=1, allow_inf_nan=False),
        expecting("a number above 0 and at most 1 (0.001 is 0.1 %)"),
    ] = Field(
        default=0.001,
        description="Stop when the 95 % interval's half-width is below this fraction of the "
        "baseline's value; 0.001 is 0.1 %.",
    )
    precision_of: Annotated[str, OneOf(tuple(PRECISION_OF))] = Field(
        default="both",
        description="The figures of an exit that must be so precise: quiet, mean or both. With "
        "both, a case with more vCPUs than CPUs needs it of the quiet exit alone.",
    )
    max_seconds: Annotated[
        float,
        Field(strict=True, gt=0, le=86_400, allow_inf_nan=False),
        expecting("a number of seconds above 0 and at most 86400"),
    ] = Field(default=60.0, description="Stop a case after this many seconds of measuring.")
    seed: Annotated[
        int,
        Field(strict=True, ge=0, le=2**63 - 1),
        expecting("a whole number from 0 to 2^63 - 1"),
    ] = Field(default=1, description="Seed of the random order of blocks and of the arrivals.")
    block_ms: Annotated[
        Annotated[float, Field(strict=True, ge=0.1, le=10_000, allow_inf_nan=False)] | None,
        expecting("a number of milliseconds from 0.1 to 10000"),
    ] = Field(
        default=None,
        description="Length of a block in milliseconds. Default: chosen by the runner.",
    )
    sample_budget: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000_000),
        expecting("a whole number from 0 to 1000000000"),
    ] = Field(
        default=2_000_000,
        description="Raw samples kept per case. The histograms cover all exits in any case.",
    )

    @field_validator("baseline")
    @classmethod
    def _baseline_is_measured(cls, baseline: str, info: ValidationInfo) -> str:
        methods = info.data.get("methods", (baseline,))
        if baseline not in methods:
            names = ", ".join(Path(method).name for method in methods)
            raise expected(f"one of measure.methods ({names})")
        return baseline


OwnVcpus = Annotated[
    Axis[VcpuCount] | None,
    Field(
        description="Number of vCPUs in this kind's cases, an axis of the sweep. Default: vm.vcpus."
    ),
]


class Kick(Table):
    """The axes of the kind kick."""

    states: Axis[StateName] = Field(
        default=USUAL_STATES,
        description="What the vCPU is doing when it is kicked. A list is an axis of the sweep.",
    )
    kickers: Axis[KickerCount] = Field(
        default=(1,),
        description=f"Number of kicking threads, 1 to {MAX_KICKERS}. A list is an axis of the "
        "sweep.",
    )
    vcpus: OwnVcpus = None


class Race(Table):
    """The axes of the kind race, and the number of its kicks."""

    window_ns: Axis[WindowNs] = Field(
        default=(0.0, 50_000.0),
        description="Nanoseconds that the vCPU thread spins between the check of the flag and "
        "KVM_RUN. 0 leaves the window as it is. A list is an axis of the sweep.",
    )
    kicks: Annotated[
        int,
        Field(strict=True, ge=1, le=10**12),
        expecting("a whole number from 1 to 10^12"),
    ] = Field(
        default=1_000_000,
        description="How many aimed kicks each method should get in a case. measure.max_seconds "
        "ends the case in any event.",
    )
    vcpus: OwnVcpus = None


def _step_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(set(map(str, value))) < len(value):
        raise expected(f"a list of some of {', '.join(AFTER)}, each once")
    return tuple(value)


class PauseAll(Table):
    """The axes of the kind pause_all."""

    gap_us: Axis[PauseGapUs] = Field(
        default=(DEFAULT_PAUSE_GAP_US,),
        description="Mean time from the end of a pause to the next, in microseconds. 0: the next "
        "one begins when the vCPUs are told to go on. A list is an axis of the sweep.",
    )
    order: Axis[OrderName] = Field(
        default=(DEFAULT_ORDER,),
        description="parallel: all vCPUs are kicked, then each is waited for. serial: each is "
        "waited for before the next is kicked. A list is an axis of the sweep.",
    )
    after: Annotated[tuple[AfterName, ...], BeforeValidator(_step_list)] = Field(
        default=(),
        description="What each vCPU's thread does once it is paused, timed beside the pause: "
        "kvmclock_ctrl and read_state.",
    )


class Nested(Table):
    """What the kind nested does in a block."""

    iterations: Annotated[
        int,
        Field(strict=True, ge=1, le=100_000),
        expecting("a whole number from 1 to 100000"),
    ] = Field(
        default=DEFAULT_ITERATIONS,
        description="How often L1 enters L2 in a block. A block of this kind has no length in "
        "time.",
    )
    kick_rate_hz: Axis[KickRateHz] = Field(
        default=(0.0,),
        description="Kicks per second of L1's vCPU meanwhile, at random moments, 0 for none. A "
        "list is an axis of the sweep.",
    )


class Noise(Table):
    """What other threads of the process do while the methods are measured."""

    foreign_signals_hz: Axis[ForeignHz] = Field(
        default=(0.0,),
        description="Signals per second to each vCPU's thread that are no kicks (SIGURG, with a "
        "handler that does nothing), 0 for none. A list is an axis of the sweep.",
    )
    siglock_threads: Axis[SiglockThreads] = Field(
        default=(0,),
        description="Number of further threads that take the siglock of the process, 0 to "
        f"{MAX_SIGLOCK_THREADS}. A list is an axis of the sweep.",
    )
    siglock_hz: SiglockHz = Field(
        default_factory=lambda noise: DEFAULT_SIGLOCK_HZ if any(noise["siglock_threads"]) else None,
        description="How often each of these threads takes siglock, per second. Default: "
        f"{DEFAULT_SIGLOCK_HZ:,.0f} if there are such threads.",
    )

    @field_validator("siglock_hz")
    @classmethod
    def _threads_are_there(cls, rate: float | None, info: ValidationInfo) -> float | None:
        if rate is not None and set(info.data.get("siglock_threads", ())) == {0}:
            raise problem(
                "the rate is of the threads that take siglock, and noise.siglock_threads is 0; "
                "set it, or leave the rate out"
            )
        return rate

    @model_validator(mode="after")
    def _something_is_noisy(self) -> Self:
        if set(self.foreign_signals_hz) == {0} and set(self.siglock_threads) == {0}:
            raise problem(
                "nothing makes noise: set foreign_signals_hz or siglock_threads, or leave the "
                "table out"
            )
        return self


class Lifecycle(Table):
    """The axes of the kind lifecycle, and the number of its VMs."""

    moments: Axis[MomentName] = Field(
        default=tuple(MOMENTS),
        description="When each fresh vCPU is kicked, in the life of its thread. A list is an axis "
        "of the sweep.",
    )
    vms: Annotated[
        int,
        Field(strict=True, ge=1, le=10**9),
        expecting("a whole number from 1 to 10^9"),
    ] = Field(
        default=DEFAULT_VMS,
        description="How many fresh VMs each method should get in a case. measure.max_seconds ends "
        "the case in any event.",
    )


_TABLE_OF_KIND: dict[
    str, type[Kick] | type[PauseAll] | type[Race] | type[Nested] | type[Lifecycle]
] = {
    "kick": Kick,
    "pause_all": PauseAll,
    "race": Race,
    "nested": Nested,
    "lifecycle": Lifecycle,
}


def _placement_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise expected("one or more [[placement]] tables (two brackets on each side)")
    return tuple(value)


def _distinct_names(placements: tuple[Placement, ...]) -> tuple[Placement, ...]:
    first: dict[str, int] = {}
    for index, placement in enumerate(placements):
        if placement.name in first:
            raise problem(
                f"the name {quoted(placement.name)} is used twice, by placement"
                f"[{first[placement.name]}] and placement[{index}]; names must differ"
            )
        first[placement.name] = index
    return placements


class Scenario(Table):
    """A scenario: one guest and its measurements, swept over vCPUs, exit rates and placements."""

    name: Name = Field(description="Name of the scenario and of its folder of results.")
    description: Text = Field(default="", description="What the scenario stands for, for people.")
    vm: Vm = Field(description="The virtual machine: table [vm] with its key vcpus.")
    guest: Guest = Field(description="What the vCPUs run: table [guest] with its key program.")
    placement: Annotated[
        tuple[Placement, ...],
        BeforeValidator(_placement_list),
        AfterValidator(_distinct_names),
    ] = Field(
        default=(Placement(name="any"),),
        json_schema_extra={"minItems": 1},
        description='Where threads run, an axis of the sweep. Default: one, "any", unpinned.',
    )
    measure: Measure = Field(
        default_factory=lambda: Measure.model_validate({}),
        description="What is measured and for how long.",
    )
    kick: Kick | None = Field(
        default_factory=lambda data: Kick() if "kick" in data["measure"].kinds else None,
        description="The axes of the kind kick. Only with that kind in measure.kinds.",
    )
    pause_all: PauseAll | None = Field(
        default_factory=lambda data: PauseAll() if "pause_all" in data["measure"].kinds else None,
        description="The axes of the kind pause_all. Only with that kind in measure.kinds.",
    )
    race: Race | None = Field(
        default_factory=lambda data: Race() if "race" in data["measure"].kinds else None,
        description="The axes of the kind race. Only with that kind in measure.kinds.",
    )

    nested: Nested | None = Field(
        default_factory=lambda data: Nested() if "nested" in data["measure"].kinds else None,
        description="The blocks of the kind nested. Only with that kind in measure.kinds.",
    )
    noise: Noise | None = Field(
        default=None,
        description="What other threads do meanwhile, an axis of the kinds exits, kick, pause_all "
        "and race. Default: nothing.",
    )

    lifecycle: Lifecycle | None = Field(
        default_factory=lambda data: Lifecycle() if "lifecycle" in data["measure"].kinds else None,
        description="The axes of the kind lifecycle. Only with that kind in measure.kinds.",
    )

    @property
    def kicked_vcpus(self) -> tuple[int, ...]:
        """Number of vCPUs in the cases with kicks of ``guest.kick_rate_hz``."""
        return self.guest.kicked_vcpus or self.vm.vcpus

    @property
    def most_vcpus(self) -> int:
        """The most vCPUs of a case."""
        own = (self.guest.kicked_vcpus, *(table.vcpus for table in (self.kick, self.race) if table))
        return max(max(some) for some in (self.vm.vcpus, *own) if some)

    @field_validator(*_TABLE_OF_KIND)
    @classmethod
    def _table_of_a_kind_that_is_measured(
        cls, table: Kick | PauseAll | Race | Nested | Lifecycle | None, info: ValidationInfo
    ) -> Kick | PauseAll | Race | Nested | Lifecycle | None:
        kind = str(info.field_name)
        measure = info.data.get("measure")
        if measure is None:  # wrong itself
            return table
        if kind not in measure.kinds:
            if table is not None:
                raise problem(
                    f'this table is for the kind "{kind}"; add it to measure.kinds, or leave the '
                    "table out"
                )
            return None
        return _TABLE_OF_KIND[kind]() if table is None else table

    @model_validator(mode="after")
    def _nothing_is_asked_for_in_vain(self) -> Self:
        kicked = any(rate != 0 for rate in self.guest.kick_rate_hz)
        if kicked and "exits" not in self.measure.kinds:
            raise problem(
                'guest.kick_rate_hz is for the kind "exits"; add it to measure.kinds, or leave '
                "the key out"
            )
        if self.guest.kicked_vcpus is not None and not kicked:
            raise problem(
                "guest.kicked_vcpus is set, but guest.kick_rate_hz is 0; leave the key out"
            )
        kinds = self.measure.kinds
        kicks = kicked or not set(kinds) <= {"exits", "nested", "handover"}
        if not kicks and self.measure.transports != (DEFAULT_TRANSPORT,):
            rate = ", and guest.kick_rate_hz is 0" if "exits" in kinds else ""
            raise problem(
                f"measure.transports is set, but nothing kicks: measure.kinds is "
                f"{' and '.join(kinds)}{rate}; leave the key out"
            )
        return self

    @model_validator(mode="after")
    def _noise_disturbs_something(self) -> Self:
        if self.noise is None:
            return self
        if not set(self.measure.kinds) & set(NOISY_KINDS):
            raise problem(
                f"noise: this table is for the kinds {', '.join(NOISY_KINDS)}; add one to "
                "measure.kinds, or leave the table out"
            )
        rate, vcpus = max(self.noise.foreign_signals_hz), self.most_vcpus
        if rate * vcpus > MAX_KICKS_HZ:
            raise problem(
                f"noise.foreign_signals_hz: {rate:,.0f} signals/s to each of {vcpus:,} vCPUs are "
                f"{rate * vcpus:,.0f} signals/s, and the one thread that sends them can send at "
                f"most {MAX_KICKS_HZ:,}; lower the rate"
            )
        return self

    @model_validator(mode="after")
    def _recording_is_of_exits(self) -> Self:
        for key in ("gaps_us", "vcpu_rates"):
            if getattr(self.guest, key) is not None and "exits" not in self.measure.kinds:
                raise problem(
                    f'guest.{key} is for the kind "exits"; add it to measure.kinds, or leave the '
                    "key out"
                )
        return self

    @model_validator(mode="after")
    def _every_vcpu_has_its_rate(self) -> Self:
        rates = self.guest.vcpu_rates
        for count in (*self.vm.vcpus, *(self.guest.kicked_vcpus or ())):
            if rates is not None and len(rates) != count:
                raise problem(
                    f"guest.vcpu_rates: expected a rate for each vCPU, found {len(rates)} rates "
                    f"and a case with {count} vCPUs"
                )
        return self

    @model_validator(mode="after")
    def _exits_leave_to_user_space(self) -> Self:
        for index, one in enumerate(self.guest.mix):
            words = why_kept(one.exit, one.address, one.size, self.vm.irqchip)
            if words is not None:
                raise problem(
                    f"guest.mix[{index}].address: expected {words} with vm.irqchip = "
                    f"{quoted(self.vm.irqchip)}, found {one.address:#x}"
                )
        return self

    @model_validator(mode="after")
    def _one_thread_can_send_the_kicks(self) -> Self:
        rate, vcpus = max(self.guest.kick_rate_hz), max(self.kicked_vcpus)
        if rate * vcpus > MAX_KICKS_HZ:
            raise problem(
                f"guest.kick_rate_hz: {rate:,.0f} kicks/s for each of {vcpus:,} vCPUs are "
                f"{rate * vcpus:,.0f} kicks/s, and the one thread that sends them can send at most "
                f"{MAX_KICKS_HZ:,}; lower the rate"
            )
        return self

    @model_validator(mode="after")
    def _states_have_their_irqchip(self) -> Self:
        if self.vm.irqchip != "none" or self.kick is None:
            return self
        if needing := [state for state in self.kick.states if STATES[state].irqchip]:
            raise problem(
                f"kick.states: {quoted(needing[0])} needs the local APIC in the kernel: expected "
                'vm.irqchip = "kernel" or "split", found "none"'
            )
        return self

    @model_validator(mode="after")
    def _hypervisor_has_its_irqchip(self) -> Self:
        if self.vm.irqchip != "kernel" and self.nested is not None:
            raise problem(
                'measure.kinds: "nested" needs the interrupt chip in the kernel: expected '
                f'vm.irqchip = "kernel", found {quoted(self.vm.irqchip)}'
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The resolved scenario as JSON-able data, every default filled in."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: object, source: str = "scenario", folder: Path | None = None) -> Self:
        """The inverse of :meth:`to_dict`; also takes what a TOML file parses to.

        ``source`` is the file that an error names. Paths of protocol files are relative to
        ``folder`` (absolute), and the files must exist. Without ``folder`` the paths must be
        absolute, and the files are not looked at. Raises ScenarioError.
        """
        try:
            return cls.model_validate(data, context=folder)
        except ValidationError as error:
            raise ScenarioError(explain(error, data, source, Scenario, _TABLES)) from None


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a scenario file, for editors."""
    schema = Scenario.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "kickbench scenario",
    }


_TABLES: dict[str, type[BaseModel]] = {
    "vm": Vm,
    "guest": Guest,
    "guest.mix": Mix,
    "placement": Placement,
    "measure": Measure,
    **_TABLE_OF_KIND,
    "noise": Noise,
}
