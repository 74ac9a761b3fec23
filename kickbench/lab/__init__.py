# SPDX-License-Identifier: Apache-2.0
"""The lab: emulated hosts for what this host lacks, with a kernel that has the proposed ioctls.

``build`` makes the kernel, ``machines`` is the table of emulated hosts, ``run`` measures in one.
"""

ARCHITECTURES = ("x86_64", "arm64")
"""The architectures that kernels are built for. The first is the default."""
