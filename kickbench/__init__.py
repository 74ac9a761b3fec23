# SPDX-License-Identifier: Apache-2.0
"""kickbench: what it costs to get a vCPU out of KVM_RUN.

The package reads top down in the direction the data flows: ``scenario`` -> ``run`` (with ``host``,
``kvm``, ``guest``, ``engine`` and ``methods``) -> ``results`` -> ``stats`` -> ``report``.
Nothing from ``results`` on touches KVM.
"""

__version__ = "0.1.0"
