# SPDX-License-Identifier: Apache-2.0
"""``slow_syscalls.py N COMMAND...``: run a command with every system call N instructions slower.

A stand-in for a kernel that got slower: it attaches seccomp filters of N instructions in all to
itself, which do nothing and allow everything, and executes the command; its processes inherit them.
The command needs no hook, no privilege and no knowledge of it. A filter cannot be taken off again.

An instruction is one of the kernel's BPF machine, translated to machine code where the JIT is on:
about one cycle each. It does not slow what happens within a system call, nor the guest.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
"""Before Linux 5.16, a filter without it also turned on mitigations that cost more than it."""
SECCOMP_RET_ALLOW = 0x7FFF0000

BPF_MAXINSNS = 4096
"""Instructions in one filter; of all filters together the kernel takes about 32,000."""

LOAD, ADD, RETURN = 0x20, 0x04, 0x06  # BPF_LD | BPF_W | BPF_ABS; BPF_ALU | BPF_K; BPF_RET | BPF_K
INSTRUCTION_POINTER = 8  # in struct seccomp_data


class _Instruction(ctypes.Structure):
    """struct sock_filter"""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def slow_down(instructions: int) -> None:
    """Slow down each later system call of this process and of those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none))
    while instructions > 0:
        _attach(libc, min(instructions, BPF_MAXINSNS))
        instructions -= BPF_MAXINSNS


def _attach(libc: ctypes.CDLL, length: int) -> None:
    # A filter that looks at no more than the call's number is run once per number, when it is
    # attached (since Linux 5.11, seccomp_cache_prepare); one that reads anything else, every time.
    code = [(LOAD, INSTRUCTION_POINTER), *[(ADD, 1)] * (length - 2), (RETURN, SECCOMP_RET_ALLOW)]
    program = (_Instruction * len(code))(*(_Instruction(op, 0, 0, k) for op, k in code))
    _check(
        libc.syscall(
            ctypes.c_long(SYS_SECCOMP[platform.machine()]),
            ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
            ctypes.c_ulong(SECCOMP_FILTER_FLAG_SPEC_ALLOW),
            ctypes.byref(_Program(len(program), program)),
        )
    )


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal():
        sys.exit("usage: slow_syscalls.py INSTRUCTIONS COMMAND...")
    slow_down(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 (no shell)


if __name__ == "__main__":
    main()
