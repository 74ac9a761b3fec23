# SPDX-License-Identifier: Apache-2.0
"""A run in the formats that other tools read: one file for each, in the table of ``formats.py``.

:mod:`kickbench.export.results` is what all of them are made of.
"""
