# SPDX-License-Identifier: Apache-2.0
"""What a report says of a fleet that never was: one kernel is dearer on one CPU model."""

from __future__ import annotations

import datetime

import numpy as np

from kickbench.fleet.judge.found import (
    Cohort,
    Contrast,
    Effect,
    Figure,
    Finding,
    Found,
    Group,
    Host,
    Odd,
    Other,
    Track,
)

MODELS = (
    "AMD EPYC 9654 96-Core Processor",
    "AMD EPYC 7763 64-Core Processor",
    "Intel(R) Xeon(R) Platinum 8480+",
    "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
)
OLD, NEW = "6.12.8-cloud", "6.12.9-cloud"
DAY = datetime.date(2026, 9, 1)
KINDS = (("exits", "quiet_ns_per_exit"), ("kick", "latency_p50_ns"), ("pause_all", "pause_last_ns"))


def days(count: int) -> tuple[str, ...]:
    return tuple(str(DAY + datetime.timedelta(number)) for number in range(count))


def figures(count: int, mark: str = "") -> tuple[Figure, ...]:
    made = []
    for number in range(count):
        kind, metric = KINDS[number * len(KINDS) // count]
        pair = number % 3 == 2
        made.append(
            Figure(
                scenario="smp_windows_like",
                case=f"{kind}-hlt-{1 + number // 3}vcpu-max-any{mark}",
                kind=kind,
                method=("immediate_exit", "sigmask", "sigmask")[number % 3],
                baseline="immediate_exit" if pair else None,
                metric=f"{metric} difference" if pair else metric,
                unit="ns",
                better="lower",
                level=2010.0 + 10 * number,
            )
        )
    return tuple(made)


def host(number: int, last: str, mark: str = "") -> Host:
    facts = {
        "cpu_model": MODELS[number % len(MODELS)] + mark,
        "kernel": NEW if number % 8 < 4 else OLD,
        "microcode": f"0xa10114{number % 4}",
        "mitigations": "spectre_v2: Mitigation: Enhanced IBRS; srso: Safe RET",
        "cmdline": "ro quiet isolcpus=2-5",
    }
    remark = "the clock is 2 hours ahead" if number == 5 else ""
    return Host(
        f"rack{number // 40:02}-box{number % 40:02}{mark}",
        facts,
        90,
        days(1)[0],
        last,
        remark,
    )


def cohort(
    hosts: tuple[Host, ...], model: str, *, moved: bool = True, also: bool = False
) -> Cohort:
    names = tuple(one.name for one in hosts if one.facts["cpu_model"] == model)
    return Cohort(
        where={"cpu_model": model},
        moved=("kernel", NEW) if moved else None,
        before=(OLD, "6.12.7-cloud") if moved else (),
        also=(("microcode", "0xa101148"),) if also else (),
        hosts=names,
        first_day="2026-11-12",
        last_day="2026-11-14",
    )


def effect(figure: int, relative: float, half: float = 0.0016, q: float = 2e-5) -> Effect:
    return Effect(figure, relative, relative - half, relative + half, q / 10, q)


def found(hosts: int = 24, figure_count: int = 12, day_count: int = 60, mark: str = "") -> Found:
    """A fleet with a finding of every verdict, and odd hosts of every kind.

    All names end with the ``mark``.
    """
    models = [model + mark for model in MODELS]
    random = np.random.default_rng(1)
    dates = days(day_count)
    every = figures(figure_count, mark)
    known = tuple(host(number, dates[-1], mark) for number in range(hosts))
    last = figure_count - 1
    off = random.normal(0, 0.004, (hosts, figure_count)).astype(np.float32)
    off[3] += 0.08
    off[min(7, hosts - 1), : figure_count // 2] -= 0.03
    off[random.random(off.shape) < 0.02] = np.nan
    finding = Finding(
        "regression",
        cohort(known, models[0], also=True),
        tuple(effect(figure, 0.021 - 0.001 * figure) for figure in range(min(4, last))),
        (
            Other(cohort(known, models[2]), effect(0, 0.0002), "unchanged"),
            Other(cohort(known, models[0], moved=False), effect(0, -0.0001), "unchanged"),
            Other(cohort(known, models[1]), effect(0, 0.004, 0.02), "unclear"),
        ),
        None,
        f"Since 12 November the time per quiet exit is 2.1 % dearer on all hosts with {models[0]} "
        f"that moved to {NEW}.",
    )
    improved = Finding(
        "improvement",
        cohort(known, models[1], moved=False),
        (effect(last, -0.034),),
        (),
        None,
        "Pauses are 3.4 % cheaper.",
    )
    moved = Finding(
        "moved",
        cohort(known, models[2]),
        (effect(0, 0.012),),
        (),
        effect(1, -0.013),
        "What exits gained, kicks lost.",
    )
    gone = Finding(
        "gone",
        cohort(known, models[3]),
        (effect(2, 0.05),),
        (),
        None,
        "The change went away by itself on 2026-11-20.",
    )
    like = {"cpu_model": models[3], "kernel": NEW}
    odd = (
        Odd(
            known[3].name,
            "level",
            like,
            5,
            tuple(range(figure_count)),
            0.08,
            21.4,
            dates[0],
            f"{known[3].name} is 8 % dearer than its like in all figures.",
        ),
        Odd(
            known[min(7, hosts - 1)].name,
            "step",
            like,
            5,
            (0, 1),
            -0.03,
            7.5,
            dates[-3],
            f"{known[min(7, hosts - 1)].name} became 3 % cheaper, and its like did not.",
        ),
        Odd(
            known[0].name,
            "scatter",
            like,
            5,
            (2,),
            0.01,
            5.1,
            dates[0],
            f"The nights of {known[0].name} differ more than those of its like.",
        ),
    )
    return Found(
        store="s3://bucket/kickbench" + mark,
        days=dates,
        figures=every,
        hosts=known,
        findings=(finding, improved, moved, gone),
        contrasts=(
            Contrast(
                {"cpu_model": models[0]},
                "kernel",
                (NEW, OLD),
                (4, 2),
                (effect(0, -0.0205), effect(1, -0.019)),
                f"With {OLD} exits are 2.1 % cheaper than with {NEW}.",
            ),
        ),
        odd=odd,
        groups=tuple(
            _group(model, model == models[0], known, figure_count, dates, random)
            for model in models
        ),
        map=off,
        answer=(
            f"Exits are 2.1 % dearer on {len(finding.cohort.hosts)} hosts that moved to {NEW}.",
            "Intel hosts did not change.",
            f"{known[3].name} is odd among its like.",
        ),
        notes=("1 run of 2,160 was left out: its file is damaged." + mark,),
        tracks=(_track(known[3].name, dates, random),),
    )


def _track(host: str, dates: tuple[str, ...], random: np.random.Generator) -> Track:
    """Of a host whose first figure got 8 % dearer when it moved, and whose second did not."""
    value = random.normal(0, 0.001, (2, len(dates))).astype(np.float32)
    at = len(dates) * 4 // 5
    value[0, at:] += 0.08
    moves = ((dates[at], "kernel", NEW), (dates[at], "microcode", "0xa101148"))
    return Track(host, (0, 1), value, ((0, dates[at], 0.08),), moves)


def _group(
    model: str,
    dearer: bool,
    hosts: tuple[Host, ...],
    figure_count: int,
    dates: tuple[str, ...],
    random: np.random.Generator,
) -> Group:
    middle = random.normal(0, 0.001, (figure_count, len(dates))).astype(np.float32)
    changes = []
    if dearer:
        at = len(dates) * 4 // 5
        middle[:4, at:] += 0.021
        changes = [(figure, dates[at], 0.021) for figure in range(min(4, figure_count))]
    middle[:, len(dates) // 3 : len(dates) // 3 + 3] = np.nan
    names = tuple(one.name for one in hosts if one.facts["cpu_model"] == model)
    low, high = middle - np.float32(0.004), middle + np.float32(0.005)
    return Group({"cpu_model": model}, names, middle, low, high, tuple(changes))
