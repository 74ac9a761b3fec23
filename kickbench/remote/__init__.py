# SPDX-License-Identifier: Apache-2.0
"""Measures on another machine, by ssh, and keeps the results here.

:mod:`kickbench.agent` is what runs there.
"""
