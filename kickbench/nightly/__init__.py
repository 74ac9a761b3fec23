# SPDX-License-Identifier: Apache-2.0
"""Run scenarios night after night, keep what they measured, and report what got slower.

:mod:`~kickbench.nightly.job` is the nightly job. :mod:`~kickbench.nightly.history` keeps the
nights, and :mod:`~kickbench.nightly.collect` makes a trend of each metric over them.
:mod:`~kickbench.nightly.decide` judges tonight against a baseline, and
:mod:`~kickbench.nightly.changes` finds when a metric changed, and what else changed with it. Both
need only numbers: no file, no KVM, no clock. Nothing here measures; that is :mod:`kickbench.run`.
"""
