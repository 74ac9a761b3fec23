# SPDX-License-Identifier: Apache-2.0
"""What was found, as figures. :mod:`~kickbench.report.figures.table` lists them all.

A module has the figures of one subject. :mod:`~kickbench.report.figures.plots` has what they share,
and :mod:`~kickbench.report.figures.svg` makes files of them.
"""
