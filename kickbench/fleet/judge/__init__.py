# SPDX-License-Identifier: Apache-2.0
"""What changed in a fleet, for whom, and what those hosts have in common.

:mod:`kickbench.fleet.judge.found` is what all of it ends in. ``docs/fleet.md`` explains the model.
"""
