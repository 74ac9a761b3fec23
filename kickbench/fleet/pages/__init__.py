# SPDX-License-Identifier: Apache-2.0
"""The pages and words of a fleet's report, made of a :class:`~kickbench.fleet.judge.found.Found`.

Nothing is decided here. ``docs/fleet.md`` explains how to read the pages.
"""
