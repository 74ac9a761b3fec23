# SPDX-License-Identifier: Apache-2.0
"""What this host is and what it can do: its CPUs and nodes, its KVM, and what disturbs it here.

Every module reads files below a ``root`` that tests replace by a tree of their own. Nothing here
changes the host.
"""
