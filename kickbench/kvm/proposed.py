# SPDX-License-Identifier: Apache-2.0
"""The interface proposed in 2015 for kicks without signals, which no released kernel has.

Source: "[PATCH v2 4/5] KVM: add KVM_USER_EXIT vcpu ioctl for userspace exit", kvm list, 2015;
KVM_VCPU_MAKE_EXITFD is from its review. Released kernels use the proposal's numbers for other
ioctls by now. The numbers here are those of ``kickbench/engine/include/kickbench/protocol.h`` and
of the lab's kernel, and are free in Linux 6.12. They are not in :mod:`kickbench.kvm.abi`, because
no kernel header has them. ``kickbench.host.capabilities`` tries whether a kernel has the ioctls.
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
