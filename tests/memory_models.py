# SPDX-License-Identifier: Apache-2.0
"""Memory models: which accesses of a thread may reach memory before earlier ones have.

A model is one question: must ``later`` wait for ``earlier``, which comes before it in the program
and has not been performed yet? All models here are multi-copy atomic: there is one memory, and an
access that is performed is performed for all CPUs at once. A load sees the stores of its own CPU
that have not been performed yet. So a run is any order in which accesses are performed that breaks
no ``ordered``. ``protocol_model`` explores the kick protocols in this way, and ``outcomes`` the
litmus tests by which ``test_memory_models`` compares the models with what is published.

- ``SC``: sequential consistency. Each access waits for all earlier ones.
- ``TSO``: x86 (Owens, Sarkar and Sewell, TPHOLs 2009). Only a load may overtake, and only stores.
- ``ARM``: Armv8 (Arm ARM DDI 0487, B2.3; Deacon's aarch64.cat; Pulte, Flur, Deacon, French, Sarkar
  and Sewell, Simplifying ARM Concurrency, POPL 2018). Accesses wait only for reasons that the
  program gives. Below are the clauses of *ordered-before* in the paper: dob, aob and bob.

``ARM`` orders no more than the architecture does, with one exception: two loads of one place are
performed in order, although they may swap if both read the same store (the test RSW). That can be
seen only by an address dependency into the first of the two, which no protocol has. ISB is left
out, and so are the stores after an address (addr; po; [W]): both would only order more.

An atomic instruction is a pair of exclusives here (LDAXR, STLXR), the weaker of its two forms. The
other one (SWPAL, of LSE) also orders all that comes after it, if it acquires and releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What an access does."""

    LOAD = "load"
    STORE = "store"
    FENCE = "full fence"  # mfence, dmb ish: after all before, before all after
    FENCE_LOADS = "fence after loads"  # dmb ishld
    FENCE_STORES = "fence between stores"  # dmb ishst

    __hash__ = object.__hash__  # protocol_model hashes millions


class Access(NamedTuple):
    """One access, or a fence.

    ``value`` is what a store writes. A load of a litmus test puts what it reads into ``register``.
    ``needs`` and ``control`` are registers on which the access depends: by its address or value, or
    by a branch before it. ``atomic`` are the halves of one read-modify-write.
    """

    kind: Kind
    place: str = ""
    value: int = 0
    acquire: bool = False
    weakly: bool = False  # acquires as LDAPR does: a release before it may be performed later
    release: bool = False
    atomic: bool = False
    register: str = ""
    needs: tuple[str, ...] = ()
    control: tuple[str, ...] = ()


Window = tuple[Access, ...]  # what a CPU has not performed yet, in program order


@dataclass(frozen=True)
class Model:
    """``ordered`` is about two accesses of different places. ``lags`` says which accesses may be
    performed after a later one, so that they need a place in the window."""

    name: str
    ordered: Callable[[Access, Access], bool]
    lags: Callable[[Access], bool]

    def ready(self, window: Window, access: Access) -> bool:
        """May the access be performed while those of the window, which come before it, are not?"""
        if any(self.ordered(earlier, access) for earlier in window):
            return False
        if not access.place or all(earlier.place != access.place for earlier in window):
            return True
        store = self.forwarded(window, access)
        if store is None:
            return False
        return not any(earlier.register in store.needs for earlier in window if earlier.register)

    def forwarded(self, window: Window, load: Access) -> Access | None:
        """The CPU's own store that the load reads before it is performed."""
        for earlier in reversed(window):
            if earlier.place == load.place:
                own = earlier.kind is Kind.STORE and load.kind is Kind.LOAD and not load.atomic
                return earlier if own else None
        return None


def _sc(_earlier: Access, _later: Access) -> bool:
    return True


_LIGHT = (Kind.FENCE_LOADS, Kind.FENCE_STORES)


def _tso(earlier: Access, later: Access) -> bool:
    if earlier.kind in _LIGHT or later.kind in _LIGHT:
        return False  # only the compiler's: x86 keeps these orders anyway
    overtakes = earlier.kind is Kind.STORE and later.kind is Kind.LOAD
    return not overtakes or earlier.atomic or later.atomic


def _arm(earlier: Access, later: Access) -> bool:
    loads, stores = earlier.kind is Kind.LOAD, later.kind is Kind.STORE
    return (
        # bob: fences. [R]; po; [dmb.ld]; po and [W]; po; [dmb.st]; po; [W].
        Kind.FENCE in (earlier.kind, later.kind)
        or earlier.kind is Kind.FENCE_LOADS
        or (later.kind is Kind.FENCE_LOADS and loads)
        or (earlier.kind is Kind.FENCE_STORES and stores)
        or (later.kind is Kind.FENCE_STORES and earlier.kind is Kind.STORE)
        # bob: [A | Q]; po. po; [L]. [L]; po; [A].
        or earlier.acquire
        or later.release
        or (earlier.release and later.acquire and not later.weakly)
        # dob: addr | data, and ctrl; [W].
        or (loads and earlier.register in later.needs)
        or (loads and stores and earlier.register in later.control)
        # aob: [range(rmw)]; rfi; [A | Q]: such a load does not read the store before memory has it.
        or (earlier.atomic and not loads and later.acquire and earlier.place == later.place)
    )


SC = Model("sequential consistency", _sc, lags=lambda _access: False)
TSO = Model("x86-TSO", _tso, lags=lambda access: access.kind is Kind.STORE and not access.atomic)
ARM = Model(
    "Armv8",
    _arm,
    lags=lambda access: access.kind in (Kind.LOAD, Kind.STORE) and not access.acquire,
)


# -- Litmus tests ----------------------------------------------------------------------------------

Outcome = frozenset[tuple[str, int]]  # of each register and place, its last value


class _State(NamedTuple):
    values: Outcome
    windows: tuple[Window, ...]
    held: tuple[tuple[str, int], ...]  # places, and the threads between a load and its atomic store


def outcomes(model: Model, threads: Iterable[Window]) -> set[Outcome]:
    """All ends of straight-line programs that run beside each other, from memory of zeros."""
    programs = tuple(threads)
    places = {access.place for window in programs for access in window if access.place}
    todo = [_State(frozenset((place, 0) for place in places), programs, ())]
    seen = set(todo)
    for state in todo:  # grows
        for after in _performed(model, state):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return {state.values for state in seen if not any(state.windows)}


def _performed(model: Model, state: _State) -> Iterator[_State]:
    values, held = dict(state.values), dict(state.held)
    for thread, window in enumerate(state.windows):
        for index, access in enumerate(window):
            before = window[:index]
            others = held.get(access.place, thread) != thread
            writes = access.kind is Kind.STORE or access.atomic
            if not model.ready(before, access) or (others and writes):
                continue
            after, holds = dict(values), dict(held)
            if access.kind is Kind.LOAD:
                store = model.forwarded(before, access)
                after[access.register] = store.value if store else values[access.place]
                if access.atomic:
                    holds[access.place] = thread
            elif access.kind is Kind.STORE:
                after[access.place] = access.value
                holds.pop(access.place, None)
            windows = list(state.windows)
            windows[thread] = before + window[index + 1 :]
            yield _State(frozenset(after.items()), tuple(windows), tuple(sorted(holds.items())))
