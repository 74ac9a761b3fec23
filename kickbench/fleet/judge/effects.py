# SPDX-License-Identifier: Apache-2.0
"""How much each figure of a cohort changed, and how often that happens to hosts without a change.

Hosts that moved are compared with hosts that did not, on the same days (difference in differences).
The error is that between hosts, times what the placebo shows: the same hosts at days on which none
of them moved. If they went up and down together there, for a reason that nobody knows, they do that
here, too.

Hosts that did not move are looked at on each day. Their placebo are all the other days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from kickbench.fleet.judge.cohorts import Histories, Hosts
from kickbench.fleet.judge.robust import Mean, median, trimmed
from kickbench.fleet.judge.steps import AFTER, BEFORE, FRESH, Steps

Floats = NDArray[np.float64]

PLACEBOS = 12
"""Days before a move at which a cohort is looked at as if it had moved, at most."""

_PRIOR = 20.0  # placebos that all figures together count as, for each figure
_HALF_BELOW = 0.455  # the median of the square of a normal number, with standard deviation 1
_LARGEST = 16.0  # square of a placebo's effect, in usual errors, where there may be a change, too


@dataclass(frozen=True)
class Effects:
    """The effect on each figure, as a share, by the ``nights`` after the day.

    Arrays are (figures,). ``low`` and ``high`` are the 95 % interval, and ``p`` is two-sided.
    Of hosts that did not move, ``day`` is that of the step, and ``end`` that on which the figure
    went back; the number of days: it did not.
    """

    hosts: Hosts
    nights: int
    value: Floats
    low: Floats
    high: Floats
    p: Floats
    day: NDArray[np.intp] | None = None
    end: NDArray[np.intp] | None = None

    @property
    def z(self) -> Floats:
        """How far each is from 0, in the halves of its interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = self.value / ((self.high - self.low) / 2)
        return found


class Fleet:
    """The steps of all hosts, with what happened to hosts that did not move."""

    def __init__(self, steps: Steps, histories: Histories) -> None:
        self.steps, self._histories = steps, histories
        self._controls: dict[int, Mean] = {}
        self._calm: dict[int, NDArray[np.float32]] = {}

    def calm(self, nights: int) -> NDArray[np.float32]:
        """The steps of hosts on days that no move of theirs is near."""
        if nights not in self._calm:
            unsettled = self._histories.unsettled(nights, BEFORE)
            self._calm[nights] = np.where(unsettled, np.float32(np.nan), self.steps.field[nights])
        return self._calm[nights]

    def _control(self, nights: int) -> Mean:
        """The mean step (figures, days) of hosts that did not move near each day."""
        if nights not in self._controls:
            self._controls[nights] = trimmed(self.calm(nights).transpose(0, 2, 1))
        return self._controls[nights]

    def against_control(self, hosts: Hosts, back: int, nights: int, alone: bool) -> Mean:
        """The mean step ``back`` days before the hosts moved, less the control's, by figure."""
        assert hosts.day is not None
        day = np.maximum(hosts.day - back, 0)
        steps = self._own(hosts, nights) if back == 0 else self._field(hosts, day, nights)
        steps[:, hosts.day < back] = np.nan
        if alone:
            return trimmed(steps)
        control = self._control(nights)
        mean = trimmed(steps - control.value[:, day])
        # Hosts that moved on the same day share their control. So its error does not get less with
        # more of them.
        error = np.hypot(mean.error, median(control.error[:, day].astype(np.float32)))
        return Mean(mean.value, error, mean.df)

    def _field(self, hosts: Hosts, day: NDArray[np.intp], nights: int) -> Floats:
        return self.steps.field[nights][:, hosts.place, day].astype(np.float64)

    def _own(self, hosts: Hosts, nights: int) -> Floats:
        """The steps (figures, hosts) on the days of the moves.

        Nights before a host's last move are no past of this one.
        """
        assert hosts.day is not None
        steps = self._field(hosts, hosts.day, nights)
        since, _ = self._histories.nights_apart(hosts)
        for short in np.unique(since[since < BEFORE]):
            some = since == short
            place, day = hosts.place[some], hosts.day[some]
            past = self.steps.value[:, place[:, None], day[:, None] - np.arange(1, short + 1)]
            steps[:, some] += self.steps.before[:, place, day] - median(past)
        return steps

    def moved(self, hosts: Hosts) -> Effects | None:
        """The effects of a move; None if too few of its hosts have been measured since.

        Nights after a host's next move are no nights of this one.
        """
        everyone = hosts
        _, until = self._histories.nights_apart(hosts)
        for nights in AFTER:
            hosts = everyone.only(until >= nights)
            if np.isfinite(self._own(hosts, nights)).any(0).sum() > len(everyone.place) / 2:
                break
        else:
            return None
        # If all hosts moved on the same day, there is no control.
        alone = not np.isfinite(self.against_control(hosts, 0, nights, False).value).any()
        mean = self.against_control(hosts, 0, nights, alone)
        placebo = [
            self.against_control(hosts, back, nights, alone)
            for back in range(nights, nights * (PLACEBOS + 1), nights)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.stack([(one.value / one.error) ** 2 for one in placebo])
        return _effects(everyone, nights, mean, *_inflation(ratios, mean.df))

    def settled(self, hosts: Hosts) -> Effects | None:
        """The largest step of each figure of hosts that did not move; None if there is no day."""
        nights = FRESH
        calm = self.calm(nights)[:, hosts.place].transpose(0, 2, 1)
        mean = trimmed(calm)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (mean.value / mean.error) ** 2
        known = np.isfinite(ratio)
        if not known.any():
            return None
        # All hosts may drift together, which the spread between them does not show. Half of all
        # figures and days have no change, so that these show how much.
        largest = _LARGEST * max(1.0, float(np.nanmedian(ratio)) / _HALF_BELOW)
        begin = _Begin(trimmed(self.calm(1)[:, hosts.place].transpose(0, 2, 1)).value, mean.value)
        day = begin.of(np.where(known, ratio, -1.0).argmax(1))
        rows = np.arange(len(day))
        sign = np.sign(mean.value[rows, day])[:, None]
        back = begin.of(np.where(known & (mean.value * sign < 0), ratio, -1.0).argmax(1))
        with np.errstate(invalid="ignore"):
            left = mean.value[rows, day] + mean.value[rows, back]
            went = (ratio[rows, back] > largest) & (
                np.abs(left) < np.abs(mean.value[rows, day]) / 2
            )
        end = np.where(went, np.maximum(day, back), ratio.shape[1])
        day = np.where(went, np.minimum(day, back), day)
        # Days that share nights with that day, or have it in their past, are no placebo. There may
        # be other days with a change.
        at = np.arange(ratio.shape[1])
        distant = (at <= day[:, None] - nights) | (at > np.where(went, end, day)[:, None] + BEFORE)
        others = np.minimum(np.where(distant, ratio, np.nan), largest)[:, ::nights].T
        then = Mean(*(array[rows, day] for array in (mean.value, mean.error, mean.df)))
        found = _effects(hosts, nights, then, *_inflation(others, then.df), day, end)
        return Effects(**{**vars(found), "p": np.minimum(found.p * known.sum(1), 1.0)})

    def on_day(self, hosts: Hosts, day: int) -> Effects:
        """The step of hosts that did not move on a day."""
        nights = FRESH
        mean = trimmed(self.calm(nights)[:, hosts.place, day])
        return _effects(hosts, nights, mean, np.ones_like(mean.value), mean.df)


@dataclass(frozen=True)
class _Begin:
    """When steps began: ``night`` and ``value`` (figures, days) are those of one night, and all.

    A step looks about the same on each of the days that have its old level as their past.
    """

    night: Floats
    value: Floats

    def of(self, peak: NDArray[np.intp]) -> NDArray[np.intp]:
        """The first nights of the steps that are largest at ``peak``."""
        day = peak.copy()
        for row, at in enumerate(peak):
            half = self.value[row, at] / 2
            with np.errstate(invalid="ignore"):
                part = self.night[row] * np.sign(half) > abs(half)
            part &= np.isfinite(self.value[row])
            while day[row] > 0 and part[day[row] - 1]:
                day[row] -= 1
        return day


def _inflation(ratios: Floats, df: Floats) -> tuple[Floats, Floats]:
    """By how much errors are larger than the hosts show, and the degrees of freedom then.

    ``ratios`` (placebos, figures) are squares of the placebo's effect over its error. All figures
    together say what is usual. A figure's own placebos are few.
    """
    count = np.isfinite(ratios).sum(0).astype(np.float64)
    squares = np.nansum(ratios, axis=0)
    # The square of a t has this mean.
    expected = df / np.maximum(df - 2, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = squares / expected
        usual = np.nansum(own) / np.nansum(count) if count.any() else 1.0
    factor = (_PRIOR * usual + own) / (_PRIOR + count)
    larger = factor > 1
    return np.sqrt(np.maximum(factor, 1.0)), np.where(larger, np.minimum(df, _PRIOR + count), df)


def _effects(
    hosts: Hosts,
    nights: int,
    mean: Mean,
    inflation: Floats,
    df: Floats,
    day: NDArray[np.intp] | None = None,
    end: NDArray[np.intp] | None = None,
) -> Effects:
    error = mean.error * inflation
    half = error * stdtrit(df, 0.975)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(mean.value / error)
        p = np.where(error > 0, 2 * stdtr(df, -t), np.where(mean.value == 0, 1.0, 0.0))
    p[~np.isfinite(mean.value)] = np.nan
    return Effects(hosts, nights, mean.value, mean.value - half, mean.value + half, p, day, end)
