# SPDX-License-Identifier: Apache-2.0
"""What was found, in words and in tables of numbers: ``show`` and the pages say the same.

:mod:`~kickbench.report.words.verdict` answers for a run, with one module for each kind of
measurement. :mod:`~kickbench.report.words.comparison` answers for runs side by side. All names are
in :mod:`~kickbench.report.words.names`. Nothing is drawn here.
"""
