# SPDX-License-Identifier: Apache-2.0
"""The reference pages of the documentation, which are made from the code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from website import c_hooks, command_line, scenario_keys

from kickbench.cli import COMMANDS
from kickbench.scenario import model

ROOT = Path(__file__).resolve().parents[1]


# --- what is generated -------------------------------------------------------------------------


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", page, re.MULTILINE)


def test_the_scenario_reference_has_every_key_once() -> None:
    schema = model.json_schema()
    tables = {name: prefix for prefix, name in _tables(schema)}
    keys = [
        f"{tables[name]}.{key}"
        for name, table in schema["$defs"].items()
        for key in table["properties"]
    ]
    keys += [key for key in schema["properties"] if key not in tables.values()]
    found = [heading for heading in headings(scenario_keys.page()) if "." in heading]
    found += ["name", "description"]
    assert sorted(found) == sorted(keys)
    assert {"name", "description", "[vm]", "[[placement]]"} <= set(headings(scenario_keys.page()))


def _tables(schema: dict[str, object]) -> list[tuple[str, str]]:
    properties = schema["properties"]
    assert isinstance(properties, dict)
    found = ((key, re.search(r"#/\$defs/(\w+)", str(value))) for key, value in properties.items())
    return [(key, match[1]) for key, match in found if match]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("vm.vcpus", "a whole number from 1 to 1024"),
        ("vm.irqchip", 'one of none, split, kernel\n- Default: `"kernel"`'),
        ("guest.kick_rate_hz", "or a number of kicks per second from 0.001 to 1e6\n- Default: `0`"),
        ("race.window_ns", "nanoseconds from 1 to 1e9\n- Default: `[0, 50000]`"),
        ("measure.methods", '- Default: `["sigmask", "immediate_exit"]`'),
        ("measure.precision", "- Default: `0.001`"),
    ],
)
def test_the_scenario_reference_says_what_a_key_takes(key: str, words: str) -> None:
    section = scenario_keys.page().partition(f"### {key}\n")[2].partition("\n##")[0]
    assert words in section
    assert ("*axis" in section) == (key not in ("vm.irqchip", "measure.precision"))


def test_the_command_line_reference_has_every_command_and_its_options() -> None:
    page = command_line.page()
    assert {f"kickbench {name}" for name in COMMANDS} <= set(headings(page))
    assert {"kickbench scenario list", "kickbench history accept", "kickbench lab run"} <= set(
        headings(page)
    )
    run = page.partition("## kickbench run\n")[2].partition("\n## ")[0]
    assert "\nkickbench run [OPTIONS]" in run
    assert "| `scenario` | A scenario file, or the name of a shipped one. |" in run
    assert "| `--results DIR` | Where run folders are made. [default: results] |" in run


def test_the_hook_reference_has_the_hooks_that_the_engine_demands() -> None:
    header = (ROOT / c_hooks.HEADER).read_text(encoding="utf-8")
    hooks = [part for part in c_hooks.introduction(header) if isinstance(part, c_hooks.Hook)]
    written = set(re.findall(r"^static .*?\b(kb_\w+)\(", _example_protocol(), re.MULTILINE))
    assert {hook.name for hook in hooks} == written | {"kb_finish_exit"}
    for hook in hooks:
        assert hook.text[0].isupper() or hook.text[0] == "`"
        assert hook.text.endswith(".")


def _example_protocol() -> str:
    return (ROOT / "kickbench/methods/sigmask.c").read_text(encoding="utf-8")


def test_the_hook_reference_has_everything_that_the_header_declares() -> None:
    header = (ROOT / c_hooks.HEADER).read_text(encoding="utf-8")
    blocks = list(c_hooks.declarations(header))
    named = list(itertools.chain.from_iterable(block.names for block in blocks))
    declared = re.findall(r"^(?:static inline|KB_EXPORT) .*?\b(kb_\w+)\(", header, re.MULTILINE)
    declared += re.findall(r"^(?:struct|enum) (kb_\w+) \{", header, re.MULTILINE)
    assert len(declared) > 10
    assert set(declared) <= set(named)
    assert not any("\treturn " in block.code for block in blocks)


def test_the_hook_reference_says_what_the_comments_say() -> None:
    page = c_hooks.page(ROOT)
    assert "### kb_kick\n\n```c\nint kb_kick(struct kb_vcpu *, struct kb_kicker *);\n```" in page
    sending = page.partition("### kb_send_signal\n")[2].partition("\n###")[0]
    assert "The kick signal, to the vCPU's thread, by the kicker's transport." in sending
    assert "static inline int kb_send_signal(" in sending
