# SPDX-License-Identifier: Apache-2.0
"""Compares two or more runs: which figures, on which host, and whether they differ.

It reads summaries, and needs no table of a run. The sentences are in :mod:`kickbench.report`.
"""
