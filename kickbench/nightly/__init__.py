# SPDX-License-Identifier: Apache-2.0
"""Run scenarios night after night, keep what they measured, and say what got slower.

:mod:`~kickbench.nightly.history` keeps the nights, :mod:`~kickbench.nightly.trends` is one metric
over them, :mod:`~kickbench.nightly.decide` judges tonight against a baseline, and
:mod:`~kickbench.nightly.changes` finds when and with what a metric changed. Deciding needs numbers
only: no file, no KVM, no clock. Nothing here measures; that is :mod:`kickbench.run`.
"""
