# SPDX-License-Identifier: Apache-2.0
"""A night: measure every scenario, add it to the history, judge it, write its pages.

What a scenario measured is kept before it is judged, and judged before anything is drawn, so that
whatever goes wrong later, or ends the job, costs no night. One scenario that fails does not keep
the others from being measured. What is said about it all is :mod:`kickbench.nightly.outputs`'.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
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
from kickbench.nightly.config import Config
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

Measure = Callable[[Scenario, Path], Outcome]
"""Runs a scenario into a new folder below that of all results, as runner.run does."""

Pins = Mapping[tuple[str, str], str]
"""By host fingerprint and scenario, the run that is the baseline."""

WORST_FIRST = (EXIT_REGRESSION, EXIT_MEASUREMENT, EXIT_HOST, EXIT_USAGE)


@dataclass
class Part:
    """One scenario's night, as far as it came.

    ``measured_on`` has, for each metric, the indices of the nights that measured it, and
    ``accepted_from`` that of the first night of its present normal.
    ``errors`` are what went wrong: each a line, and the exit code that it is worth.
    """

    scenario: str
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

    def cases(self, status: str) -> list[dict[str, Any]]:
        """The night's cases with this status ("ok", "skipped" or "failed")."""
        found = [] if self.night is None else self.night.document["cases"]
        return [case for case in found if case["status"] == status]

    @property
    def disturbed(self) -> dict[str, str]:
        """By case, why tonight is no witness of it."""
        return {j.key.case: j.reason for j in self.decision.of("no witness")}

    @property
    def lost(self) -> list[dict[str, Any]]:
        """Where a protocol that claims to be free of races lost kicks."""
        return [] if self.night is None else self.night.lost

    @property
    def regressions(self) -> list[Judgement]:
        """The metrics to raise an alarm about; those of lost kicks are in ``lost`` already."""
        said = {(lost["case"], lost["method"], lost["what"]) for lost in self.lost}
        return [
            j
            for j in self.decision.of("regression")
            if (j.key.case, j.key.method, j.key.metric) not in said
        ]

    @property
    def judged(self) -> list[Judgement]:
        """The metrics about which there is something to say."""
        return [j for j in self.decision.judgements if j.verdict in _DECIDED]

    def changed_with(self, judgement: Judgement) -> tuple[int | None, list[Change]]:
        """The last night before a change, and what of the host changed from it to the next."""
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
        """What this scenario's night is worth as an exit code."""
        codes = {code for _, code in self.errors}
        if self.lost or self.regressions:
            codes.add(EXIT_REGRESSION)
        if self.cases("failed"):
            codes.add(EXIT_MEASUREMENT)
        return worst(codes)


_DECIDED = ("regression", "improvement", "no change")


@dataclass(frozen=True)
class Result:
    """All scenarios of a night.

    ``fewest_nights`` are those that it takes to decide, tonight among them. ``problems`` has a line
    for each file that the history left out. ``interrupted`` says where the job was when somebody
    ended it; None if nobody did.
    """

    parts: tuple[Part, ...]
    fewest_nights: int
    problems: tuple[str, ...] = ()
    interrupted: str | None = None

    @property
    def exit_code(self) -> int:
        """130 when interrupted, else the worst of all scenarios."""
        if self.interrupted is not None:
            return EXIT_INTERRUPTED
        return worst({part.exit_code for part in self.parts})


def worst(codes: set[int]) -> int:
    """The exit code that counts: a regression above all, then what failed, then what cannot be."""
    return next((code for code in WORST_FIRST if code in codes), EXIT_OK)


def run(config: Config, measure: Measure) -> Result:
    """One night of the job. Ctrl-C ends it, and the result says where.

    Raises UsageError, before anything is measured, when folders cannot be made or a pinned run is
    not in the history; HostError when another nightly job is running on this host.
    """
    history = History(config.history)
    for folder in (config.history, config.results, config.reports):
        make_folder(folder, "name another folder in the job's file")
    pins = _find_pins(config, history)
    parts = [Part(scenario.name) for scenario in config.scenarios]
    interrupted = None
    with _alone(config.history):
        for part, scenario in zip(parts, config.scenarios, strict=True):
            try:
                _one_night(part, scenario, config, history, pins, measure)
            except RunInterruptedError as stop:
                interrupted = f"{part.scenario} was being measured; what there is of it is no night"
                part.run = stop.outcome.folder
                break
            except Exception as error:  # the other scenarios are still to be measured
                code = error.exit_code if isinstance(error, KickbenchError) else EXIT_MEASUREMENT
                part.errors.append((_in_a_line(error), code))
                if isinstance(error, StorageError):
                    break  # nothing that is measured now could be kept
            except KeyboardInterrupt:
                interrupted = f"{part.scenario} was not finished"
                break
    fewest_nights = config.settings.min_nights + config.settings.windows[0]
    return Result(tuple(parts), fewest_nights, tuple(history.problems), interrupted)


def _one_night(
    part: Part,
    scenario: Scenario,
    config: Config,
    history: History,
    pins: Pins,
    measure: Measure,
) -> None:
    part.run = measure(scenario, config.results).folder
    data = RunData.load(part.run)
    night = Night.of(data.reader.manifest, data.summary)
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


@contextmanager
def _on_the_way(part: Part) -> Iterator[None]:
    """What goes wrong with something that only shows what was found costs nothing else."""
    try:
        yield
    except Exception as error:  # no fault of a page may cost an alarm
        part.errors.append((_in_a_line(error), EXIT_MEASUREMENT))


def _in_a_line(error: Exception) -> str:
    """What went wrong; of what was not foreseen, where."""
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
        ("the finished cases are kept: .*", "the next night starts anew"),
        ("choose another --results", "choose another folder of results in the job's file"),
        ("choose another (folder with )?-o", "choose another folder of reports in the job's file"),
    )
)
"""What other commands advise, and what fits this one."""


def _judge(part: Part, night: Night, history: History, settings: Settings, pins: Pins) -> None:
    every = history.nights(night.fingerprint, night.scenario)
    part.remarks += _what_is_odd(every, night, history, pins)
    # A clock that went back puts tonight among the others: what is dated later is not its past.
    nights = [other for other in every if other.order <= night.order]
    part.nights, found = trends(nights, history.events())
    tonight = len(nights) - 1
    # What no night of late has measured is gone, and not "not measured".
    found = [trend for trend in found if trend.night[-1] >= tonight - settings.min_nights]
    part.measured_on = {trend.key: trend.night.tolist() for trend in found}
    part.accepted_from = {trend.key: trend.accepted_from for trend in found}
    part.pinned = pins.get((night.fingerprint, night.scenario))
    lost = [f"{lost['method']} in {lost['case']}" for lost in night.lost]
    part.decision = decide(found, part.nights, replace(settings, pinned=part.pinned), lost)
    if found and all(trend.never_quiet(tonight) for trend in found):
        part.errors.append((_NEVER_QUIET, EXIT_HOST))


_NEVER_QUIET = (
    f"the host was busy on each of the last {QUIET_WITHIN} nights, so that none is a witness: stop "
    "what runs at that hour (systemctl list-timers, crontabs), or measure at another"
)


def _what_is_odd(every: list[Night], night: Night, history: History, pins: Pins) -> Iterator[str]:
    yield from remarks(every, night)
    moved = history.moved_from(night)
    if moved is not None:
        last, told = moved
        by = "; ".join(f"{c.title}: {c.before} → {c.after}" for c in told) or "see the history"
        yield (
            f"this is another host than that of {last.run_id} ({by}): a new baseline begins, and "
            "nothing is compared with the old one"
        )
    own = (night.fingerprint, night.scenario)
    elsewhere = [run for key, run in pins.items() if key[1] == night.scenario and own not in pins]
    if elsewhere:
        yield f"{listed(elsewhere)} is of another host, and no baseline here"


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
                f"{where} is of {night.scenario}, which this job does not measure; it measures "
                f"{listed(names)}"
            )
        if (night.fingerprint, night.scenario) in found:
            raise UsageError(f"{where} is the second run of {night.scenario} on its host; pin one")
        found[night.fingerprint, night.scenario] = night.run_id
    return found


@contextmanager
def _alone(history: Path) -> Iterator[None]:
    """Keep a second job of this host away, which would disturb what this one measures.

    The lock goes with the process, however that ends. Hosts may share a history.
    """
    path = history / f".nightly-{safe_name(socket.gethostname(), default='host')}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UsageError(one_line(f"{history}: cannot be written to: {error.strerror}")) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                what = f"cannot be locked ({error.strerror}); choose another file system"
                raise UsageError(one_line(f"{history}: {what}")) from None
            owner = os.read(lock, 20).decode("ascii", "replace").strip()
            who = f" (pid {owner})" if owner.isdecimal() else ""
            raise HostError(
                f"another nightly job is running{who}; two would disturb each other's figures"
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
