# SPDX-License-Identifier: Apache-2.0
"""kickbench: what it costs to get a vCPU out of KVM_RUN.

The data flows one way: ``scenario`` -> ``run`` (with ``host``, ``kvm``, ``guest``, ``engine`` and
``methods``) -> ``results`` -> ``summary`` (with ``stats``) -> ``report``. Nothing from ``results``
on touches KVM.

The names of ``__all__`` are for your Python programs: docs/python.md. Each is loaded when it is
used, because this file is also on machines that have nothing but a part of the package.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kickbench import errors
    from kickbench.api import plot
    from kickbench.api.comparing import compare, query
    from kickbench.api.measuring import Progress, run
    from kickbench.api.reading import Histogram, Run, read
    from kickbench.compare.runs import Comparison

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Histogram",
    "Progress",
    "Run",
    "compare",
    "errors",
    "plot",
    "query",
    "read",
    "run",
]

_MODULES = {
    "Comparison": "kickbench.compare.runs",
    "Histogram": "kickbench.api.reading",
    "Progress": "kickbench.api.measuring",
    "Run": "kickbench.api.reading",
    "compare": "kickbench.api.comparing",
    "query": "kickbench.api.comparing",
    "read": "kickbench.api.reading",
    "run": "kickbench.api.measuring",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("kickbench.errors")
    if name == "plot":
        return import_module("kickbench.api.plot")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The functions ``run`` and ``compare`` have the names of rooms.

    Python sets an attribute of the package when it loads a room. ``kickbench.run`` is the function
    nevertheless, whatever was loaded. The room is imported as ever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
