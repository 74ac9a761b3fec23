# SPDX-License-Identifier: Apache-2.0
"""The few functions of libbpf 1 that the observer calls (https://libbpf.readthedocs.io).

The library is the system's own. It finds the fields of the running kernel's structs by BTF, so that
nothing is compiled here. Every Debian, Fedora and Ubuntu has it, because systemd and iproute2 need
it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from kickbench.errors import HostError
from kickbench.text import printable, shorten
from kickbench.watch.process import RightsError

_LIBRARY = "libbpf.so.1"
_INSTALL = "install it (Debian, Ubuntu: apt install libbpf1; Fedora: dnf install libbpf)"
_Print = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
Sample = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""The type of a ring buffer's callback: context, address and size of the sample."""


class TestRun(ctypes.Structure):
    """``struct bpf_test_run_opts``: how a program of the type "syscall" is called."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


# Result and arguments of each function.
_FUNCTIONS = {
    "libbpf_set_print": (c_void_p, [c_void_p]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_prog_test_run_opts": (c_int, [c_int, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
    "ring_buffer__new": (c_void_p, [c_int, Sample, c_void_p, c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
}

said: list[str] = []
"""What libbpf said since the last call of :func:`failed`: the reason of an error is there."""


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf with its functions' types. Raises HostError if the system does not have it."""
    try:
        found = ctypes.CDLL(_LIBRARY, use_errno=True)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        raise HostError(f"kickbench observe needs libbpf 1: {_INSTALL}") from None
    found.libbpf_set_print(_listen())
    return found


@functools.cache
def _listen() -> c_void_p:
    """A function that keeps what libbpf prints in :data:`said`."""
    format_text = ctypes.CDLL(None).vsnprintf
    format_text.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]

    def listen(level: int, template: bytes, arguments: int) -> int:
        if level <= 1:  # warnings and what is said without being asked
            text = ctypes.create_string_buffer(1 << 16)
            format_text(text, len(text), template, arguments)
            said.append(text.value.decode(errors="replace").strip())
        return 0

    callback = _Print(listen)
    _KEPT.append(callback)
    return ctypes.cast(callback, c_void_p)


_KEPT: list[object] = []  # the library keeps pointers to these


def failed(what: str) -> HostError:
    """The error after a call that failed, with the last that libbpf said about it."""
    number = ctypes.get_errno()
    reason = os.strerror(number) if number else "for a reason that libbpf does not say"
    last = shorten(printable(" ".join(said[-1].split())), 300) if said else ""
    said.clear()
    if number in (errno.EPERM, errno.EACCES):
        return RightsError(f"the kernel does not let this process {what}")
    return HostError(f"cannot {what}: {reason}" + (f" ({last})" if last else ""))
