# SPDX-License-Identifier: Apache-2.0
"""Checks a ``summary.json`` that kickbench reads.

It is read only for cases whose tables are missing, because nothing else is left of them. Everything
on which words, tables and figures rely is checked here. What is not listed here is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from kickbench.methods import control_pairs
from kickbench.results.reader import SUMMARY, RunReader, load_json
from kickbench.results.schema import (
    Clock,
    Count,
    Entries,
    Line,
    ObservedProtocol,
    Sender,
    Siglock,
    check_methods,
    check_model,
    check_version,
    fail,
)
from kickbench.scenario.kinds import INJECTION, MAX_GAPS
from kickbench.summary.lifecycle import FAULTS, at_risk
from kickbench.summary.observed import MOST_WAYS

Signed = Annotated[float, Field(ge=-1e18, le=1e18)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
Share = Annotated[float, Field(ge=0, le=1)]


def _rising(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError("the lower end is above the upper one")
    return values


Interval = Annotated[list[Signed], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Shares = Annotated[list[Share], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Times = Annotated[list[Amount], Field(min_length=2, max_length=2), AfterValidator(_rising)]


def _at_most(low: float, high: float) -> bool:
    """low <= high, with room for rounding: both come from sums and differences."""
    return low <= high or math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12)


def _check_within(value: float | None, ends: list[float] | None, name: str) -> None:
    if ends is None:
        return
    if value is None or not (_at_most(ends[0], value) and _at_most(value, ends[1])):
        raise ValueError(f"the value is not within {name}")


class _Found(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _Quantiles(_Found):
    """Figures by name that rise in the order of the fields. Without data all of them are null."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        values = [getattr(self, name) for name in type(self).model_fields]
        known = [value for value in values if value is not None]
        if known and len(known) < len(values):
            raise ValueError("some of the quantiles are null")
        _rising(known)
        return self


class _PauseTimes(_Quantiles):
    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    max: Amount | None


class _Latencies(_Quantiles):
    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    p999: Amount | None
    max: Amount | None


class _Phase(_Quantiles):
    p50: Amount | None
    p99: Amount | None


class _SendTimes(_Quantiles):
    p50: Amount | None
    p99: Amount | None
    max: Amount | None


class _HandlerPhase(_Quantiles):
    p50: Amount
    p99: Amount


class _Phases(_Found):
    send: _Phase
    delivery: _HandlerPhase | None
    return_: Annotated[_HandlerPhase | None, Field(alias="return")]
    # Runs of earlier versions lack these.
    returned: _HandlerPhase | None = None
    know: _HandlerPhase | None = None
    resumed: _HandlerPhase | None = None


class _SendIntervals(_Found):
    p50: Times | None
    p99: Times | None

    def check(self, values: _Quantiles, name: str) -> None:
        """Raises ValueError if an interval does not contain its quantile."""
        for key in type(self).model_fields:
            _check_within(getattr(values, key), getattr(self, key), f"{name}.{key}")


class _PauseIntervals(_SendIntervals):
    p90: Times | None


class _LatencyIntervals(_PauseIntervals):
    p999: Times | None


class _ExitTimes(_Found):
    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    max: Amount | None
    mean: Amount | None
    # Runs of earlier versions lack them.
    quiet: Amount | None = None
    floor: Amount | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        # The mean can be above the maximum, because it contains the time after the last exit.
        _rising([v for v in (self.p50, self.p90, self.p99, self.max) if v is not None])
        return self


class _Disturbances(_Found):
    involuntary_switches: Count | None
    migrations: Count | None
    steal_ns: Count | None
    run_delay_ns: Count | None
    rescues: Count | None


class _Estimate(_Found):
    value: Amount | None
    ci95: Interval | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_within(self.value, self.ci95, "ci95")
        return self


class _Count(_Found):
    instructions: Count
    share: Annotated[float, Field(gt=0, le=1)]
    least: Count
    mean: Amount
    samples: Annotated[Count, Field(ge=1)]


class _Sends(_Found):
    n: Count
    overlapping: Share | None


class _Faults(NamedTuple):
    """The faults of a method by its own figures: how often each, of how many, and its claim."""

    counts: dict[str, int]
    of: int
    claim: bool | None


class _Noise(_Found):
    foreign_sent: Count
    foreign_taken: Count
    siglock_taken: Count
    spurious: Count
    seconds: Amount

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.foreign_taken > self.foreign_sent:
            raise ValueError("more foreign signals were taken than sent")
        return self


class _Accesses(_Found):
    accesses: Count
    twice: Count
    never: Count


class _Method(_Found):
    # It may be missing, but must not be null.
    noise: Annotated[_Noise, Field(default_factory=_Noise.model_construct)]
    estimates: Annotated[dict[Line, _Estimate], Field(max_length=100)] = {}
    counts: Annotated[dict[Line, _Count], Field(max_length=100)] = {}
    # A guest that does not count its accesses has none.
    accesses: Annotated[_Accesses, Field(default_factory=_Accesses.model_construct)]

    def faults(self) -> _Faults:
        """The faults with which the findings of the case must agree."""
        raise NotImplementedError


class _KickCounts(_Found):
    sent: Count
    lost: Count | None
    spurious: Count
    race_free_claim: bool | None

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        for name in ("lost", "landed", "met", "unmet", "resent", "n"):
            if (getattr(self, name, None) or 0) > self.sent:
                raise ValueError(f"{name} is more than were sent")
        return self

    def faults(self) -> _Faults:
        """A guest that exits checks the flag again, so nothing is counted as lost there."""
        counts = {"lost": self.lost, "spurious": self.spurious}
        known = {name: count for name, count in counts.items() if count is not None}
        return _Faults(known, self.sent, self.race_free_claim)


class _KicksBeside(_KickCounts):
    met: Count
    per_second: Amount | None


class _ExitsMethod(_Method):
    exits_per_second: Amount | None
    ns_per_exit: _ExitTimes
    cpu_ns_per_exit: Amount | None
    n: Count
    stalled: Share | None = None
    disturbances: _Disturbances
    # It may be missing, but must not be null.
    kicks: Annotated[_KicksBeside, Field(default_factory=_KicksBeside.model_construct)]

    def faults(self) -> _Faults:
        return self.kicks.faults() if "kicks" in self.model_fields_set else _Faults({}, 0, None)


class _SlowTimes(_Quantiles):
    p10: Amount | None
    p50: Amount | None
    p90: Amount | None


class _Slow(_Found):
    n: Count
    ns: _SlowTimes
    own: bool


class _KickMethod(_KickCounts, _Method):
    lost: Count
    latency_ns: _Latencies
    latency_ci95: _LatencyIntervals
    phases_ns: _Phases
    n: Count
    unmet: Count
    # Runs of earlier versions lack these.
    resent: Count = 0
    send_ns: _SendTimes = _SendTimes(p50=None, p99=None, max=None)
    send_ci95: _SendIntervals = _SendIntervals(p50=None, p99=None)
    sends: _Sends = _Sends(n=0, overlapping=None)
    slow: _Slow = _Slow(n=0, ns=_SlowTimes(p10=None, p50=None, p90=None), own=False)

    @model_validator(mode="after")
    def _check_intervals(self) -> Self:
        self.latency_ci95.check(self.latency_ns, "latency_ci95")
        self.send_ci95.check(self.send_ns, "send_ci95")
        if self.sends.n > self.sent:
            raise ValueError("sends.n is more than were sent")
        return self


class _NotRun(_Found):
    pauses: Count
    vcpus: Count

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vcpus < self.pauses:
            raise ValueError("not_run: fewer vCPUs than pauses")
        return self


class _After(_Found):
    # They may be missing, but must not be null.
    clock: Annotated[_PauseTimes, Field(default_factory=_PauseTimes.model_construct)]
    state: Annotated[_PauseTimes, Field(default_factory=_PauseTimes.model_construct)]
    pause_share: Annotated[Share, Field(default=0.0)]


class _PauseMethod(_Method):
    first_ns: _PauseTimes
    median_ns: _PauseTimes
    last_ns: _PauseTimes
    send_ns: _PauseTimes
    last_ci95: _PauseIntervals
    timeout_ns: Amount | None = None
    not_run: _NotRun | None = None
    after_ns: Annotated[_After, Field(default_factory=_After.model_construct)]
    n: Count
    rescued: Count
    rescues: Count
    race_free_claim: bool | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        times = (self.first_ns, self.median_ns, self.last_ns, self.send_ns)
        if len({time.p50 is None for time in times}) > 1:
            raise ValueError("some of the times are null")
        if self.timeout_ns is not None and not _at_most(self.timeout_ns, self.last_ns.max or 0.0):
            raise ValueError("timeout_ns must not be above the longest pause")
        self.last_ci95.check(self.last_ns, "last_ci95")
        if self.not_run is not None and self.not_run.pauses > self.n + self.rescued:
            raise ValueError("not_run has more pauses than there were")
        return self

    def faults(self) -> _Faults:
        return _Faults({"rescued": self.rescued}, self.n + self.rescued, self.race_free_claim)


class _RaceTimes(_Quantiles):
    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    p999: Amount | None


class _RaceMethod(_KickCounts, _Method):
    lost: Count
    landed: Count | None
    resent: Count = 0
    rescues: Count
    lost_ci95: Shares | None
    lost_upper95: Share | None
    spurious_ci95: Shares | None
    latency_max_ns: Amount | None
    # Older runs lack both.
    latency_ns: Annotated[_RaceTimes, Field(default_factory=_RaceTimes.model_construct)]
    resent_ns: Annotated[_RaceTimes, Field(default_factory=_RaceTimes.model_construct)]

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        share = self.lost / max(self.landed, self.lost) if self.landed else None
        upper = self.lost_upper95
        if (share is None) is not (self.lost_ci95 is None):
            raise ValueError("lost_ci95 must be there if kicks landed, and only then")
        if (share is None) is not (upper is None) or not _at_most(share or 0.0, upper or 0.0):
            raise ValueError(
                "lost_upper95 must be there if kicks landed, and be above the share lost"
            )
        _check_within(share, self.lost_ci95, "lost_ci95")
        known = self.sent and self.spurious <= self.sent
        _check_within(
            self.spurious / self.sent if known else None, self.spurious_ci95, "spurious_ci95"
        )
        return self


class _FaultBounds(_Found):
    late: Share | None
    lost: Share | None
    refused: Share | None
    poisoned: Share | None
    killed: Share | None


class _FaultIntervals(_Found):
    late: Shares | None
    lost: Shares | None
    refused: Shares | None
    poisoned: Shares | None
    killed: Shares | None


class _LifeMethod(_Method):
    sent: Count
    met: Count
    answered: Count
    late: Count
    lost: Count
    refused: Count
    poisoned: Count
    killed: Count
    upper95: _FaultBounds
    ci95: _FaultIntervals
    poisoned_by: Line | None
    latency_ns: _PauseTimes
    race_free_claim: bool | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        counts = self._counts()
        if self.answered + sum(counts.values()) != self.sent or self.met > self.sent:
            raise ValueError("the fates of the kicks are not as many as were sent")
        for name, count in counts.items():
            of = at_risk(count, self.met, self.sent)
            share, upper = count / of if of else None, getattr(self.upper95, name)
            interval = getattr(self.ci95, name)
            if (share is None) is not (upper is None) or not _at_most(share or 0.0, upper or 0.0):
                raise ValueError(f"upper95.{name} must be there, and be above the share")
            if (share is None) is not (interval is None):
                raise ValueError(f"ci95.{name} must be there if kicks came in time, and only then")
            _check_within(share, interval, f"ci95.{name}")
        if bool(self.poisoned) is (self.poisoned_by is None):
            raise ValueError("poisoned_by must be there if a VM was poisoned, and only then")
        return self

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in FAULTS}

    def faults(self) -> _Faults:
        return _Faults(self._counts(), self.sent, self.race_free_claim)


class _Spread(_Found):
    """Quantiles and a mean, which is not above the maximum. Without data all of them are null."""

    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    max: Amount | None
    mean: Amount | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = [v for v in (self.p50, self.p90, self.p99, self.max) if v is not None]
        if len(known) not in (0, 4) or (self.mean is None) is bool(known):
            raise ValueError("some of the figures are null")
        _rising(known)
        if self.mean is not None and not _at_most(self.mean, known[-1]):
            raise ValueError("the mean is above the maximum")
        return self


class _NestedMethod(_Method):
    round_trip_ns: _Spread
    work: _Spread
    latency_ns: _PauseTimes
    latency_ci95: _PauseIntervals
    n: Count
    unexpected: Annotated[dict[Line, Count], Field(max_length=1000)]
    injected: Count
    lost: Count
    doubled: Count
    judged: Count
    late: Count | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.latency_ci95.check(self.latency_ns, "latency_ci95")
        if (self.n > 0) is (self.round_trip_ns.p50 is None):
            raise ValueError("round_trip_ns must be there if there are iterations, and only then")
        if (self.n > 0) is (self.work.p50 is None):
            raise ValueError("work must be there if there are iterations, and only then")
        if max(self.injected, self.doubled, self.judged) > self.n or self.lost > self.injected:
            raise ValueError("injected, lost, doubled or judged is more than there were")
        if (self.late or 0) > self.judged or (self.late is None and self.judged):
            raise ValueError("late must be at most judged, and null only if nothing was judged")
        return self

    def faults(self) -> _Faults:
        counts = {"lost": self.lost, "doubled": self.doubled, "late": self.late}
        known = {name: count for name, count in counts.items() if count is not None}
        return _Faults(known, self.n, None)


class _Difference(_Found):
    diff: Signed | None
    ci95: Interval | None
    rounds: Count
    rounds_without_exits: Count = 0
    rounds_left_out: Count = 0
    chunks: Count = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ci95 and (self.diff is None or not self.ci95[0] <= self.diff <= self.ci95[1]):
            raise ValueError("the difference is not within its interval")
        return self


class _Contrast(_Difference):
    method: Line
    baseline: Line
    metric: Line


class _Judged(_Difference):
    metric: Line | None
    ci_family: Interval | None
    ok: bool | None

    @model_validator(mode="after")
    def _check_ok(self) -> Self:
        ends = self.ci_family
        # ok is None beside an interval that is too wide to tell.
        if self.ok is not None and (ends is None or self.ok is not (ends[0] <= 0 <= ends[1])):
            raise ValueError("ok is not what its interval says")
        if ends is not None and None in (self.metric, self.diff, self.ci95):
            raise ValueError("it is judged, but has no difference")
        return self


class _Control(_Judged):
    # It may be missing, but must not be null: only exits are judged in two figures.
    mean: Annotated[_Judged, Field(default_factory=_Judged.model_construct)]


class _ShiftPoint(_Found):
    level: Share
    diff: Signed
    ci95: Interval

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_within(self.diff, self.ci95, "ci95")
        return self


class _Shift(_Found):
    method: Line
    baseline: Line
    points: Annotated[list[_ShiftPoint], Field(min_length=1, max_length=100)]


class _Finding(_Found):
    method: Line
    what: Literal[
        "lost",
        "spurious",
        "rescued",
        "doubled",
        "late",
        "stood_still",
        "refused",
        "poisoned",
        "killed",
    ]
    count: Annotated[Count, Field(ge=1)]
    of: Count
    race_free_claim: bool | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.what != "spurious" and self.count > self.of:
            raise ValueError("count is more than there were")
        return self


class _FoundLoad(_Found):
    seconds: Amount
    others_share: Share | None
    stolen_share: Share | None
    waited_share: Share | None
    stalled_share: Share | None


class _FoundCase(_Found):
    """What is computed for a case of any kind.

    ``metrics`` are those of its contrasts; the first ``judged`` of them have controls.
    ``other_pairs`` has the metrics that compare two methods only, not each method with the
    baseline. ``control_apart`` says that the findings count the faults of the A/A control as the
    baseline's, while the baseline's own figures do not have them.
    """

    metrics: ClassVar[tuple[str, ...]]
    judged: ClassVar[int] = 1
    other_pairs: ClassVar[dict[str, tuple[str, str]]] = {}
    control_apart: ClassVar[bool] = True
    methods: Mapping[Line, _Method]
    contrasts: Annotated[list[_Contrast], Field(max_length=1000)]
    control: _Control
    # It may be missing, as in runs of earlier versions, but must not be null.
    placebo: Annotated[_Control, Field(default_factory=_Control.model_construct)]
    findings: Annotated[list[_Finding], Field(max_length=1000)]
    seconds: Amount
    stopped_by: Literal["precision", "max_seconds"] | None
    warnings: Annotated[list[str], Field(max_length=1000)]
    precision_of: Annotated[list[str], Field(default_factory=list)]
    precision_missed: Annotated[list[str], Field(default_factory=list)]
    relative_half_width: Amount | None
    precision_reached: bool | None
    timeout_ns: Amount | None
    first_timeout_ns: Amount | None = None
    start_skew: Share | None = None
    oversubscribed: bool = False
    placed: bool | None = None
    # Runs of earlier versions lack it. A finished case has a process.
    processes: Annotated[int, Field(ge=1, le=2**15)] = 1
    clocks: Annotated[list[Clock], Field(max_length=2**15)] = []
    load: _FoundLoad | None = None


class _FoundExits(_FoundCase):
    metrics = ("quiet_ns_per_exit", "ns_per_exit", "cpu_ns_per_exit", "ns_per_kick")
    judged = 2
    methods: dict[Line, _ExitsMethod]
    gaps_us: Annotated[list[Annotated[Amount, Field(gt=0)]], Field(max_length=MAX_GAPS)] = []
    # Runs of earlier versions lack it.
    shift: Annotated[list[_Shift], Field(max_length=1000)] = []


class _FoundKicks(_FoundCase):
    metrics = ("latency_p50_ns", "latency_p99_ns", "send_p50_ns", "send_mean_ns")
    methods: dict[Line, _KickMethod]


class _FoundPauses(_FoundCase):
    metrics = ("pause_last_ns",)
    methods: dict[Line, _PauseMethod]


class _FoundRaces(_FoundCase):
    metrics = ()
    control_apart = False
    methods: dict[Line, _RaceMethod]


class _FoundLives(_FoundCase):
    metrics = ()
    control_apart = False
    methods: dict[Line, _LifeMethod]


class _NestedCase(_Found):
    vendor: Literal["vmx", "svm"] | None
    nested_paging: bool | None
    kicks: Count = 0
    entries: Entries | None = None
    turn_ns: Amount | None
    at_once_turns: Count | None


class _FoundNested(_FoundCase):
    metrics = ("round_trip_p50_ns",)
    other_pairs = {"injection_p50_ns": INJECTION}
    methods: dict[Line, _NestedMethod]
    nested: _NestedCase


class _Level(_Estimate):
    by_process: Times | None


class _Pair(_Level):
    cpus: Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], Field(min_length=2, max_length=2)]
    nodes: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**15)] | None], Field(min_length=2, max_length=2)
    ]
    distance: Count | None
    siblings: bool

    @model_validator(mode="after")
    def _check_cpus(self) -> Self:
        if self.cpus[0] == self.cpus[1]:
            raise ValueError("a pair has one CPU twice")
        return self


class _AloneCpu(_Level):
    cpu: Annotated[int, Field(ge=0, lt=2**16)]
    node: Annotated[int, Field(ge=0, lt=2**15)] | None


class _GroupMedian(_Level):
    pairs: Count


class _GroupMedians(_Found):
    siblings: _GroupMedian
    same_node: _GroupMedian
    other_node: _GroupMedian


class _HandoverCase(_Found):
    pairs: Annotated[list[_Pair], Field(max_length=2**16)]
    alone: Annotated[list[_AloneCpu], Field(max_length=2**16)]
    medians: _GroupMedians


class _HandoverTimes(_Found):
    quiet: Amount | None
    mean: Amount | None


class _HandoverMethod(_Method):
    ns_per_handover: _HandoverTimes
    n: Count

    def faults(self) -> _Faults:
        return _Faults({}, self.n, None)


class _FoundHandovers(_FoundCase):
    metrics = ("handover_ns",)
    methods: dict[Line, _HandoverMethod]
    handover: _HandoverCase


class _ObservedMethod(_Method):
    n: Count
    seconds: Amount
    exits_per_second: Amount
    latency_ns: _PauseTimes
    latency_ci95: _SendIntervals
    last_ns: _PauseTimes
    last_ci95: _SendIntervals

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.latency_ci95.check(self.latency_ns, "latency_ci95")
        self.last_ci95.check(self.last_ns, "last_ci95")
        return self

    def faults(self) -> _Faults:
        return _Faults({}, self.n, None)


class _Way(_Found):
    reason: Line
    write: bool
    size: Count
    address: Count
    exits: Count
    share: Share
    in_run_ns: Amount | None
    userspace_ns: Amount | None


class _ObservedExits(_Found):
    n: Count
    per_second: Amount
    looked_at: Count
    by_reason: Annotated[dict[Line, Count], Field(max_length=10_000)]
    ways: Annotated[list[_Way], Field(max_length=MOST_WAYS)]
    n_ways: Count

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_ways < len(self.ways):
            raise ValueError("n_ways is less than there are")
        return self


class _BinTimes(_Found):
    p50: Amount | None
    p90: Amount | None
    p99: Amount | None
    mean: Amount | None
    n: Count


class _ObservedTimes(_Found):
    gap_ns: _BinTimes
    userspace_ns: _BinTimes
    in_run_ns: _BinTimes


class _KicksInState(_Found):
    n: Count
    latency_ns: _PauseTimes


class _ObservedPauses(_Found):
    first: _PauseTimes
    median: _PauseTimes
    last: _PauseTimes


class _FoundSender(Sender):
    model_config = ConfigDict(extra="ignore")


class _ObservedKicks(_Found):
    sent: Count
    n: Count = 0  # summaries from before kicks were left out lack both
    kept: Count = 0
    one_with_another: Count
    failed: Count
    left: Count
    handled: Count
    in_userspace: Count
    unanswered: Count
    oldest_unanswered_ns: Count | None = None
    unasked: Count
    foreign_signals: Count
    before_run: Count = 0
    latency_ns: _PauseTimes
    handler_ns: _PauseTimes
    return_to_handler_ns: _PauseTimes
    by_state: dict[Literal["userspace", "running", "halted", "waiting"], _KicksInState]
    senders: Annotated[list[_FoundSender], Field(max_length=2**14)]
    pauses: Count | None
    pause_ns: _ObservedPauses

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.pauses) is (self.pause_ns.last.p50 is None):
            raise ValueError("pause_ns must be there if there are pauses, and only then")
        return self


class _FoundSiglock(Siglock):
    model_config = ConfigDict(extra="ignore")


class _FoundProtocol(ObservedProtocol):
    model_config = ConfigDict(extra="ignore")


class _SeenVcpu(_Found):
    id: Count
    thread: Count
    name: Line
    exits: Count
    exits_per_second: Amount
    cpus: Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], Field(max_length=2**16)]
    nodes: Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], Field(max_length=2**16)] = []
    ran_share: Amount | None
    waited_share: Amount | None
    halted_share: Amount | None
    polled_share: Amount | None


class _Overhead(_Found):
    share: Signed | None
    ci95: Interval | None
    counting: Signed | None
    detail: Signed | None
    rounds: Count

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_within(self.share, self.ci95, "ci95")
        return self


class _FoundObserved(_FoundCase):
    metrics = ()
    methods: dict[Line, _ObservedMethod]
    pid: Count
    vmm: Line
    guest: Line
    ended: Line | None
    looked_at_share: Share
    protocol: _FoundProtocol
    exits: _ObservedExits
    times: _ObservedTimes
    kicks: _ObservedKicks
    siglock: _FoundSiglock
    vcpus_seen: Annotated[list[_SeenVcpu], Field(max_length=2**15)]
    memory_nodes: Annotated[dict[Line, Count], Field(max_length=2**15)]
    lost: Annotated[dict[Line, Count], Field(max_length=100)]
    lost_events: Count
    overhead: _Overhead

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lost_events != sum(self.lost.values()):
            raise ValueError("lost_events is not the sum of lost")
        if set(self.methods) != {self.protocol.id}:
            raise ValueError("the protocol is not the method")
        return self


_FOUND: dict[str, type[_FoundCase]] = {
    "exits": _FoundExits,
    "kick": _FoundKicks,
    "pause_all": _FoundPauses,
    "race": _FoundRaces,
    "nested": _FoundNested,
    "handover": _FoundHandovers,
    "lifecycle": _FoundLives,
    "observed": _FoundObserved,
}


def check_summary(
    data: dict[str, Any], run_id: str, parameters: Mapping[str, Mapping[str, Any]], where: object
) -> dict[str, dict[str, Any]]:
    """The findings of a summary.json for some cases, by their ids, without unknown keys.

    ``parameters`` are those of the cases wanted. They come from the manifest (methods by label),
    not from the summary. Raises ResultsError, in one line, if the summary cannot be used.
    """
    check_version(data, where, "summary")
    if data.get("run_id") != run_id:
        fail(where, "is not of this run: its run_id is another one; put the run's own file there")
    cases = data.get("cases")
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        fail(where, "is damaged: cases: not a list of objects")
    by_id: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        if isinstance(case.get("id"), str):
            by_id.setdefault(case["id"], []).append(case)
    found = {}
    for case_id, wanted in parameters.items():
        check_methods(wanted["methods"], wanted["baseline"], where)
        same = by_id.get(case_id, [])
        if data["schema"] < 2:
            _forget_landed(same)
            _complete_first(same)
        if len(same) != 1 or same[0].get("status") != "ok":
            fail(
                where,
                f"does not have the case {case_id} once and finished, and the tables of the case "
                "are missing; ask for the whole folder",
            )
        found[case_id] = _check_found(same[0], wanted, f"{case_id}: ", where)
    return found


def _forget_landed(cases: Iterable[dict[str, Any]]) -> None:
    """Drops the landed kicks of schema 1: most of them could not have been lost."""
    for case in cases:
        methods = case.get("methods")
        if case.get("kind") == "race" and isinstance(methods, dict):
            for figures in filter(lambda one: isinstance(one, dict), methods.values()):
                figures |= {"landed": None, "lost_ci95": None, "lost_upper95": None}


def _complete_first(cases: Iterable[dict[str, Any]]) -> None:
    """Adds what the first runs lack. They judged one figure only, and nobody looked for faults."""
    for case in cases:
        if case.get("kind") == "exits":
            case.setdefault("findings", [])
            case.setdefault("timeout_ns", None)
            if isinstance(case.get("control"), dict):
                case["control"].setdefault("metric", "ns_per_exit")


def _check_found(
    case: dict[str, Any], wanted: Mapping[str, Any], what: str, where: object
) -> dict[str, Any]:
    kind, methods, baseline = wanted["kind"], wanted["methods"], wanted["baseline"]
    if kind not in _FOUND:
        fail(
            where,
            f"{what}is of the kind {kind!r}, which this kickbench does not know; upgrade kickbench",
        )
    model = check_model(_FOUND[kind], case, where, what)
    if case.get("kind") != kind or set(model.methods) != set(methods):
        fail(where, f"is damaged: {what}its kind or methods are not those of the manifest")
    compared = [(name, baseline) for name in methods if name != baseline]
    if kind == "exits":
        compared += control_pairs(methods, baseline)
    known = {(*pair, metric) for pair in compared for metric in model.metrics}
    known |= {
        (*pair, metric) for metric, pair in model.other_pairs.items() if set(pair) <= set(methods)
    }
    found = [(one.method, one.baseline, one.metric) for one in model.contrasts]
    if len(set(found)) != len(found) or not {(a, m) for a, _, m in found} <= {
        (a, m) for a, _, m in known
    }:
        fail(where, f"is damaged: {what}contrasts: one is there twice or of what is not there")
    if not set(found) <= known:
        fail(where, f"is damaged: {what}contrasts: the baseline is another")
    if not {(one.method, one.baseline) for one in getattr(model, "shift", ())} <= set(compared):
        fail(where, f"is damaged: {what}shift: one is of what is not there")
    for role in {"control", "placebo"} & model.model_fields_set:
        judged = getattr(model, role)
        second = judged.mean.metric if "mean" in judged.model_fields_set else None
        if not {judged.metric, second} <= {None, *model.metrics[: model.judged]}:
            fail(where, f"is damaged: {what}{role}: no such metric")
    _check_findings(model, baseline, f"{what}findings: ", where)
    plain = model.model_dump(by_alias=True, exclude_unset=True)
    plain["methods"] = {name: plain["methods"][name] for name in methods}
    return plain


def _check_findings(model: _FoundCase, baseline: str, what: str, where: object) -> None:
    """Checks that the findings agree with the faults in the methods' own figures."""
    found: dict[tuple[str, str], _Finding] = {(f.method, f.what): f for f in model.findings}
    if len(found) != len(model.findings):
        fail(where, f"is damaged: {what}one is there twice")
    if not {method for method, _ in found} <= set(model.methods):
        fail(where, f"is damaged: {what}no such method")
    for name, method in model.methods.items():
        faults = method.faults()
        found.pop((name, "stood_still"), None)  # a time, not a count
        more = model.control_apart and name == baseline
        for fault, count in faults.counts.items():
            finding = found.pop((name, fault), None)
            if finding is None:
                agrees = count == 0
            elif more:
                agrees = finding.count >= count and finding.of >= faults.of
            else:
                agrees = (finding.count, finding.of) == (count, faults.of)
            if not agrees or (finding and finding.race_free_claim is not faults.claim):
                fail(where, f"is damaged: {what}{fault} of {name} is not what its figures say")
    for name, fault in found:
        fail(where, f"is damaged: {what}{fault} of {name} is not counted in a case of this kind")


def load_summary(reader: RunReader) -> dict[str, dict[str, Any]]:
    """The findings of summary.json for the cases of :attr:`RunReader.stripped`, by their ids.

    Each has only the keys of its kind, checked. Raises ResultsError, in one line, if the file is
    missing, damaged, or of another run.
    """
    path = reader.path / SUMMARY
    if not path.exists():
        fail(
            path,
            f"is missing, and so are the tables of the case {reader.stripped[0].id}; ask for the "
            "whole folder",
        )
    data = load_json(reader.path, path)
    parameters = {record.id: record.parameters for record in reader.stripped}
    return check_summary(data, reader.run_id, parameters, path)
