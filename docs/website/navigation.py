# SPDX-License-Identifier: Apache-2.0
"""What the site has, by what a reader needs.

Every page of ``docs/`` is in one section: a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A section of the site, with a page of its own that lists its pages."""

    slug: str
    title: str
    need: str
    pages: tuple[str, ...]
    """By their paths in the repository; those in ``reference/`` are made from the code."""
    see_also: tuple[str, ...] = ()
    """Pages of other sections."""


SECTIONS = (
    Section(
        "measure",
        "Measure",
        "You want to know what an exit or a kick costs on a host.",
        (
            "docs/install.md",
            "docs/first_run.md",
            "docs/scenarios.md",
            "docs/doctor.md",
            "docs/remote.md",
            "docs/lab.md",
        ),
        ("reference/command_line.md", "reference/scenario_keys.md"),
    ),
    Section(
        "compare",
        "Compare",
        "You have two kernels, two hosts or two settings, and want to show what differs.",
        (
            "docs/recipes.md",
            "docs/compare.md",
            "docs/reports.md",
            "docs/export.md",
            "docs/gate.md",
        ),
        ("docs/statistics.md",),
    ),
    Section(
        "find_out_why",
        "Find out why",
        "You do not believe a figure, or want to know where it comes from.",
        (
            "docs/method.md",
            "docs/statistics.md",
            "docs/observe.md",
            "docs/prediction.md",
            "docs/nested.md",
            "docs/glossary.md",
        ),
        ("docs/doctor.md", "docs/memory_ordering.md"),
    ),
    Section(
        "watch_every_night",
        "Watch every night",
        "You want to be told when something gets slower.",
        (
            "docs/nightly.md",
            "docs/history.md",
            "docs/fleet.md",
            "docs/fleet_model.md",
            "docs/fleet_schedules.md",
        ),
        ("docs/compare.md",),
    ),
    Section(
        "write_your_own_protocol",
        "Write your own protocol",
        "You want to know whether the loop of your VMM loses kicks, and what it costs.",
        ("docs/protocols.md", "docs/memory_ordering.md"),
        ("reference/c_hooks.md",),
    ),
    Section(
        "reference",
        "Reference",
        "You know what you are looking for. The first three pages are made from the code.",
        (
            "reference/command_line.md",
            "reference/scenario_keys.md",
            "reference/c_hooks.md",
            "docs/results.md",
            "docs/python.md",
            "docs/promises.md",
            "docs/example.ipynb",
        ),
        ("docs/glossary.md",),
    ),
    Section(
        "develop",
        "Develop",
        "You want to change kickbench.",
        ("docs/architecture.md", "docs/porting.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    ),
)

# What a reader finds on each page, beside its title in the lists.
PURPOSES = {
    "docs/first_run.md": "what each part of the output means",
    "docs/scenarios.md": "how you describe your guest, and what to measure",
    "docs/doctor.md": "what disturbs a measurement on a host, and what you do about it",
    "docs/remote.md": "measuring on a test box by ssh",
    "docs/lab.md": "emulated hosts, for what your host does not have",
    "docs/recipes.md": "two kernels, a patch, a gate, a bug report: the commands from start to end",
    "docs/compare.md": "what counts as slower, between two runs",
    "docs/export.md": "a run for KCIDB, Prometheus, JUnit, TAP and others",
    "docs/gate.md": "exact counts on every pull request of your fork of KVM",
    "docs/reports.md": "HTML pages, figures and tables that you can attach to a patch",
    "docs/method.md": "how each figure is measured, and what it cannot say",
    "docs/statistics.md": "how rounds become an interval and a verdict",
    "docs/observe.md": "what a VM does that runs already, seen from outside",
    "docs/prediction.md": "what siglock costs with more vCPUs and nodes than you have",
    "docs/nested.md": "what a guest hypervisor gains from `immediate_exit`",
    "docs/glossary.md": "each word with an example",
    "docs/nightly.md": "a job for cron that says what got slower, since when and how sure",
    "docs/history.md": "the stored nights, and how you look into them",
    "docs/fleet.md": "the runs of many hosts in one store, asked in SQL",
    "docs/fleet_model.md": "how a fleet's report decides, and how often it is wrong",
    "docs/install.md": "pipx, uv, Debian, a container; manual pages and completion",
    "docs/fleet_schedules.md": "every night by ssh, on Kubernetes or Slurm, and a container",
    "docs/protocols.md": "a kick protocol as a C file, measured beside the known ones",
    "docs/memory_ordering.md": "which store pairs with which load, and how that was checked",
    "reference/command_line.md": "every command with its arguments and options",
    "reference/scenario_keys.md": "every key with its values and its default",
    "reference/c_hooks.md": "the functions that a protocol defines, and those it may call",
    "docs/results.md": "the files of a run and their columns, for programs that read them",
    "docs/example.ipynb": "a run as frames and figures, step by step, with what they show",
    "docs/python.md": "runs as frames and figures, and measuring from a program",
    "docs/promises.md": "which files, keys and names stay, and how they may change",
    "docs/architecture.md": "where things are, and where a new one goes",
    "docs/porting.md": "what another architecture needs, place by place",
    "CONTRIBUTING.md": "set-up, tests, style and commits",
    "CHANGELOG.md": "what changed, by version",
}
