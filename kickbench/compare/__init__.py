# SPDX-License-Identifier: Apache-2.0
"""Two or more runs side by side: what is compared, on which host, and whether it differs.

It reads summaries. It needs no table of a run, and says nothing in words: those are in
:mod:`kickbench.report`.
"""
