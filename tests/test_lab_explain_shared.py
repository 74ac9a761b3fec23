# SPDX-License-Identifier: Apache-2.0
"""Which jobs show shared lines, and what is said of the lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic_explanation import JOBS, SIGLOCK, shared_lines, small

from kickbench.lab.explain import shared as sharing
from kickbench.lab.explain.case import STATE
from kickbench.lab.explain.inside import Job, Order
from kickbench.lab.explain.page import page
from kickbench.lab.explain.shared import (
    KICKERS,
    NODES,
    Shared,
    threads,
)
from kickbench.lab.explain.shared_words import matrices, tables, text
from kickbench.lab.machines import LINES
from kickbench.lab.structs import Struct, Structs


@pytest.mark.parametrize(("known", "lines"), [({}, 1), ({"page": Struct(64, ())}, 0)])
def test_a_kernel_whose_structures_nobody_knows_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: dict[str, Struct],
    lines: int,
) -> None:
    """The machine says which structures it knows: those from outside, or from its BTF."""
    (tmp_path / "System.map").write_text("ffffffff81000000 T _text\n")
    facts = {"structs": Structs(known).to_json()}

    @contextmanager
    def watched(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(facts=facts, sections=lambda: iter(()))

    monkeypatch.setattr(sharing, "watched", watched)
    assert sharing.shared(LINES["x86_64"], tmp_path / "bzImage", JOBS) == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert all("bzImage: no structs.json is beside it, and it has no BTF" in line for line in said)


def test_exits_in_four_placements_and_kicks_by_more_and_more_kickers() -> None:
    exits = [job for job in JOBS if job.case.state is None]
    places = {(one.creator_node, one.vcpu_node) for one in shared_lines() if one.job in exits}
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [job.case.kickers for job in JOBS if job.case.state == STATE] == list(KICKERS)
    every_cpu = {cpu for cpus in NODES for cpu in cpus}
    for job in JOBS:
        own = [*job.vcpus, *job.kickers]
        assert len(set(own)) == len(own) == len(threads(job))  # each thread has its own CPU
        assert {*own, job.creator} <= every_cpu
        assert job.conductor in every_cpu - {*own}  # its time is no thread's turn
        assert (job.case.vcpus, len(job.kickers) or 1) == (len(job.vcpus), job.case.kickers)
    for job in exits:
        assert any({job.creator, job.conductor} <= set(cpus) for cpus in NODES)
    home = next(job for job in exits if job.creator in NODES[0])
    assert set(home.vcpus) <= set(NODES[0])  # the first one is what most people have


def test_an_order_travels() -> None:
    order = Order(JOBS, {"mine": "mine.so"}, "/folder")
    assert Order.from_json(order.to_json()) == order
    assert Job.from_dict({**vars(JOBS[0]), "case": JOBS[0].case.to_dict()}) == JOBS[0]


def test_what_is_said() -> None:
    said = [" ".join(line.split()) for line in text(shared_lines())]
    assert "immediate_exit none" in said
    assert (
        "sigmask sighand_struct.siglock 4 2 sigprocmask, _raw_spin_lock_irq, __set_task_blocked"
        in said
    )
    assert "sigmask sighand_struct.siglock node 0 node 0 node 1 node 1" in said
    assert "sigmask 4 2 5 2 1" in said  # kickers, lines, writes, reads, between kickers
    assert "sigmask 1 2 5 2 0" in said
    common = "share with each other, besides those of all methods: file.f_count:"
    assert f"Cache lines that 4 kickers {common}" in said


def test_a_method_with_many_lines_names_the_first_ones() -> None:
    many = Shared(JOBS[0], "sigmask", [replace(SIGLOCK, what=f"line{i}") for i in range(20)])
    (table, *_) = tables([many])
    assert [row[1] for row in table.rows] == [*(f"line{i}" for i in range(8)), "(12 more)"]
    assert list(tables([])) == list(matrices([])) == []


def test_lines_of_one_name_on_two_nodes() -> None:
    two = [replace(SIGLOCK, what="kmalloc-512+172", node=node) for node in (1, 0, 1)]
    _, places = tables([Shared(JOBS[0], "sigmask", two)])
    assert places.rows == [("sigmask", "kmalloc-512+172", "node 0, node 1")]


def test_a_matrix_has_each_threads_use() -> None:
    by_title = {table.title: table for table in matrices(shared_lines())}
    exit_ = by_title["sigmask: writes + reads of an exit"]
    assert exit_.heads == ("line", "vCPU 0", "vCPU 1")
    assert exit_.rows == [("sighand_struct.siglock", "4 + 2", "4 + 2")]
    kick = by_title["sigmask: writes + reads of a kick of a halted vCPU"]
    assert kick.heads == ("line", "vCPU 0", "kicker 0", "kicker 1", "kicker 2", "kicker 3")
    assert kick.rows[1] == ("kvm_run.x", "0 + 1", "1 + 0", "", "", "")


def test_what_is_written_as_json() -> None:
    document = replace(small(), shared=shared_lines()).to_dict()
    assert document["methods"]["immediate_exit"]["shared_lines"] == []
    (line,) = document["methods"]["sigmask"]["shared_lines"]
    assert line.keys() >= {"what", "node", "reads_per_exit", "writes_per_exit", "functions"}
    assert (line["node"], line["reads_per_exit"], line["writes_per_exit"]) == (0, 2, 4)
    assert [
        (one["creator_node"], one["shared_lines"][0]["node"])
        for one in document["methods"]["sigmask"]["placements"]
    ] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    by_kickers = document["kicks"][STATE]["sigmask"]["shared_lines_by_kickers"]
    assert list(by_kickers) == list(KICKERS)
    assert by_kickers[4][0]["writes_per_kick"] == 2.5


def test_the_page_has_the_tables() -> None:
    html = page(replace(small(), shared=shared_lines()))
    assert 'id="shared"' in html
    assert "sighand_struct.siglock" in html
    assert 'id="shared"' not in page(small())
