# SPDX-License-Identifier: Apache-2.0
"""Tonight against the baseline: which metric got slower, by how much, since when, and how sure.

The model: a night's value is the present level, plus what this night was like (scale τ), plus the
night's own error, which its interval gives. Level and scale are robust estimates from the baseline
nights. The tails come from all metrics together. :mod:`kickbench.nightly.noise` has the null
distributions. A change is called if the nights of a window agree that it is larger than the minimal
effect, at a false discovery rate over all metrics. docs/nightly.md explains each step, with
figures.

One night alone never decides, because it may be an outlier of any size. It makes a suspect. The
exception is an exact metric, such as the counts of a deterministic emulator: any difference of it
is real.

Arrays in, words and numbers out: no file, no clock, no configuration file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kickbench.nightly import noise
from kickbench.nightly.baseline import Metric
from kickbench.nightly.common import groups
from kickbench.nightly.envelope import Change, change
from kickbench.nightly.evidence import WEIGHTS, Evidence, Rows, adjust, combine, weigh
from kickbench.nightly.judgement import Decision, Judgement, Verdict
from kickbench.nightly.noise import LONG, Floats
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Nights, Trend
from kickbench.numbers import significant

SUSPECT_RATE = 0.05
"""False discovery rate of suspects: single nights that raise no alarm, and can be run again."""


def decide(
    trends: Sequence[Trend], nights: Nights, settings: Settings, lost: Sequence[str] = ()
) -> Decision:
    """Judge the last of ``nights`` on every metric. A judgement says so if the history is short."""
    tonight = len(nights) - 1
    pinned = nights.run_id.index(settings.pinned) if settings.pinned in nights.run_id else None
    # A value may be of any size. An overflow makes it infinitely far off, or NaN.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        shared = groups(trends, tonight)
        used = list(trends)
        for group in shared:
            for place, relative in zip(group.members, group.relative, strict=True):
                used[place] = relative
        metrics = [Metric(trend, tonight, pinned, settings) for trend in used]
        judged = [m for m in metrics if m.verdict is None]
        decided, tail_df = _decide(judged, settings) if judged else ({}, np.nan)
        found = [decided.get(id(m)) or m.settled() for m in metrics]
        for group in shared:
            if changed := change(Metric(group.common, tonight, pinned, settings)):
                for place in group.members:
                    found[place] = _with_common(found[place], metrics[place], changed)
    return Decision(tuple(found), tuple(lost), tail_df)


def _with_common(found: Judgement, metric: Metric, all_cases: Change) -> Judgement:
    """The judgement of a case that shows nothing of its own, while all cases changed."""
    if found.verdict != "no change":
        return found
    slower = all_cases.relative > 0
    of = metric.unit * metric.sign
    low, high = sorted((all_cases.low * of, all_cases.high * of))
    return replace(
        found,
        verdict="regression" if slower else "improvement",
        reason=(
            f"all cases are {'slower' if slower else 'faster'} by "
            f"{significant(100 * abs(all_cases.relative), 2)} %: the kernel, the host or its speed "
            "changed"
        ),
        effect=all_cases.relative * of,
        relative=all_cases.relative * metric.sign,
        low=low,
        high=high,
        p=all_cases.p,
        q=all_cases.p,
        since=all_cases.since,
        nights=all_cases.nights,
        baseline_nights=all_cases.baseline_nights,
        drift=all_cases.drift,
        suspect=False,
        common=True,
    )


def _decide(metrics: list[Metric], settings: Settings) -> tuple[dict[int, Judgement], float]:
    weighed = [m for m in metrics if m.exact_value is None]
    decided = {id(m): m.judge_exactly() for m in metrics if m.exact_value is not None}
    if not weighed:
        return decided, np.nan
    minimal = np.array([m.minimal for m in weighed])
    rows = {k: _rows(weighed, k) for k in {1, *settings.windows}} | {LONG: _drift_rows(weighed)}
    df = float(noise.tails(rows[settings.windows[0]].residuals()[None])[0])
    tails = np.full(len(weighed), df)
    found = {k: weigh(row, minimal, tails) for k, row in rows.items()}
    tried = (*settings.windows, LONG)
    worse = combine({k: found[k].p_worse for k in tried})
    better = combine({k: found[k].p_better for k in tried})
    q_worse, q_better = adjust(worse), adjust(better)
    suspect = adjust(found[1].p_worse) <= SUSPECT_RATE
    for i, metric in enumerate(weighed):
        upwards = worse[i] <= better[i]
        p, q = (worse[i], q_worse[i]) if upwards else (better[i], q_better[i])
        called = q <= settings.false_discovery_rate
        by_window = {
            k: (found[k].p_worse if upwards else found[k].p_better)[i] / WEIGHTS[k] for k in tried
        }
        available = [k for k in tried if np.isfinite(by_window[k])]
        # Show the window that decided. Show the long one only if the latest nights alone did not
        # decide. Without a change, show the largest of the others.
        latest = [k for k in available if k != LONG]
        k = max(latest)
        back = metric.open and any(found[k].back[i] for k in available)
        if called:
            k = min(latest, key=lambda k: by_window[k])
            limit = (worse[q_worse <= q] if upwards else better[q_better <= q]).max()
            limit = max(limit, settings.false_discovery_rate / len(weighed))
            if by_window[k] > limit:
                k = min(available, key=lambda k: by_window[k])
            slow = found[LONG]
            if by_window[LONG] <= limit and metric.crept(
                float(slow.level[i]), float(slow.effect[i]), float(slow.scale[i])
            ):
                k = LONG
        elif suspect[i] or back:
            k = 1  # it is about tonight alone
        decided[id(metric)] = _judgement(
            metric,
            found[k],
            i,
            k,
            rows[k],
            verdict=("regression" if upwards else "improvement") if called else "no change",
            p=float(p),
            q=float(q),
            suspect=bool(suspect[i]) and not (called and upwards),
            back=back,
        )
        if not metric.witness:
            decided[id(metric)] = metric.without_witness(decided[id(metric)])
    return decided, df


def _judgement(
    metric: Metric,
    found: Evidence,
    i: int,
    k: int,
    rows: Rows,
    *,
    verdict: Verdict,
    p: float,
    q: float,
    suspect: bool,
    back: bool,
) -> Judgement:
    effect, level, sign = float(found.effect[i]), float(found.level[i]), metric.sign
    ends = sorted((float(found.low[i]) * sign, float(found.high[i]) * sign))
    tau = float(np.sqrt(max(found.scale[i] ** 2 - found.within[i] ** 2, 0.0)))
    drift = k == LONG
    if verdict == "no change":
        since = None
        reason = "no larger than differences without a change, or than the minimal effect"
        if back:
            reason = "back to where it was before the last alarm"
        if suspect:
            reason = "far off tonight, but a single night may be an outlier: the next night decides"
    else:
        since = int(metric.night[metric.since(level, effect)])
        reason = f"{k} nights agree" if k > 1 else "tonight"
        if drift:
            reason = f"the last {k} nights against the first ones of the present normal"
    return Judgement(
        metric.trend.key,
        verdict,
        reason,
        effect=effect * sign,
        relative=effect * sign / metric.unit if metric.unit else np.nan,
        low=ends[0],
        high=ends[1],
        p=p,
        q=q,
        since=since,
        nights=tuple(int(n) for n in metric.night[-k:]),
        baseline=level * sign,
        baseline_nights=int(np.isfinite(rows.level[i]).sum()),
        tau=tau,
        drift=drift,
        suspect=suspect,
    )


def _rows(metrics: list[Metric], k: int) -> Rows:
    """The last ``k`` nights of each metric against the nights before."""
    chosen = []
    for m in metrics:
        end = len(m.night) - k
        level, scatter = (m.level(end), m.scatter(end)) if end > 0 else (_NONE, _NONE)
        chosen.append((level, scatter) if m.possible(end, level, scatter) else None)
    return _gather(metrics, chosen, k)


def _drift_rows(metrics: list[Metric]) -> Rows:
    """The last LONG nights of each metric against the first of the present normal."""
    chosen = []
    for m in metrics:
        end = len(m.night) - LONG
        level = m.anchor(end) if end > 0 else _NONE
        scatter = level if m.pinned is None else m.scatter(end)
        chosen.append((level, scatter) if m.possible(end, level, scatter) else None)
    return _gather(metrics, chosen, LONG)


_NONE: NDArray[np.intp] = np.empty(0, np.intp)


def _gather(
    metrics: list[Metric],
    chosen: list[tuple[NDArray[np.intp], NDArray[np.intp]] | None],
    k: int,
) -> Rows:
    width = metrics[0].settings.baseline_nights
    shape = (len(metrics), width)
    rows = Rows(
        level=np.full(shape, np.nan),
        scatter=np.full(shape, np.nan),
        errors=np.zeros(shape),
        window=np.full((len(metrics), k), np.nan),
        window_errors=np.zeros((len(metrics), k)),
        recent=np.full((len(metrics), noise.RECENT), np.nan),
        same=np.ones(len(metrics), np.bool_),
    )
    for i, (m, nights) in enumerate(zip(metrics, chosen, strict=True)):
        if nights is None:
            continue
        level, scatter = nights
        rows.level[i, : len(level)] = m.value[level]
        rows.scatter[i, : len(scatter)] = m.value[scatter]
        rows.errors[i, : len(scatter)] = m.error[scatter]
        rows.window[i] = m.value[-k:]
        rows.window_errors[i] = m.error[-k:]
        rows.recent[i] = _last(m.value[m.normal], noise.RECENT)
        rows.same[i] = np.array_equal(level, scatter)
    return rows


def _last(values: Floats, n: int) -> Floats:
    """The last ``n`` values, after NaN where there are fewer."""
    return np.concatenate([np.full(max(0, n - len(values)), np.nan), values[-n:]])
