# SPDX-License-Identifier: Apache-2.0
"""What this host is and what it can do: its CPUs and nodes, its KVM, and what disturbs runs.

Every module reads files below a ``root``. Tests replace the root by a tree of their own. Nothing
here changes the host.
"""
