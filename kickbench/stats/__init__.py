# SPDX-License-Identifier: Apache-2.0
"""Estimates and intervals: paired contrasts, quantiles, proportions.

Pure functions on numpy arrays, the same answer for the same input and seed. No files, no tables,
no units: what comes in as ns goes out as ns. What each interval means, why it was chosen and how
often it covers the truth is in ``docs/statistics.md``.
"""
