# SPDX-License-Identifier: Apache-2.0
"""A host on which the tracepoint of KVM's entries cannot be read: it is left alone.

What the tracepoint says is tested in the lab's machines (test_nested_guest.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kickbench.nested import entries
from kickbench.nested.entries import EVENT, count_entries


def counted() -> tuple[object, list[str]]:
    done: list[str] = []
    return count_entries(lambda: done.append("work")), done


def test_nothing_is_done_where_there_is_no_tracefs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "TRACEFS", (tmp_path,))
    assert counted() == (None, [])


def test_nothing_is_done_where_the_kernel_refuses_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / EVENT).parent.mkdir(parents=True)
    (tmp_path / EVENT).write_text("2000000000\n")  # no tracepoint has this number
    monkeypatch.setattr(entries, "TRACEFS", (tmp_path / "not here", tmp_path))
    assert counted() == (None, [])
