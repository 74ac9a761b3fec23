# SPDX-License-Identifier: Apache-2.0
"""What a run found: its tables in, ``summary.json`` out.

Each kind of measurement has a module, and :mod:`~kickbench.summary.summarise` puts them together.
:mod:`~kickbench.summary.shared` has what they share. Nothing here touches KVM, and nothing writes
sentences.
"""
