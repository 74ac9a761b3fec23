# SPDX-License-Identifier: Apache-2.0
"""Bindings of the KVM API through ctypes: ``abi`` (names and numbers), ``ioctl`` (the call) and
``vm`` (Kvm, Vm, Vcpu). Standard library only, because the worker process imports it.
"""

from __future__ import annotations

from kickbench.kvm.ioctl import KvmError
from kickbench.kvm.vm import DEVICE, Kvm, KvmUnavailableError, Vcpu, Vm

__all__ = ["DEVICE", "Kvm", "KvmError", "KvmUnavailableError", "Vcpu", "Vm"]
