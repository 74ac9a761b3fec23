# SPDX-License-Identifier: Apache-2.0
"""What recorders make of a round, compared with what numpy makes of the same records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arrays import as_array, dtype_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.engine.engine import LANDED, LOST, MET, quantile_levels, structure
from kickbench.records import Collected, Records
from kickbench.run import kinds
from kickbench.run.kinds import Round, by_block, medians
from kickbench.run.placement import LOOKS, _spread
from kickbench.run.schedule import interpolated, places
from kickbench.scenario.kinds import FIGURES, LATENCY_BINS
from kickbench.stats.quiet import QUIET_LEVELS

PAGE = 4096


def records(name: str, array: np.ndarray) -> Records:
    return Records(structure(name), array.tobytes())


def round_of(
    rng: np.random.Generator, n_blocks: int, n_vcpus: int, **engine: Any
) -> tuple[Round, np.ndarray]:
    """A round with made-up results, and these as numpy's array (blocks, vCPUs)."""
    results = np.zeros((n_blocks, n_vcpus), dtype_of(structure("block_result")))
    for name in ("exits", "elapsed_cycles", "timed_exits", "timed_cycles", "spurious_exits"):
        results[name] = rng.integers(0, 1000, results.shape)
    results["cpu"] = rng.integers(-1, 4, results.shape)
    results["quantiles"] = rng.random(results["quantiles"].shape) * 1e4
    results["quantiles"][rng.random(results.shape) < 0.2] = np.nan
    results["samples_count"] = rng.integers(0, 5, results.shape)
    results["samples_offset"] = np.cumsum(results["samples_count"], 0) - results["samples_count"]
    order = rng.integers(0, 3, n_blocks).tolist()
    taken = Round(7, SimpleNamespace(**engine), order, records("block_result", results), 99)  # type: ignore[arg-type]
    return taken, results


def exits_case(sample_budget: int) -> Any:
    """What a recorder of exits reads of its case."""
    return SimpleNamespace(
        sample_budget=sample_budget,
        processes=1,
        program="pm_timer",
        exit_rate_hz=None,
        kick_rate_hz=None,
    )


def kicks_of(rng: np.random.Generator, n_blocks: int, n_kickers: int) -> list[np.ndarray]:
    """The made-up kicks of each kicker, in the order of their blocks."""
    found = []
    for kicker in range(n_kickers):
        blocks = np.sort(rng.integers(0, n_blocks, int(rng.integers(0, 20))))
        kicks = np.zeros(len(blocks), dtype_of(structure("kick_record")))
        kicks["block"], kicks["kicker"], kicks["vcpu"] = blocks, kicker, kicker
        kicks["flags"] = rng.integers(0, 8, len(blocks))
        for name in ("latency", "send", "delivery", "returned", "resumed", "rescues", "signals"):
            kicks[name] = rng.integers(0, 3, len(blocks)) * rng.integers(1, 2**30, len(blocks))
        kicks["at"] = rng.integers(-5, 2**40, len(blocks))
        found.append(kicks)
    return found


def array_of(collected: Collected) -> Any:
    return as_array(Records(collected.type, b""), *collected.parts)


SIZES = {"n_blocks": st.integers(1, 6), "n": st.integers(1, 4), "seed": st.integers(0, 2**32)}


@given(**SIZES)
@settings(deadline=None)
def test_kicks_are_kept_and_counted(n_blocks: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kicks = kicks_of(rng, n_blocks, n)
    parts = [records("kick_record", one) for one in kicks]
    taken, results = round_of(rng, n_blocks, n, kicks=lambda: parts)
    recorder = kinds.KickRecorder()
    recorder.add(taken)
    every, rows = np.concatenate(kicks), array_of(recorder.arrays()["kicks"])
    met, lost = (every["flags"] & MET) != 0, (every["flags"] & LOST) != 0
    order = np.array(taken.order)
    assert (rows["round"] == 7).all()
    np.testing.assert_array_equal(rows["position"], every["block"])
    np.testing.assert_array_equal(rows["entry"], order[every["block"]])
    np.testing.assert_array_equal(rows["met"], met)
    np.testing.assert_array_equal(rows["lost"], lost)
    for name in ("at", "send", "delivery", "returned", "latency", "resumed"):
        np.testing.assert_array_equal(rows[f"{name}_cycles"], every[name])
    for name in ("vcpu", "kicker", "volley", "cpu", "signals"):
        np.testing.assert_array_equal(rows[name], every[name])
    blocks = array_of(recorder.arrays()["kick_blocks"])
    for name, which in (("sent", met | True), ("met", met), ("lost", lost)):
        counts = np.bincount(every["block"][which], minlength=n_blocks)
        np.testing.assert_array_equal(blocks[name], counts)
    np.testing.assert_array_equal(blocks["entry"], order)
    np.testing.assert_array_equal(blocks["spurious"], results["spurious_exits"].sum(axis=1))
    np.testing.assert_array_equal(blocks["elapsed_cycles"], results["elapsed_cycles"].max(axis=1))
    mine = every["latency"][(order[every["block"]] == 1) & met & ~lost]
    wanted = {"latency_p50_ns": float(np.median(mine))} if len(mine) else {}
    assert recorder.round_cycles(1) == wanted
    found = every["latency"][~lost & (every["latency"] > 0)]
    assert sorted(recorder.latencies_cycles()) == sorted(found.tolist())


@given(**SIZES)
@settings(deadline=None)
def test_latencies_of_a_race_are_counted_in_bins(n_blocks: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kicks = kicks_of(rng, n_blocks, n)
    parts = [records("kick_record", one) for one in kicks]
    taken, _ = round_of(rng, n_blocks, n, kicks=lambda: parts)
    participants = [SimpleNamespace(method=name) for name in ("a", "b", "c")]
    times = kinds.KickTimes(participants, SimpleNamespace(hz=2e9))  # type: ignore[arg-type]
    times.add(taken)
    every, order = np.concatenate(kicks), np.array(taken.order)
    timed = ((every["flags"] & LOST) == 0) & (every["latency"] > 0)
    for index, name in enumerate("abc"):
        mine = timed & (order[every["block"]] == index)
        for sent, which in (("one", every["signals"] <= 1), ("more", every["signals"] > 1)):
            found = every["latency"][mine & which] / 2
            bins = np.floor(LATENCY_BINS * np.log2(np.maximum(found, 1))).astype(int)
            wanted = {str(bin_): int((bins == bin_).sum()) for bin_ in set(bins)}
            assert times.by_method.get(name, {}).get(sent, {}) == wanted


@given(**SIZES)
@settings(deadline=None)
def test_races_are_counted(n_blocks: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kicks = kicks_of(rng, n_blocks, n)
    parts = [records("kick_record", one) for one in kicks]
    taken, _ = round_of(rng, n_blocks, n, kicks=lambda: parts)
    recorder = kinds.RaceRecorder(SimpleNamespace(kicks=10, processes=2), 3)  # type: ignore[arg-type]
    recorder.add(taken)
    every, rows = np.concatenate(kicks), array_of(recorder.arrays()["races"])
    lost = (every["flags"] & LOST) != 0
    wanted = {
        "sent": np.bincount(every["block"], minlength=n_blocks),
        "landed": np.bincount(every["block"][every["flags"] & LANDED != 0], minlength=n_blocks),
        "lost": np.bincount(every["block"][lost], minlength=n_blocks),
        "resent": np.bincount(every["block"][every["signals"] > 1], minlength=n_blocks),
        "rescues": np.bincount(every["block"], every["rescues"], minlength=n_blocks),
        "latency_max_cycles": np.zeros(n_blocks, np.int64),
        "timeout_cycles": np.full(n_blocks, 99),
    }
    np.maximum.at(wanted["latency_max_cycles"], every["block"][~lost], every["latency"][~lost])
    for name, counts in wanted.items():
        np.testing.assert_array_equal(rows[name], counts)
    for entry in range(3):
        counted = {
            name: wanted[name][np.array(taken.order) == entry].sum() for name in kinds._COUNTS
        }
        assert recorder.counts(entry) == counted
    found = every["latency"][~lost & (every["latency"] > 0)]
    assert sorted(recorder.latencies_cycles()) == sorted(found.tolist())


@given(**SIZES)
@settings(deadline=None)
def test_exits_are_kept_with_their_quantiles_and_samples(n_blocks: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cycles = rng.integers(1, 2**32, (n, 40), dtype=np.uint32)
    taken, results = round_of(
        rng,
        n_blocks,
        n,
        samples=lambda vcpu, offset, count: cycles[vcpu, offset : offset + count].copy().data,
        histogram=lambda entry: [0, entry, 3],
    )
    case = exits_case(sample_budget=1000)
    recorder = kinds.ExitRecorder(case, 3)  # type: ignore[arg-type]
    recorder.add(taken)
    arrays = {name: array_of(rows) for name, rows in recorder.arrays().items()}
    rows, order = arrays["blocks"].reshape(results.shape), np.array(taken.order)
    np.testing.assert_array_equal(rows["entry"], np.repeat(order, n).reshape(results.shape))
    np.testing.assert_array_equal(rows["position"].T, [range(n_blocks)] * n)
    np.testing.assert_array_equal(rows["vcpu"], [range(n)] * n_blocks)
    for name, _ in kinds._KEPT:
        np.testing.assert_array_equal(rows[name], results[name])
    for index, name in enumerate(quantile_levels()):
        np.testing.assert_array_equal(rows[name], results["quantiles"][..., index])
    samples = arrays["exit_samples"]
    for position, vcpu in np.ndindex(results.shape):
        one = results[position, vcpu]
        begin, count = int(one["samples_offset"]), int(one["samples_count"])
        mine, samples = samples[:count], samples[count:]
        assert mine["cycles"].tolist() == cycles[vcpu, begin : begin + count].tolist()
        assert set(mine[["round", "entry", "vcpu"]].tolist()) <= {(7, order[position], vcpu)}
    assert len(samples) == 0
    bins = arrays["exit_histograms"]
    assert [(entry, low, high, count) for entry, low, high, count in bins.tolist()] == [
        (0, 2, 3, 3),
        (1, 1, 2, 1),
        (1, 2, 3, 3),
        (2, 1, 2, 2),
        (2, 2, 3, 3),
    ]
    figures = recorder.round_cycles(1)
    mine = rows[order == 1]
    levels = [name for name, level in quantile_levels().items() if level in QUIET_LEVELS]
    quiet = np.mean([mine[name].astype(np.float64) for name in levels], axis=0)
    if mine["exits"].sum() == 0 or not np.isfinite(quiet).any():
        assert figures == {}
    else:
        assert figures[FIGURES["quiet"]] == pytest.approx(np.nanmean(quiet))
        assert figures[FIGURES["mean"]] == mine["elapsed_cycles"].sum() / mine["exits"].sum()


def test_the_kept_samples_fit_the_budget_and_are_spread_over_the_rounds() -> None:
    engine = {
        "samples": lambda _, __, count: memoryview(np.zeros(count, np.uint32)),
        "histogram": lambda _: [0],
    }
    case = exits_case(sample_budget=100)
    recorder = kinds.ExitRecorder(case, 3)  # type: ignore[arg-type]
    taken, results = round_of(np.random.default_rng(1), 3, 2, **engine)
    results["samples_count"] = 5
    for number in range(40):
        part = Round(number, taken.engine, taken.order, records("block_result", results), 0)
        recorder.add(part)
    kept = array_of(recorder.arrays()["exit_samples"])
    assert sorted(set(kept["round"])) == [0, 16, 32]
    assert len(kept) == 3 * 30


@given(st.lists(st.integers(0, 9)).map(sorted))
def test_records_are_split_by_their_blocks(blocks: list[int]) -> None:
    pauses = Records.of(structure("pause"), len(blocks))
    pauses["block"] = blocks
    pauses["at"] = range(len(blocks))
    parts = list(by_block(pauses))
    assert [position for position, _ in parts] == sorted(set(blocks))
    assert all(set(part["block"]) == {position} for position, part in parts)
    assert [at for _, part in parts for at in part["at"]] == list(range(len(blocks)))


@given(st.lists(st.integers(0, 2**40)))
def test_the_median_is_numpy_s(values: list[int]) -> None:
    assert medians("m", values) == ({"m": np.median(values)} if values else {})


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9).map(sorted), st.floats(-1, 10))
def test_values_between_two_lie_on_a_line(values: list[float], place: float) -> None:
    wanted = np.interp(place, range(len(values)), values)
    assert interpolated(values, place) == pytest.approx(wanted, abs=1e-6)
    level = min(max(place / 10, 0), 1)
    found = interpolated(values, level * (len(values) - 1))
    assert found == pytest.approx(np.quantile(values, level), abs=1e-6)


def places_of_numpy(shares: np.ndarray, count: int) -> list[int]:
    """By the largest remainders, at least one for each share."""
    rare = np.zeros(len(shares), bool)
    while True:
        wanted = np.where(rare, 1.0, shares / shares[~rare].sum() * (count - rare.sum()))
        if (wanted >= 1).all():
            break
        rare |= wanted < 1
    found = np.floor(wanted).astype(int)
    found[np.argsort(found - wanted, kind="stable")[: count - found.sum()]] += 1
    return list(found)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=20), st.integers(20, 5000))
def test_places_are_shared_out_by_the_largest_remainders(shares: list[int], count: int) -> None:
    found = places(shares, count)
    assert sum(found) == count
    wanted = places_of_numpy(np.array(shares, float), count)
    # Remainders that differ by rounding alone may be in another order.
    assert all(abs(one - other) <= 1 for one, other in zip(found, wanted, strict=True))
    assert sum(wanted) == count


@given(st.integers(0, 2**47), st.integers(0, 2**30))
def test_the_pages_that_are_looked_at_are_spread_over_the_buffer(address: int, size: int) -> None:
    pages = [page // PAGE for page in _spread(address, size)]
    first, last = address // PAGE, (address + max(size, 1) - 1) // PAGE
    assert (pages[0], pages[-1]) == (first, last)
    assert len(pages) == min(LOOKS, last - first + 1)
    wanted = np.linspace(first, last, LOOKS) if len(pages) == LOOKS else np.arange(first, last + 1)
    assert np.abs(np.array(pages) - wanted).max() <= 1
    assert (np.diff(pages) > 0).all()
