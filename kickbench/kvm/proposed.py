# SPDX-License-Identifier: Apache-2.0
"""The interface proposed in 2015 for kicks without signals, which no released kernel has.

Source: "[PATCH v2 4/5] KVM: add KVM_USER_EXIT vcpu ioctl for userspace exit", kvm list, 2015;
KVM_VCPU_MAKE_EXITFD is from its review. The proposal's own numbers mean other things by now; these
are the ones of ``kickbench/engine/include/kickbench/protocol.h`` and of the lab's kernel, free in
Linux 6.12. They are no part of :mod:`kickbench.kvm.abi`, because no kernel header confirms them:
whether a kernel has them is found out by trying (``kickbench.host.capabilities``).
"""

from __future__ import annotations

import ctypes

from kickbench.kvm.abi import IO, IOW


class kvm_user_exit(ctypes.Structure):
    """Argument of KVM_USER_EXIT; all zero."""

    _fields_ = [("reserved", ctypes.c_uint8 * 32)]


# On a vCPU. KVM_USER_EXIT may be called from every thread.
KVM_USER_EXIT = IOW(0xF0, kvm_user_exit)
KVM_VCPU_MAKE_EXITFD = IO(0xF1)  # returns the descriptor; a write of 8 bytes to it kicks

KVM_EXIT_REQUEST = 240
