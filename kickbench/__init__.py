# SPDX-License-Identifier: Apache-2.0
"""kickbench: what it costs to get a vCPU out of KVM_RUN.

The data flows one way: ``scenario`` -> ``run`` (with ``host``, ``kvm``, ``guest``, ``engine`` and
``methods``) -> ``results`` -> ``summary`` (with ``stats``) -> ``report``. Nothing from ``results``
on touches KVM.
"""

__version__ = "0.1.0"
