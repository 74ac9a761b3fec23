# SPDX-License-Identifier: Apache-2.0
"""Kvm, Vm and Vcpu: the three file descriptors of the KVM API, each a context manager.

The kernel opens all of them close-on-exec. They do only what the set-up of a measurement needs:
they do not allocate guest memory, do not load programs and do not run the measured loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import mmap
import os
import pwd
import stat
import sys
from pathlib import Path

from kickbench.closing import Closing
from kickbench.errors import HostError
from kickbench.kvm import abi, ioctl
from kickbench.kvm.ioctl import KvmError

DEVICE = "/dev/kvm"

_libc = ctypes.CDLL(None, use_errno=True)


class KvmUnavailableError(HostError):
    """KVM cannot be used on this host: ``problem`` says why not, ``advice`` what to do."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}: {advice}")
        self.problem = problem
        self.advice = advice


class _Descriptor(Closing):
    """A file descriptor with an owner: closed once, at the end of the ``with`` block at latest."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The file descriptor. Raises ValueError after :meth:`close`."""
        if self._fd < 0:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Kvm(_Descriptor):
    """The KVM device. Raises KvmUnavailableError, with what to do, when it cannot be used.

    ``load_command`` loads KVM's module on this kind of machine.
    """

    def __init__(
        self, path: str | os.PathLike[str] = DEVICE, load_command: str = "modprobe kvm"
    ) -> None:
        super().__init__(-1)  # so that close() is safe when open fails
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _why_not_opened(os.fspath(path), error, load_command) from error
        try:
            version = self.api_version()
        except KvmError as error:
            self.close()
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                raise KvmUnavailableError(
                    f"{os.fspath(path)} is not a KVM device",
                    f"remove it and let udev make {DEVICE}",
                ) from error
            raise
        if version != abi.KVM_API_VERSION:
            self.close()
            raise KvmUnavailableError(
                f"{os.fspath(path)} speaks KVM API version {version}, "
                f"kickbench needs {abi.KVM_API_VERSION}",
                "update the kernel to 2.6.22 or later",
            )

    def api_version(self) -> int:
        """KVM_GET_API_VERSION: 12 since Linux 2.6.22."""
        return ioctl.call(self.fd, abi.KVM_GET_API_VERSION)

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION: 0 when KVM does not have it, else 1 or the extension's value."""
        return ioctl.call(self.fd, abi.KVM_CHECK_EXTENSION, cap)

    def vcpu_mmap_size(self) -> int:
        """Bytes that a vCPU's fd maps, struct kvm_run first."""
        return ioctl.call(self.fd, abi.KVM_GET_VCPU_MMAP_SIZE)

    def create_vm(self, machine_type: int = 0) -> Vm:
        """KVM_CREATE_VM; 0 is the default machine type. Raises KvmError."""
        mmap_size = self.vcpu_mmap_size()
        return Vm(ioctl.call(self.fd, abi.KVM_CREATE_VM, machine_type), mmap_size)


class Vm(_Descriptor):
    """A virtual machine without memory, devices or vCPUs until they are added.

    Closing it closes its vCPUs too. Every method raises KvmError.
    """

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size
        self._vcpus: list[Vcpu] = []
        self._devices: list[int] = []

    def check_extension(self, cap: int) -> int:
        """As :meth:`Kvm.check_extension`, for this machine (KVM_CAP_CHECK_EXTENSION_VM)."""
        return ioctl.call(self.fd, abi.KVM_CHECK_EXTENSION, cap)

    def set_memory(self, slot: int, guest_address: int, size: int, host_address: int) -> None:
        """Back ``size`` bytes of guest-physical memory with this process's memory.

        All three of address, size and host address are multiples of the page size; a size of 0
        deletes the slot. The memory must outlive the machine.
        """
        region = abi.kvm_userspace_memory_region(
            slot=slot,
            guest_phys_addr=guest_address,
            memory_size=size,
            userspace_addr=host_address,
        )
        ioctl.call(self.fd, abi.KVM_SET_USER_MEMORY_REGION, region)

    def keep(self, fd: int) -> None:
        """Close the descriptor of a device of this machine together with the machine."""
        self._devices.append(fd)

    def enable_cap(self, cap: int, *args: int) -> None:
        """KVM_ENABLE_CAP with up to four arguments."""
        request = abi.kvm_enable_cap(cap=cap)
        for index, value in enumerate(args):
            request.args[index] = value
        ioctl.call(self.fd, abi.KVM_ENABLE_CAP, request)

    def make_private(self, guest_address: int, size: int) -> None:
        """Have guest memory be private to the guest (KVM_SET_MEMORY_ATTRIBUTES, Linux 6.8)."""
        request = abi.kvm_memory_attributes(
            address=guest_address, size=size, attributes=abi.KVM_MEMORY_ATTRIBUTE_PRIVATE
        )
        ioctl.call(self.fd, abi.KVM_SET_MEMORY_ATTRIBUTES, request)

    def add_ioeventfd(self, port: int, size: int) -> int:
        """KVM_IOEVENTFD: a write of ``size`` bytes to the port adds 1 to an eventfd, which is
        returned and closed with the machine. Raises OSError, too."""
        eventfd = _libc.eventfd(0, os.O_CLOEXEC)
        if eventfd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.keep(eventfd)
        request = abi.kvm_ioeventfd(
            addr=port, len=size, fd=eventfd, flags=abi.KVM_IOEVENTFD_FLAG_PIO
        )
        ioctl.call(self.fd, abi.KVM_IOEVENTFD, request)
        return int(eventfd)

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU. With an in-kernel irqchip every vCPU but 0 waits for INIT and SIPI:
        see :meth:`Vcpu.set_mp_state`."""
        vcpu = Vcpu(ioctl.call(self.fd, abi.KVM_CREATE_VCPU, vcpu_id), self._vcpu_mmap_size)
        self._vcpus.append(vcpu)
        return vcpu

    def close(self) -> None:
        """Close the vCPUs and devices, then the machine."""
        for vcpu in self._vcpus:
            vcpu.close()
        self._vcpus.clear()
        while self._devices:
            os.close(self._devices.pop())
        super().close()


class Vcpu(_Descriptor):
    """One vCPU and the page it shares with the kernel. Every method raises KvmError.

    The mapping holds a second descriptor, so a vCPU takes two of the process's RLIMIT_NOFILE.
    """

    def __init__(self, fd: int, mmap_size: int) -> None:
        super().__init__(fd)
        self._mmap: mmap.mmap | None = None
        try:
            self._mmap = mmap.mmap(fd, mmap_size)
        except OSError:
            self.close()
            raise

    @property
    def run(self) -> abi.kvm_run:
        """A view of struct kvm_run. It keeps the page mapped even after :meth:`close`."""
        if self._mmap is None:
            raise ValueError("this Vcpu is closed")
        return abi.kvm_run.from_buffer(self._mmap)

    @property
    def run_address(self) -> int:
        """The address of struct kvm_run for the C loops, valid until :meth:`close`."""
        return ctypes.addressof(self.run)

    def mp_state(self) -> int:
        """KVM_GET_MP_STATE: whether it runs, waits or is halted. It waits for KVM_RUN's end."""
        state = abi.kvm_mp_state()
        ioctl.call(self.fd, abi.KVM_GET_MP_STATE, state)
        return int(state.mp_state)

    def stats(self) -> dict[str, int]:
        """KVM's own counts of this vCPU by name (KVM_GET_STATS_FD, Linux 5.14).

        It does not wait for KVM_RUN's end. Of a histogram it has the first number.
        """
        fd = ioctl.call(self.fd, abi.KVM_GET_STATS_FD)
        try:
            return _read_stats(fd)
        finally:
            os.close(fd)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE: RUNNABLE starts a vCPU that would wait for INIT and SIPI."""
        ioctl.call(self.fd, abi.KVM_SET_MP_STATE, abi.kvm_mp_state(mp_state=state))

    def set_signal_mask(self, sigset: bytes | None) -> None:
        """The signals blocked while in KVM_RUN, as the kernel's sigset_t (8 bytes on x86-64,
        signal n is bit n-1, little-endian); None: leave the thread's mask alone in KVM_RUN."""
        if sigset is None:
            ioctl.call(self.fd, abi.KVM_SET_SIGNAL_MASK)
            return
        header = bytes(abi.kvm_signal_mask(len=len(sigset)))
        argument = ctypes.create_string_buffer(header + sigset, len(header) + len(sigset))
        ioctl.call(self.fd, abi.KVM_SET_SIGNAL_MASK, argument)

    def run_once(self) -> int:
        """One KVM_RUN; returns the exit reason, KVM_EXIT_INTR when it failed with EINTR.

        For tests and probes: nothing here is fit for timing.
        """
        try:
            ioctl.call(self.fd, abi.KVM_RUN)
        except KvmError as error:
            if error.errno == errno.EINTR:
                return abi.KVM_EXIT_INTR
            raise
        return int(self.run.exit_reason)

    def close(self) -> None:
        """Unmap the page and close the descriptor."""
        mapping, self._mmap = self._mmap, None
        if mapping is not None:
            # A view may still exist. The page is then unmapped together with that view.
            with contextlib.suppress(BufferError):
                mapping.close()
        super().close()


def _read_stats(fd: int) -> dict[str, int]:
    """What a descriptor of KVM_GET_STATS_FD reads: include/uapi/linux/kvm.h has its layout."""
    header = abi.kvm_stats_header.from_buffer_copy(
        os.pread(fd, ctypes.sizeof(abi.kvm_stats_header), 0)
    )
    found = {}
    length = ctypes.sizeof(abi.kvm_stats_desc) + header.name_size
    described = os.pread(fd, length * header.num_desc, header.desc_offset)
    for begin in range(0, len(described), length):
        one = described[begin : begin + length]
        offset = abi.kvm_stats_desc.from_buffer_copy(one).offset
        name = one[ctypes.sizeof(abi.kvm_stats_desc) :].partition(b"\0")[0].decode()
        found[name] = int.from_bytes(os.pread(fd, 8, header.data_offset + offset), sys.byteorder)
    return found


def _how_to_be_let_in(path: str) -> str:
    """Advice about the device's permissions. Its group helps only if the group may open it."""
    try:
        found = Path(path).stat()
        mode, owner = stat.S_IMODE(found.st_mode), pwd.getpwuid(found.st_uid).pw_name
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return f"see who may open it (ls -l {path})"
    if found.st_gid and mode & 0o060 == 0o060:
        return f"join its group (sudo usermod -aG {group} $USER, then log in again)"
    return (
        f"its mode is {mode:04o} ({owner}:{group}), so let a group in (sudo chgrp kvm {path} && "
        f"sudo chmod 660 {path}) and join that, or run as {owner}"
    )


def _why_not_opened(path: str, error: OSError, load_command: str) -> KvmUnavailableError:
    in_container = f"in a container, pass the device in (--device {path})"
    load = f"load KVM ({load_command}; virtualization must be on in the firmware)"
    if error.errno == errno.ENOENT:
        return KvmUnavailableError(f"{path} does not exist", f"{load};\n{in_container}")
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return KvmUnavailableError(f"{path} is there but no driver is behind it", load)
    if error.errno == errno.EACCES:
        what = f"no permission to open {path}"
        return KvmUnavailableError(what, f"{_how_to_be_let_in(path)};\n{in_container}")
    if error.errno == errno.EPERM:
        return KvmUnavailableError(f"this sandbox may not open {path}", in_container)
    return KvmUnavailableError(f"cannot open {path}", f"{error.strerror}")
