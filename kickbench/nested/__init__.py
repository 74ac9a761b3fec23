# SPDX-License-Identifier: Apache-2.0
"""Nested guests: a hypervisor that is a guest (L1), its own guest (L2), and who interrupts L1.

``hypervisor/`` is L1's program. ``sender.c`` sends it interrupts.
:mod:`~kickbench.nested.guest` builds the VM around L1, and has it run iterations.
:mod:`~kickbench.nested.entries` asks the kernel about its entries. The engine and its blocks have
no part in it.
"""
