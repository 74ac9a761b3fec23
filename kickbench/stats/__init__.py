# SPDX-License-Identifier: Apache-2.0
"""Estimates and intervals: paired contrasts, quantiles, proportions.

Pure functions on numpy arrays, with the same answer for the same input and seed. No files, no
tables, no units: input in ns gives output in ns. ``docs/statistics.md`` explains what each interval
means, why it was chosen and how often it covers the truth.
"""
