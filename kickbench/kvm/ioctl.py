# SPDX-License-Identifier: Apache-2.0
"""Every KVM ioctl that Python makes goes through :func:`call`.

Tests replace ``call`` to play a kernel that fails. The hot loops make their own ioctls, in C
(``kickbench.engine``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Union

from kickbench.errors import MeasurementError
from kickbench.kvm import abi

_libc = ctypes.CDLL(None, use_errno=True)  # a CDLL call releases the GIL
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_libc.ioctl.restype = ctypes.c_int

Argument = Union[int, ctypes.Structure, ctypes.Array[ctypes.c_char], ctypes.c_uint64, None]


class KvmError(MeasurementError, OSError):
    """A KVM ioctl failed: an OSError (``errno``) with the ioctl's name (``ioctl``).

    If nobody handles it, it is a failed measurement (exit code 4).
    """

    def __init__(self, number: int, ioctl: str) -> None:
        super().__init__(number, os.strerror(number))
        self.ioctl = ioctl

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.ioctl} failed: {self.strerror} ({name})"


def call(fd: int, request: int, arg: Argument = None) -> int:
    """Make one ioctl(2) and return its value, which is 0 or more.

    ``arg`` is passed as it is when an int, by address when a ctypes object, and as NULL when
    None. A call that a signal interrupted is made again, except for KVM_RUN, where EINTR is the
    answer. Raises KvmError.
    """
    value = arg if arg is None or isinstance(arg, int) else ctypes.byref(arg)
    while True:
        result = int(_libc.ioctl(fd, request, value))
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR or request == abi.KVM_RUN:
            raise KvmError(number, abi.ioctl_name(request))
