# SPDX-License-Identifier: Apache-2.0
"""The nightly job: measures every scenario, adds it to the history, judges it, writes its pages.

Hosts are measured one after another. What a scenario measured is kept before it is judged, and
judged before anything is drawn. So no night is lost if something goes wrong later, or ends the job.
If one scenario or one host fails, the others are still measured. :mod:`kickbench.nightly.outputs`
has the words for the result.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kickbench
from kickbench.compare.identity import Change, changes
from kickbench.errors import (
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_MEASUREMENT,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_USAGE,
    HostError,
    KickbenchError,
    MeasurementError,
    ResultsError,
    StorageError,
    UsageError,
)
from kickbench.nightly import page
from kickbench.nightly.collect import trends
from kickbench.nightly.config import THIS_HOST, Config
from kickbench.nightly.decide import decide
from kickbench.nightly.history import History
from kickbench.nightly.judgement import Decision, Judgement
from kickbench.nightly.night import Night
from kickbench.nightly.remarks import remarks
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import QUIET_WITHIN, Key, Nights
from kickbench.numbers import listed
from kickbench.report.pages.run import write_report
from kickbench.results.files import make_folder
from kickbench.results.schema import one_line, safe_name
from kickbench.run.runner import Outcome, RunInterruptedError
from kickbench.scenario.model import Scenario
from kickbench.summary.data import RunData

Measure = Callable[[Scenario, Path, str], Outcome]
"""Runs a scenario into a new folder inside the folder of results, as runner.run does, on a host of
the job's file."""

Pins = Mapping[tuple[str, str], str]
"""The run that is the baseline, by host fingerprint and scenario."""

WORST_FIRST = (EXIT_REGRESSION, EXIT_MEASUREMENT, EXIT_HOST, EXIT_USAGE)


@dataclass
class Part:
    """The night of one scenario on one host, as far as it came.

    ``host`` is what the job's file calls the host. ``several`` is whether the job measures on other
    hosts too, so that sentences have to name this one. ``measured_on`` has the indices of the
    nights that measured a metric, and ``accepted_from`` the index of the first night of its present
    normal. ``errors`` has a line for each thing that went wrong, with its exit code.
    """

    scenario: str
    host: str = THIS_HOST
    several: bool = False
    run: Path | None = None
    night: Night | None = None
    nights: Nights = field(default_factory=lambda: Nights((), (), ()))
    measured_on: Mapping[Key, list[int]] = field(default_factory=dict)
    accepted_from: Mapping[Key, int] = field(default_factory=dict)
    decision: Decision = field(default_factory=lambda: Decision(()))
    pinned: str | None = None
    remarks: list[str] = field(default_factory=list)
    report: Path | None = None
    trend: Path | None = None
    errors: list[tuple[str, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The scenario, and its host if the job has several: "exits_1vcpu on root@amd"."""
        return f"{self.scenario} on {self.host}" if self.several else self.scenario

    def cases(self, status: str) -> list[dict[str, Any]]:
        """The night's cases with this status ("ok", "skipped" or "failed")."""
        found = [] if self.night is None else self.night.document["cases"]
        return [case for case in found if case["status"] == status]

    @property
    def disturbed(self) -> dict[str, str]:
        """The cases of which tonight is not evidence, and why."""
        return {j.key.case: j.reason for j in self.decision.of("no witness")}

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The kicks that were lost by protocols that claim to be free of races."""
        return [] if self.night is None else self.night.lost

    @property
    def regressions(self) -> list[Judgement]:
        """The metrics that raise an alarm, without those of kicks that ``lost`` has already."""
        said = {(lost["case"], lost["method"], lost["what"]) for lost in self.lost}
        return [
            j
            for j in self.decision.of("regression")
            if (j.key.case, j.key.method, j.key.metric) not in said
        ]

    @property
    def judged(self) -> list[Judgement]:
        """The judgements of metrics that could be judged."""
        return [j for j in self.decision.judgements if j.verdict in _DECIDED]

    def changed_with(self, judgement: Judgement) -> tuple[int | None, list[Change]]:
        """The last night before a change, and the facts of the host that changed after it."""
        if judgement.since is None:
            return None, []
        earlier = [n for n in self.measured_on.get(judgement.key, ()) if n < judgement.since]
        if not earlier:
            return None, []
        last = earlier[-1]
        return last, changes(
            self.nights.environment[last], self.nights.environment[judgement.since]
        )

    @property
    def exit_code(self) -> int:
        """The exit code for this scenario's night alone."""
        codes = {code for _, code in self.errors}
        if self.lost or self.regressions:
            codes.add(EXIT_REGRESSION)
        if self.cases("failed"):
            codes.add(EXIT_MEASUREMENT)
        return worst(codes)


_DECIDED = ("regression", "improvement", "no change")


@dataclass(frozen=True)
class Result:
    """All scenarios of a night, on all hosts.

    ``fewest_nights`` is how many nights a decision takes, with tonight. ``problems`` has a line for
    each file that the history left out. ``interrupted`` says where the job was when it was
    interrupted, and is None if it was not.
    """

    parts: tuple[Part, ...]
    fewest_nights: int
    problems: tuple[str, ...] = ()
    interrupted: str | None = None

    @property
    def exit_code(self) -> int:
        """130 if the job was interrupted, else the worst of all parts."""
        if self.interrupted is not None:
            return EXIT_INTERRUPTED
        return worst({part.exit_code for part in self.parts})


def worst(codes: set[int]) -> int:
    """The exit code that counts: WORST_FIRST has their order."""
    return next((code for code in WORST_FIRST if code in codes), EXIT_OK)


def run(config: Config, measure: Measure) -> Result:
    """One night of the job. Ctrl-C ends it, and the result says where.

    Raises UsageError, before anything is measured, if a folder cannot be made or a pinned run is
    not in the history. Raises HostError if another nightly job is running on this host.
    """
    history = History(config.history)
    for folder in (config.history, config.results, config.reports):
        make_folder(folder, "name another folder in the job's file")
    pins = _find_pins(config, history)
    work = [
        (Part(scenario.name, host, several=len(config.hosts) > 1), scenario)
        for host in config.hosts
        for scenario in config.scenarios
    ]
    parts = [part for part, _ in work]
    given_up: dict[str, tuple[str, int]] = {}  # why, by host
    interrupted = None
    with _alone(config.history):
        for part, scenario in work:
            if part.host in given_up:
                part.errors.append(given_up[part.host])
                continue
            try:
                part.run = measure(scenario, config.results, part.host).folder
                _one_night(part, parts, config, history, pins)
            except RunInterruptedError as stop:
                interrupted = f"{part.name} was being measured, and has no night in the history"
                part.run = stop.outcome.folder
                break
            except Exception as error:  # the others are still to be measured
                code = error.exit_code if isinstance(error, KickbenchError) else EXIT_MEASUREMENT
                part.errors.append((_in_a_line(error), code))
                if isinstance(error, (StorageError, _SameHostError)):
                    given_up[part.host] = part.errors[-1]  # what it measures could not be kept
            except KeyboardInterrupt:
                interrupted = f"{part.name} was not finished"
                break
    _remark_on_foreign_pins(parts, pins)
    fewest_nights = config.settings.min_nights + config.settings.windows[0]
    return Result(tuple(parts), fewest_nights, tuple(history.problems), interrupted)


def _one_night(
    part: Part, parts: Sequence[Part], config: Config, history: History, pins: Pins
) -> None:
    """Keep what the run of a part found, judge it, and write its pages."""
    assert part.run is not None
    data = RunData.load(part.run)
    night = Night.of(data.reader.manifest, data.summary)
    _check_only_one(part.host, night.fingerprint, parts)
    history.append(night)
    part.night = night
    _judge(part, night, history, config.settings, pins)
    judged = {"judged": len(part.judged), "lost": len(part.lost)}
    with _on_the_way(part):
        alarms = [judgement.key for judgement in part.decision.of("regression")]
        history.add_verdict(night.run_id, alarms, judged)
    with _on_the_way(part):
        part.report = write_report(data, config.reports)
    with _on_the_way(part):
        nights = history.nights(night.fingerprint, night.scenario)
        part.trend = page.write(nights, history.events(), config.reports)


class _SameHostError(UsageError):
    """Two names in the job's file are one host to the history."""


def _check_only_one(host: str, fingerprint: str, parts: Sequence[Part]) -> None:
    """Refuse a second host of one fingerprint. Two measurements of one night would be two nights
    then, and confirm each other."""
    for other in parts:
        if other.host != host and other.night and other.night.fingerprint == fingerprint:
            raise _SameHostError(
                f"{host} has the fingerprint of {other.host} ({fingerprint}), so their nights "
                "would mix; take it out of hosts, or give it a job with a history of its own"
            )


@contextmanager
def _on_the_way(part: Part) -> Iterator[None]:
    """Keep an error of what only shows the result from costing anything else."""
    try:
        yield
    except Exception as error:  # a fault of a page must not cost an alarm
        part.errors.append((_in_a_line(error), EXIT_MEASUREMENT))


def _in_a_line(error: Exception) -> str:
    """What went wrong, in one line. For an error that nobody foresaw, it says where."""
    if isinstance(error, KickbenchError):
        text = str(error)
        for advice, fitting in _ADVICE:
            text = advice.sub(fitting, text)
    elif isinstance(error, OSError):
        text = f"{error.filename}: " if error.filename else ""
        text += error.strerror or str(error)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
        where = f"{Path(own[-1].filename).relative_to(_PACKAGE.parent)}:{own[-1].lineno}"
        text = f"internal error in {where}: {type(error).__name__}: {error}"
    return one_line(text)


_PACKAGE = Path(kickbench.__file__).parent
_ADVICE = tuple(
    (re.compile(advice, re.DOTALL), fitting)
    for advice, fitting in (
        (r"(; |\n)the finished cases are kept[:;] .*", "; the next night starts anew"),
        (
            r"\nthe run goes on there within its limits; collect it with\n(.*)",
            r"; the run goes on there, but is not a night; collect it with \1",
        ),
        ("choose another --results", "choose another folder of results in the job's file"),
        ("choose another (folder with )?-o", "choose another folder of reports in the job's file"),
    )
)
"""What the errors of other commands advise, and what fits this command instead."""


def _judge(part: Part, night: Night, history: History, settings: Settings, pins: Pins) -> None:
    every = history.nights(night.fingerprint, night.scenario)
    part.remarks += _what_is_odd(part, every, night, history)
    # If the clock went back, the history has nights of later dates. They are not before tonight.
    nights = [other for other in every if other.order <= night.order]
    part.nights, found = trends(nights, history.events())
    tonight = len(nights) - 1
    # A metric that no recent night measured is gone. It is not listed as "not measured".
    found = [trend for trend in found if trend.night[-1] >= tonight - settings.min_nights]
    part.measured_on = {trend.key: trend.night.tolist() for trend in found}
    part.accepted_from = {trend.key: trend.accepted_from for trend in found}
    part.pinned = pins.get((night.fingerprint, night.scenario))
    lost = [f"{lost['method']} in {lost['case']}" for lost in night.lost]
    part.decision = decide(found, part.nights, replace(settings, pinned=part.pinned), lost)
    if found and all(trend.never_quiet(tonight) for trend in found):
        part.errors.append((_NEVER_QUIET, EXIT_HOST))


_NEVER_QUIET = (
    f"the host was busy on each of the last {QUIET_WITHIN} nights, so no night is evidence; stop "
    "what runs at that hour (see systemctl list-timers and the crontabs), or measure at another"
)


def _what_is_odd(part: Part, every: list[Night], night: Night, history: History) -> Iterator[str]:
    yield from remarks(every, night)
    # The job's other hosts have nights too, and this one is no successor of theirs.
    moved = history.moved_from(night, same_name=part.several)
    if moved is not None:
        last, told = moved
        by = "; ".join(f"{c.title}: {c.before} → {c.after}" for c in told) or "see the history"
        yield (
            f"the host is not that of {last.run_id} ({by}), so a new baseline begins, and nothing "
            "is compared with the old one"
        )


def _remark_on_foreign_pins(parts: Sequence[Part], pins: Pins) -> None:
    """Remark on pinned runs that no host of the job has measured."""
    tonight = {(part.night.fingerprint, part.scenario) for part in parts if part.night is not None}
    for part in parts:
        pinned = {key: run for key, run in pins.items() if key[1] == part.scenario}
        if part.night is not None and pinned and not tonight & pinned.keys():
            runs, was = listed([*pinned.values()]), "was" if len(pinned) == 1 else "were"
            part.remarks.append(f"{runs} {was} measured on another host; pin a run of this one")


# --- before anything is measured ---------------------------------------------------------------


def _find_pins(config: Config, history: History) -> dict[tuple[str, str], str]:
    names = [scenario.name for scenario in config.scenarios]
    found: dict[tuple[str, str], str] = {}
    for run_id in config.pinned:
        where = f"{config.path}: baseline.pinned"
        try:
            night = history.find(run_id)
        except ResultsError as error:
            raise UsageError(f"{where}: {error}") from None
        where += f": {run_id}"
        if night.scenario not in names:
            raise UsageError(
                f"{where} is of {night.scenario}, which this job does not measure; pin a run of "
                f"{listed(names)}"
            )
        if (night.fingerprint, night.scenario) in found:
            raise UsageError(f"{where} is the second run of {night.scenario} on its host; pin one")
        found[night.fingerprint, night.scenario] = night.run_id
    return found


@contextmanager
def _alone(history: Path) -> Iterator[None]:
    """Refuse a second job on this host, because two would disturb each other's figures.

    The lock ends with the process, however the process ends. Hosts may share a history, so each has
    a lock of its own.
    """
    path = history / f".nightly-{safe_name(socket.gethostname(), default='host')}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        what = f"cannot be written to: {error.strerror}; name another folder in the job's file"
        raise UsageError(one_line(f"{history}: {what}")) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                what = f"cannot be locked ({error.strerror}); keep it on another file system"
                raise UsageError(one_line(f"{history}: {what}")) from None
            owner = os.read(lock, 20).decode("ascii", "replace").strip()
            who = f" (pid {owner})" if owner.isdecimal() else ""
            raise HostError(
                f"another nightly job is running{who}; wait for it, because two would disturb each "
                "other's figures"
            ) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise MeasurementError(
                one_line(f"cannot write to {history}: {error.strerror}; nothing was measured")
            ) from None
        yield
    finally:
        os.close(lock)
