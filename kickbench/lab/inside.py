# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a lab machine: runs the command that the lab outside orders, and reports its exit.

There are two kinds of machines. One has virtio: named ports, and this host's folders by 9p. The
other has serial ports, and a disk with files (:mod:`kickbench.lab.disk`). The order
(:class:`kickbench.lab.emulation.Order` as JSON) is the first line on the port ``control``, or is on
the disk. Later lines on that port are numbers of signals for the command. From inside come
``alive``, again and again, ``files BEGIN END`` (a place on the disk), and at last ``exit N``. The
command's standard output and error have ports of their own, so that the lab passes them on byte for
byte. Without a port for standard error, it comes in lines ``stderr BASE64``. This module needs only
the standard library, because it runs before anything else.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty
from pathlib import Path
from typing import Any, ClassVar

from kickbench.errors import EXIT_MEASUREMENT
from kickbench.lab.disk import Inside as Disk

PORTS = Path("/sys/class/virtio-ports")
CONSOLE = "/dev/hvc0"
ALIVE_SECONDS = 5.0
PORT_SECONDS = 30.0
STATUS_OF_SIGNAL = 128
RB_POWER_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)


class _Virtio:
    """Named ports, and shared folders.

    ``relayed`` has the descriptors of streams that the command writes and we pass on: none here.
    """

    def __init__(self) -> None:
        self.control = os.open(self.port("control"), os.O_RDWR)
        self.relayed: dict[int, str] = {}

    def port(self, name: str) -> str:
        """The device of the port with this name. It may take a moment to appear."""
        until = time.monotonic() + PORT_SECONDS
        while time.monotonic() < until:
            for port in PORTS.glob("vport*"):
                if (port / "name").read_text().strip() == name:
                    return f"/dev/{port.name}"
            time.sleep(0.05)
        raise SystemExit(f"kickbench: the machine has no port {name}")

    def stream(self, name: str) -> int:
        """What the command writes to."""
        return os.open(self.port(name), os.O_RDWR)

    def order(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self.control, 1 << 16)
        order: dict[str, Any] = json.loads(text)
        return order

    def share(self, folders: dict[str, str]) -> None:
        """Mount the host's folders that the command writes to, at their paths outside."""
        for tag, path in folders.items():
            Path(path).mkdir(parents=True, exist_ok=True)
            options = b"trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
            no_flags = ctypes.c_ulong(0)
            if _libc.mount(tag.encode(), os.fsencode(path), b"9p", no_flags, options):
                error = os.strerror(ctypes.get_errno())
                raise SystemExit(f"kickbench: {path} cannot be shared with the machine: {error}")

    def pass_on(self, name: str, data: bytes) -> None:
        """Nothing to do: the command writes to its ports."""

    def tell_files(self) -> bool:
        """Nothing to do: the files are outside already."""
        return True

    def drain(self) -> None:
        """Nothing to do: what is written is outside already."""


class _Serial:
    """Serial ports, and a disk."""

    # The first and third port share an interrupt, and so do the second and fourth. Two busy ports
    # must not. The first is the console, which the kernel polls, and the fourth is not used.
    DEVICES: ClassVar = {"control": "ttyS1", "stdout": "ttyS2"}

    def __init__(self) -> None:
        self._disk = Disk(Path("/dev/sdb"))
        self._complaint = ""
        # The ports stay open, because a port loses its settings when nobody has it open.
        self._open = {name: self._raw(name) for name in self.DEVICES}
        self.control = self._open["control"]
        self.relayed: dict[int, str] = {}

    def stream(self, name: str) -> int:
        """What the command writes to: a pipe, because the port would look like a terminal."""
        reader, writer = os.pipe()
        self.relayed[reader] = name
        return writer

    def pass_on(self, name: str, data: bytes) -> None:
        """Bring out what the command has written, if need be in lines ``stderr BASE64``."""
        port = self.control
        if name in self._open:
            port = self._open[name]
        else:
            data = b"%s %s\n" % (name.encode(), base64.b64encode(data))
        while data:
            data = data[os.write(port, data) :]

    def _raw(self, name: str) -> int:
        """A port, opened, and set to pass on each byte unchanged."""
        descriptor = os.open(f"/dev/{self.DEVICES[name]}", os.O_RDWR | os.O_NOCTTY)
        tty.setraw(descriptor)
        settings = termios.tcgetattr(descriptor)
        settings[2] |= termios.CLOCAL
        settings[4] = settings[5] = termios.B115200
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        return descriptor

    def order(self) -> dict[str, Any]:
        order = self._disk.read()
        Path(order["cwd"]).mkdir(parents=True, exist_ok=True)
        return order

    def share(self, folders: dict[str, str]) -> None:
        """Watch folders, whose new files go out."""
        self._disk.watch(folders.values())

    def tell_files(self) -> bool:
        """Bring out the new files of the shared folders. Returns False if the disk is full."""
        try:
            place = self._disk.collect()
        except OSError as error:
            said = f"kickbench: files cannot be copied out of the machine: {error.strerror}\n"
            if said != self._complaint:
                self._complaint = said
                self.pass_on("stderr", said.encode())
            return False
        if place:
            os.write(self.control, b"files %d %d\n" % place)
        return True

    def drain(self) -> None:
        """Wait until everything that was written is outside."""
        for descriptor in self._open.values():
            termios.tcdrain(descriptor)


_LINKS: dict[str, type[_Virtio | _Serial]] = {"virtio": _Virtio, "serial": _Serial}


def _begin(order: dict[str, Any], link: _Virtio | _Serial) -> int:
    """Start the command. Returns its process id."""
    if order["terminal"]:
        streams = [os.open(CONSOLE, os.O_RDWR | os.O_NOCTTY)] * 3
    else:
        streams = [os.open(os.devnull, os.O_RDONLY), link.stream("stdout"), link.stream("stderr")]
    child = os.fork()
    if child:
        for descriptor in set(streams):
            os.close(descriptor)
        return child
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        if order["terminal"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", *order["terminal"], 0, 0))
        os.closerange(3, 64)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["cwd"])
        os.execvpe(order["argv"][0], order["argv"], order["environment"])  # noqa: S606
    except OSError as error:
        print(f"{order['argv'][0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _signal(child: int, number: int) -> None:
    """Send a signal to the command and to the processes that it has started."""
    try:
        os.killpg(child, number)
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(child, number)


def _finish(status: int, link: _Virtio | _Serial) -> None:
    """Bring out what is left, and report how the command ended."""
    # A process that the command left behind might write for ever. This spares us, process 1.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    while link.relayed and _relay(link, 0):
        pass
    os.sync()
    if not link.tell_files():
        status = status or EXIT_MEASUREMENT
    os.write(link.control, f"exit {status}\n".encode())
    link.drain()


def _relay(link: _Virtio | _Serial, seconds: float) -> bool:
    """Pass on what the command writes within this time. Returns whether a stream was ready."""
    ready = select.select(list(link.relayed), [], [], seconds)[0]
    for reader in ready:
        if data := os.read(reader, 1 << 12):
            link.pass_on(link.relayed[reader], data)
        else:
            os.close(reader)
            del link.relayed[reader]
    return bool(ready)


def _follow(child: int, link: _Virtio | _Serial, wakeup: int) -> int:
    """Pass signals on and report that we live, until the command ends. Returns its exit status."""
    control = link.control
    pending = b""
    said = 0.0
    while True:
        ready, _, _ = select.select([control, wakeup, *link.relayed], [], [], ALIVE_SECONDS)
        _relay(link, 0)
        if (now := time.monotonic()) - said >= ALIVE_SECONDS:
            said = now
            os.write(control, b"alive\n")
            link.tell_files()
        if wakeup in ready:
            os.read(wakeup, 4096)
        if control in ready:
            *lines, pending = (pending + os.read(control, 4096)).split(b"\n")
            for line in lines:
                _signal(child, int(line))
        # Orphaned processes become ours as well.
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else STATUS_OF_SIGNAL - code


def main() -> None:
    """Execute the order, and switch the machine off."""
    link = _LINKS[sys.argv[1]]()
    order = link.order()
    os.write(link.control, b"alive\n")
    socket.sethostname(order["hostname"])
    link.share(order["shares"])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    status = _follow(_begin(order, link), link, reader)
    _finish(status, link)
    _libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
