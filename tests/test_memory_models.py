# SPDX-License-Identifier: Apache-2.0
"""The memory models against litmus tests.

Names and shapes are those of Maranget, Sarkar and Sewell, A Tutorial Introduction to the ARM and
POWER Relaxed Memory Models (2012). The verdicts for Armv8 are those of Pulte et al., Simplifying
ARM Concurrency (POPL 2018), and of the Arm ARM (DDI 0487, B2.3, and its appendix Barrier Litmus
Tests). Those for x86 are of Owens et al. (TPHOLs 2009). Shapes of the protocols are beside them. If
herd7 (herdtools7) is installed, it judges all of them by its own model of Armv8, aarch64.cat, which
Arm maintains.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random

import pytest
from memory_models import ARM, SC, TSO, Access, Kind, Model, Window, outcomes

FENCE = Access(Kind.FENCE)
FENCE_LOADS = Access(Kind.FENCE_LOADS)
FENCE_STORES = Access(Kind.FENCE_STORES)


def load(
    register: str,
    place: str,
    *,
    acquire: bool = False,
    weakly: bool = False,
    needs: tuple[str, ...] = (),
) -> Access:
    return Access(Kind.LOAD, place, acquire=acquire, weakly=weakly, register=register, needs=needs)


def store(
    place: str,
    value: int,
    *,
    release: bool = False,
    needs: tuple[str, ...] = (),
    control: tuple[str, ...] = (),
) -> Access:
    return Access(Kind.STORE, place, value, release=release, needs=needs, control=control)


def exchange(
    register: str, place: str, value: int, *, acquire: bool = False, release: bool = False
) -> Window:
    """LDXR and STXR, or with A and L."""
    return (
        Access(Kind.LOAD, place, acquire=acquire, atomic=True, register=register),
        Access(Kind.STORE, place, value, release=release, atomic=True),
    )


@dataclass(frozen=True)
class Litmus:
    """Can the threads end like this? ``end`` names registers and places."""

    name: str
    threads: tuple[Window, ...]
    end: dict[str, int]
    tso: bool
    arm: bool


MP = {"r0": 1, "r1": 0}  # the message has come, its content has not
SB = {"r0": 0, "r1": 0}
LB = {"r0": 1, "r1": 1}
R = {"y": 2, "r0": 0}
WRITES_MP = (store("x", 1), FENCE, store("y", 1))
WRITES_MP_BARE = (store("x", 1), store("y", 1))
READS_MP = (load("r0", "y"), load("r1", "x"))
READS_BY_ADDRESS = (load("r0", "y"), load("r1", "x", needs=("r0",)))


def mp(name: str, writes: Window, reads: Window, *, arm: bool) -> Litmus:
    return Litmus(f"MP{name}", (writes, reads), MP, tso=False, arm=arm)


def sb(name: str, one: Window, two: Window, *, tso: bool, arm: bool) -> Litmus:
    return Litmus(f"SB{name}", (one, two), SB, tso=tso, arm=arm)


def lb(name: str, one: Window, two: Window, *, arm: bool) -> Litmus:
    return Litmus(f"LB{name}", (one, two), LB, tso=False, arm=arm)


def r(name: str, writes: Window, reads: Window, *, tso: bool, arm: bool) -> Litmus:
    return Litmus(f"R{name}", (writes, reads), R, tso=tso, arm=arm)


LITMUS = [
    # Message passing.
    mp("", WRITES_MP_BARE, READS_MP, arm=True),
    mp("+dmb+po", WRITES_MP, READS_MP, arm=True),
    mp("+po+addr", WRITES_MP_BARE, READS_BY_ADDRESS, arm=True),
    mp("+dmbs", WRITES_MP, (load("r0", "y"), FENCE, load("r1", "x")), arm=False),
    mp(
        "+dmb.st+dmb.ld",
        (store("x", 1), FENCE_STORES, store("y", 1)),
        (load("r0", "y"), FENCE_LOADS, load("r1", "x")),
        arm=False,
    ),
    mp(
        "+dmb.ld+dmb.ld",
        (store("x", 1), FENCE_LOADS, store("y", 1)),
        (load("r0", "y"), FENCE_LOADS, load("r1", "x")),
        arm=True,
    ),
    mp("+dmb+dmb.st", WRITES_MP, (load("r0", "y"), FENCE_STORES, load("r1", "x")), arm=True),
    mp("+dmb+addr", WRITES_MP, READS_BY_ADDRESS, arm=False),
    mp(
        "+rel+acq",
        (store("x", 1), store("y", 1, release=True)),
        (load("r0", "y", acquire=True), load("r1", "x")),
        arm=False,
    ),
    mp(
        "+rel+acqpc",
        (store("x", 1), store("y", 1, release=True)),
        (load("r0", "y", acquire=True, weakly=True), load("r1", "x")),
        arm=False,
    ),
    mp(
        "+rel-first+acq",  # a release keeps nothing behind it
        (store("x", 1, release=True), store("y", 1)),
        (load("r0", "y", acquire=True), load("r1", "x")),
        arm=True,
    ),
    # What kb_request_kick and a later store are: the flag is x.
    Litmus(
        "MP+rmw.rel+acq",
        (
            (*exchange("r2", "x", 1, release=True), store("y", 1)),
            (load("r0", "y", acquire=True), load("r1", "x")),
        ),
        {**MP, "r2": 0},
        tso=False,
        arm=True,
    ),
    Litmus(
        "MP+rmw.rel-dmb+acq",
        (
            (*exchange("r2", "x", 1, release=True), FENCE, store("y", 1)),
            (load("r0", "y", acquire=True), load("r1", "x")),
        ),
        {**MP, "r2": 0},
        tso=False,
        arm=False,
    ),
    # A branch does not hold back loads; a value or an address does, and forwarding passes it on.
    Litmus(
        "PPOCA",
        (
            WRITES_MP,
            (
                load("r0", "y"),
                store("z", 1, control=("r0",)),
                load("r2", "z"),
                load("r1", "x", needs=("r2",)),
            ),
        ),
        {**MP, "r2": 1},
        tso=False,
        arm=True,
    ),
    Litmus(
        "PPOAA",
        (
            WRITES_MP,
            (
                load("r0", "y"),
                store("z", 1, needs=("r0",)),
                load("r2", "z"),
                load("r1", "x", needs=("r2",)),
            ),
        ),
        {**MP, "r2": 1},
        tso=False,
        arm=False,
    ),
    # Store buffering.
    sb("", (store("x", 1), load("r0", "y")), (store("y", 1), load("r1", "x")), tso=True, arm=True),
    sb(
        "+dmbs",
        (store("x", 1), FENCE, load("r0", "y")),
        (store("y", 1), FENCE, load("r1", "x")),
        tso=False,
        arm=False,
    ),
    sb(
        "+dmb+po",
        (store("x", 1), FENCE, load("r0", "y")),
        (store("y", 1), load("r1", "x")),
        tso=True,
        arm=True,
    ),
    sb(  # STLR and LDAR are sequentially consistent among themselves ...
        "+rel-acqs",
        (store("x", 1, release=True), load("r0", "y", acquire=True)),
        (store("y", 1, release=True), load("r1", "x", acquire=True)),
        tso=True,
        arm=False,
    ),
    sb(  # ... and STLR and LDAPR are not
        "+rel-acqpcs",
        (store("x", 1, release=True), load("r0", "y", acquire=True, weakly=True)),
        (store("y", 1, release=True), load("r1", "x", acquire=True, weakly=True)),
        tso=True,
        arm=True,
    ),
    Litmus(  # LDAXR and STLXR are no full fence
        "SB+rmw.acq.rels",
        (
            (*exchange("r2", "x", 1, acquire=True, release=True), load("r0", "y")),
            (*exchange("r3", "y", 1, acquire=True, release=True), load("r1", "x")),
        ),
        {**SB, "r2": 0, "r3": 0},
        tso=False,
        arm=True,
    ),
    # Load buffering.
    lb("", (load("r0", "y"), store("x", 1)), (load("r1", "x"), store("y", 1)), arm=True),
    lb(
        "+datas",
        (load("r0", "y"), store("x", 1, needs=("r0",))),
        (load("r1", "x"), store("y", 1, needs=("r1",))),
        arm=False,
    ),
    lb(
        "+ctrls",
        (load("r0", "y"), store("x", 1, control=("r0",))),
        (load("r1", "x"), store("y", 1, control=("r1",))),
        arm=False,
    ),
    lb(
        "+acq+po",
        (load("r0", "y", acquire=True), store("x", 1)),
        (load("r1", "x"), store("y", 1)),
        arm=True,
    ),
    lb(
        "+acq+rel",
        (load("r0", "y", acquire=True), store("x", 1)),
        (load("r1", "x"), store("y", 1, release=True)),
        arm=False,
    ),
    # R: what immediate_exit_remote is. x is the flag, y the byte: 1 by the kicker, 2 is the clear.
    r("", WRITES_MP_BARE, (store("y", 2), load("r0", "x")), tso=True, arm=True),
    r("+dmb+po", WRITES_MP, (store("y", 2), load("r0", "x")), tso=True, arm=True),
    r("+po+dmb", WRITES_MP_BARE, (store("y", 2), FENCE, load("r0", "x")), tso=False, arm=True),
    r("+dmbs", WRITES_MP, (store("y", 2), FENCE, load("r0", "x")), tso=False, arm=False),
    r(
        "+dmb.st+dmb",
        (store("x", 1), FENCE_STORES, store("y", 1)),
        (store("y", 2), FENCE, load("r0", "x")),
        tso=False,
        arm=False,
    ),
    r(
        "+dmb+acq",
        WRITES_MP,
        (store("y", 2), load("r0", "x", acquire=True)),
        tso=True,
        arm=True,
    ),
    # S and 2+2W.
    Litmus(
        "S+dmb+po",
        ((store("x", 2), FENCE, store("y", 1)), (load("r0", "y"), store("x", 1))),
        {"r0": 1, "x": 2},
        tso=False,
        arm=True,
    ),
    Litmus(
        "S+dmb+data",
        ((store("x", 2), FENCE, store("y", 1)), (load("r0", "y"), store("x", 1, needs=("r0",)))),
        {"r0": 1, "x": 2},
        tso=False,
        arm=False,
    ),
    Litmus(
        "2+2W",
        ((store("x", 1), store("y", 2)), (store("y", 1), store("x", 2))),
        {"x": 1, "y": 1},
        tso=False,
        arm=True,
    ),
    Litmus(
        "2+2W+dmb.sts",
        (
            (store("x", 1), FENCE_STORES, store("y", 2)),
            (store("y", 1), FENCE_STORES, store("x", 2)),
        ),
        {"x": 1, "y": 1},
        tso=False,
        arm=False,
    ),
    # Multi-copy atomicity.
    Litmus(
        "WRC",
        ((store("x", 1),), (load("r0", "x"), store("y", 1)), (load("r1", "y"), load("r2", "x"))),
        {"r0": 1, "r1": 1, "r2": 0},
        tso=False,
        arm=True,
    ),
    Litmus(
        "WRC+data+addr",
        (
            (store("x", 1),),
            (load("r0", "x"), store("y", 1, needs=("r0",))),
            (load("r1", "y"), load("r2", "x", needs=("r1",))),
        ),
        {"r0": 1, "r1": 1, "r2": 0},
        tso=False,
        arm=False,
    ),
    Litmus(
        "IRIW",
        (
            (store("x", 1),),
            (store("y", 1),),
            (load("r0", "x"), load("r1", "y")),
            (load("r2", "y"), load("r3", "x")),
        ),
        {"r0": 1, "r1": 0, "r2": 1, "r3": 0},
        tso=False,
        arm=True,
    ),
    Litmus(
        "IRIW+addrs",
        (
            (store("x", 1),),
            (store("y", 1),),
            (load("r0", "x"), load("r1", "y", needs=("r0",))),
            (load("r2", "y"), load("r3", "x", needs=("r2",))),
        ),
        {"r0": 1, "r1": 0, "r2": 1, "r3": 0},
        tso=False,
        arm=False,
    ),
    # One place.
    Litmus(
        "CoRR",
        ((store("x", 1),), (load("r0", "x"), load("r1", "x"))),
        {"r0": 1, "r1": 0},
        tso=False,
        arm=False,
    ),
    Litmus("CoWW", ((store("x", 1), store("x", 2)),), {"x": 1}, tso=False, arm=False),
    Litmus("CoRW", ((load("r0", "x"), store("x", 1)),), {"r0": 1}, tso=False, arm=False),
    Litmus("CoWR", ((store("x", 1), load("r0", "x")),), {"r0": 0}, tso=False, arm=False),
    Litmus(
        "two exchanges",
        (exchange("r0", "x", 1), exchange("r1", "x", 2)),
        {"r0": 0, "r1": 0},
        tso=False,
        arm=False,
    ),
    # An exchange that releases, and what it says to a thread whose atomic store follows: the
    # cleared byte is x, the flag y. The kicker sets the flag, then the byte (2).
    Litmus(
        "clear+rmw.rel",
        (
            (store("x", 1), *exchange("r0", "y", 1, acquire=True, release=True)),
            (*exchange("r1", "y", 2, release=True), FENCE, store("x", 2)),
        ),
        {"r0": 0, "r1": 1, "x": 1},
        tso=False,
        arm=False,
    ),
    Litmus(
        "clear+rmw",
        (
            (store("x", 1), *exchange("r0", "y", 1, acquire=True)),
            (*exchange("r1", "y", 2, release=True), FENCE, store("x", 2)),
        ),
        {"r0": 0, "r1": 1, "x": 1},
        tso=False,
        arm=True,
    ),
]
BY_NAME = pytest.mark.parametrize("litmus", LITMUS, ids=lambda litmus: litmus.name)


@BY_NAME
@pytest.mark.parametrize("model", [SC, TSO, ARM], ids=lambda model: model.name)
def test_a_model_allows_what_is_published(model: Model, litmus: Litmus) -> None:
    expected = {SC: False, TSO: litmus.tso, ARM: litmus.arm}[model]
    wanted = set(litmus.end.items())
    assert any(wanted <= end for end in outcomes(model, litmus.threads)) == expected


@BY_NAME
def test_a_stronger_model_allows_no_more(litmus: Litmus) -> None:
    sc, tso, arm = (outcomes(model, litmus.threads) for model in (SC, TSO, ARM))
    assert sc
    assert sc <= tso
    if "rel-acqs" not in litmus.name:  # x86 has no STLR: its release is a plain store
        assert tso <= arm


# -- herd7 -----------------------------------------------------------------------------------------

STATUS = 20  # W20 and those after it: whether each STXR of a thread failed
DMB = {Kind.FENCE: "DMB ISH", Kind.FENCE_LOADS: "DMB ISHLD", Kind.FENCE_STORES: "DMB ISHST"}


def assembled(thread: int, window: Window, addresses: dict[str, str]) -> list[str]:
    """The instructions of one thread. Register r3 is W3; W28 and W29 are for values."""
    lines = []
    for number, access in enumerate(window):
        if access.kind in DMB:
            lines.append(DMB[access.kind])
            continue
        label = f"L{thread}{number}"
        lines += [f"CBNZ W{register[1:]},{label}" for register in access.control]
        lines += [f"{label}:"] if access.control else []
        lines += [f"EOR W28,W{register[1:]},W{register[1:]}" for register in access.needs]
        at = f"[{addresses[access.place]}]"
        if access.kind is Kind.LOAD:
            plain = "LDAPR" if access.weakly else "LDAR" if access.acquire else "LDR"
            exclusive = "LDAXR" if access.acquire else "LDXR"
            if access.needs:
                at = f"[{addresses[access.place]},W28,SXTW]"
            lines.append(f"{exclusive if access.atomic else plain} W{access.register[1:]},{at}")
            continue
        lines.append(f"ADD W29,W28,#{access.value}" if access.needs else f"MOV W29,#{access.value}")
        if access.atomic:
            status = f"W{STATUS + sum(a.atomic for a in window[:number]) // 2}"
            lines.append(f"{'STLXR' if access.release else 'STXR'} {status},W29,{at}")
        else:
            lines.append(f"{'STLR' if access.release else 'STR'} W29,{at}")
    return lines


def as_herd_reads_it(litmus: Litmus) -> str:
    places = sorted({a.place for window in litmus.threads for a in window if a.place})
    addresses = {place: f"X{10 + number}" for number, place in enumerate(places)}
    columns = [assembled(t, window, addresses) for t, window in enumerate(litmus.threads)]
    init, wanted = [], []
    for thread, window in enumerate(litmus.threads):
        init += [f"{thread}:{addresses[place]}={place};" for place in places]
        wanted += [
            f"{thread}:X{access.register[1:]}={litmus.end[access.register]}"
            for access in window
            if access.register
        ]
        exchanges = sum(access.atomic for access in window) // 2
        wanted += [f"{thread}:X{STATUS + number}=0" for number in range(exchanges)]
    wanted += [f"{place}={litmus.end[place]}" for place in places if place in litmus.end]
    heads = [[f"P{thread}", *column] for thread, column in enumerate(columns)]
    rows = zip_longest(*heads, fillvalue="")
    table = "\n".join(f" {' | '.join(row)} ;" for row in rows)
    end = " /\\ ".join(wanted)
    return f"AArch64 test\n{{\n{' '.join(init)}\n}}\n{table}\nexists ({end})\n"


def ends_that_herd_saw(output: str) -> Iterator[frozenset[tuple[str, int]]]:
    """All ends in which each STXR succeeded."""
    for line in re.findall(r"^\S+=\d+;.*$", output, re.MULTILINE):
        end = {name: int(value) for name, value in re.findall(r"\[?([\w:]+)\]?=(\d+);", line)}
        status = [end.pop(name) for name in list(end) if re.search(r":X2\d", name)]
        if not any(status):
            yield frozenset((re.sub(r"\d+:X", "r", name), value) for name, value in end.items())


def judged_by_herd(litmus: Litmus, folder: Path) -> tuple[bool, set[frozenset[tuple[str, int]]]]:
    """Whether the end is allowed, and all ends."""
    herd = shutil.which("herd7")
    if herd is None:
        pytest.skip("herd7 is not installed (opam install herdtools7)")
    file = folder / "test.litmus"
    file.write_text(as_herd_reads_it(litmus), encoding="utf-8")
    done = subprocess.run(
        [herd, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    found = re.search(r"^Observation test (Never|Sometimes|Always)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return found[1] != "Never", set(ends_that_herd_saw(done.stdout))


def all_ends(litmus: Litmus) -> set[frozenset[tuple[str, int]]]:
    ends = map(dict, outcomes(ARM, litmus.threads))
    return {frozenset((name, end[name]) for name in litmus.end) for end in ends}


@BY_NAME
def test_herd7_agrees(litmus: Litmus, tmp_path: Path) -> None:
    assert judged_by_herd(litmus, tmp_path) == (litmus.arm, all_ends(litmus))


def random_thread(random: Random, registers: Iterator[str]) -> Window:
    """Some accesses of two places, the later of which may depend on loads before them."""
    window: list[Access] = []
    for _ in range(random.randint(2, 3)):
        place, strong = random.choice("xy"), random.random() < 0.4
        value, loaded = random.randint(1, 2), [a.register for a in window if a.register]
        needs = (random.choice(loaded),) if loaded and random.random() < 0.4 else ()
        what = random.choice(["load", "load", "store", "store", "control", "fence", "exchange"])
        if what == "load":
            weakly = strong and random.random() < 0.5
            plain = load(next(registers), place, needs=needs)
            window.append(plain if needs else plain._replace(acquire=strong, weakly=weakly))
        elif what == "store":
            plain = store(place, value, needs=needs)
            window.append(plain if needs else plain._replace(release=strong))
        elif what == "control":
            window.append(store(place, value, control=needs))
        elif what == "fence":
            window.append(random.choice([FENCE, FENCE_LOADS, FENCE_STORES]))
        else:
            acquire, release = random.random() < 0.5, random.random() < 0.5
            window += exchange(next(registers), place, value, acquire=acquire, release=release)
    return tuple(window)


@pytest.mark.parametrize("seed", range(40))
def test_the_model_allows_all_that_herd7_allows(seed: int, tmp_path: Path) -> None:
    """Of any program. It may allow more: addr; po; [W] is left out."""
    random, registers = Random(seed), (f"r{number}" for number in range(10))
    threads = tuple(random_thread(random, registers) for _ in range(2))
    used = {name for window in threads for access in window for name in (access.register,) if name}
    places = {access.place for window in threads for access in window if access.place}
    litmus = Litmus("random", threads, dict.fromkeys(sorted(used | places), 1), tso=True, arm=True)
    assert judged_by_herd(litmus, tmp_path)[1] <= all_ends(litmus)
