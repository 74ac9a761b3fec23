# SPDX-License-Identifier: Apache-2.0
"""What a run found: its tables in, ``summary.json`` out.

One module for each kind of measurement, and :mod:`~kickbench.summary.summarise` over them all.
:mod:`~kickbench.summary.shared` has what they share. Nothing here touches KVM, and nothing is
worded.
"""
