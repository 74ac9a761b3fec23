# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a lab machine: runs the command that the lab outside orders, and reports its exit.

There are two kinds of machines. One has virtio: named ports, and this host's folders by 9p. The
other has a serial port, and a disk that carries the command's streams (:mod:`kickbench.lab.disk`).
The order (:class:`kickbench.lab.emulation.Order` as JSON) is the first line on the port
``control``, or is on the disk. Later lines there are ``signal N`` for the command. From inside come
``alive``, again and again, and at last ``exit N``.

Where the disk carries the streams, ``NAME N`` says that there are N bytes in the window of the
stream NAME, and ``taken NAME`` that they are taken. Otherwise the streams have ports of their own.
A command that ``talks`` gets a standard input; without bytes in the window, that ends. This module
needs only the standard library, because it runs before anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kickbench.lab import disk

if TYPE_CHECKING:
    from collections.abc import Callable

PORTS = Path("/sys/class/virtio-ports")
CONSOLE = "/dev/hvc0"
ALIVE_SECONDS = 5.0
PORT_SECONDS = 30.0
STATUS_OF_SIGNAL = 128
RB_POWER_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)


class _Virtio:
    """Named ports, and shared folders. The command writes to its ports by itself."""

    def __init__(self) -> None:
        self.control = os.open(self._port("control"), os.O_RDWR)

    def _port(self, name: str) -> str:
        """The device of the port with this name. It may take a moment to appear."""
        until = time.monotonic() + PORT_SECONDS
        while time.monotonic() < until:
            for port in PORTS.glob("vport*"):
                if (port / "name").read_text().strip() == name:
                    return f"/dev/{port.name}"
            time.sleep(0.05)
        raise SystemExit(f"kickbench: the machine has no port {name}")

    def order(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self.control, 1 << 16)
        order: dict[str, Any] = json.loads(text)
        Path(order["cwd"]).mkdir(parents=True, exist_ok=True)
        self._share(order["shares"])
        return order

    def _share(self, folders: dict[str, str]) -> None:
        """Mount the host's folders that the command writes to, at their paths outside."""
        for tag, path in folders.items():
            Path(path).mkdir(parents=True, exist_ok=True)
            options = b"trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
            no_flags = ctypes.c_ulong(0)
            if _libc.mount(tag.encode(), os.fsencode(path), b"9p", no_flags, options):
                error = os.strerror(ctypes.get_errno())
                raise SystemExit(f"kickbench: {path} cannot be shared with the machine: {error}")

    def streams(self, *, talks: bool) -> list[int]:
        """The standard streams of the command, which are closed when it has them."""
        stdout = os.open(self._port("stdout"), os.O_RDWR)  # a port can be opened once
        stdin = os.dup(stdout) if talks else os.open(os.devnull, os.O_RDONLY)
        return [stdin, stdout, os.open(self._port("stderr"), os.O_RDWR)]

    def waiting(self) -> tuple[list[int], list[int]]:
        """The descriptors to read from and to write to, as soon as they are ready."""
        return [], []

    def serve(self, ready: list[int]) -> None:
        """Nothing to do."""

    def heed(self, name: str, words: list[str]) -> None:
        """Nothing to do."""

    def is_drained(self) -> bool:
        return True


class _Serial:
    """A serial port, and a disk."""

    def __init__(self, control: int, device: Path, *, direct: bool = True) -> None:
        self.control = control
        self._device = device
        self._windows = disk.Windows(device, direct=direct)
        self._written: dict[int, str] = {}  # what the command writes, by our end of the pipe
        self._full: set[str] = set()  # the windows that are not yet taken
        self._input = -1  # our end of the pipe that the command reads
        self._unread = b""

    def order(self) -> dict[str, Any]:
        order = disk.read(self._device)
        Path(order["cwd"]).mkdir(parents=True, exist_ok=True)
        return order

    def streams(self, *, talks: bool) -> list[int]:
        """As :meth:`_Virtio.streams`."""
        if talks:
            stdin, self._input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._input, False)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY)
        streams = [stdin]
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, disk.WINDOW_BYTES)
            self._written[reader] = name
            streams.append(writer)
        return streams

    def waiting(self) -> tuple[list[int], list[int]]:
        """As :meth:`_Virtio.waiting`."""
        written = [reader for reader, name in self._written.items() if name not in self._full]
        return written, [self._input] if self._unread else []

    def serve(self, ready: list[int]) -> None:
        """Move what is ready."""
        for reader in self._written.keys() & {*ready}:
            if data := os.read(reader, disk.WINDOW_BYTES):
                self._windows.put(name := self._written[reader], data)
                self._full.add(name)
                self._say(f"{name} {len(data)}")
            else:
                os.close(reader)
                del self._written[reader]
        if self._input in ready:
            try:
                self._unread = self._unread[os.write(self._input, self._unread) :]
            except BrokenPipeError:  # the command does not want it
                self._unread = b""
            if not self._unread:
                self._say("taken stdin")

    def heed(self, name: str, words: list[str]) -> None:
        """Take a line about a window."""
        if name == "taken":
            self._full.discard(words[0])
        elif int(words[0]):
            self._unread = self._windows.take("stdin", int(words[0]))
        else:
            os.close(self._input)

    def is_drained(self) -> bool:
        """Whether all that was written is outside."""
        return not self._written and not self._full

    def _say(self, line: str) -> None:
        os.write(self.control, line.encode() + b"\n")


def _serial() -> _Serial:
    """The second port and the second disk. The first ones are the console and the root."""
    control = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(control)
    settings = termios.tcgetattr(control)
    settings[2] |= termios.CLOCAL
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(control, termios.TCSANOW, settings)
    return _Serial(control, Path("/dev/sdb"))


_LINKS: dict[str, Callable[[], _Virtio | _Serial]] = {"virtio": _Virtio, "serial": _serial}


def _begin(order: dict[str, Any], link: _Virtio | _Serial) -> int:
    """Start the command. Returns its process id."""
    if order["terminal"]:
        streams = [os.open(CONSOLE, os.O_RDWR | os.O_NOCTTY)] * 3
    else:
        streams = link.streams(talks=order["talks"])
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


class _Lines:
    """Takes the lines that come from outside."""

    def __init__(self, link: _Virtio | _Serial, child: int) -> None:
        self._link, self._child = link, child
        self._pending = b""

    def take(self) -> None:
        """Read some, and do what they say."""
        *lines, self._pending = (self._pending + os.read(self._link.control, 4096)).split(b"\n")
        for line in lines:
            name, *words = line.decode().split()
            if name != "signal":
                self._link.heed(name, words)
            elif self._child:
                _signal(self._child, int(words[0]))

    def command_has_ended(self) -> None:
        """It gets no more signals."""
        self._child = 0


def _wait(link: _Virtio | _Serial, lines: _Lines, more: list[int]) -> list[int]:
    """Wait until something is ready, and take what comes from outside or goes there. Returns what
    is ready."""
    readers, writers = link.waiting()
    found = select.select([link.control, *more, *readers], writers, [], ALIVE_SECONDS)
    ready: list[int] = [*found[0], *found[1]]
    if link.control in ready:
        lines.take()
    link.serve(ready)
    return ready


def _finish(status: int, link: _Virtio | _Serial, lines: _Lines) -> None:
    """Bring out what is left, and report how the command ended."""
    # A process that the command left behind might write for ever. This spares us, process 1.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    lines.command_has_ended()
    while not link.is_drained():
        _wait(link, lines, [])
    os.sync()
    os.write(link.control, f"exit {status}\n".encode())
    with contextlib.suppress(termios.error):  # no terminal
        termios.tcdrain(link.control)


def _follow(child: int, link: _Virtio | _Serial, lines: _Lines, wakeup: int) -> int:
    """Pass signals on and report that we live, until the command ends. Returns its exit status."""
    said = 0.0
    while True:
        ready = _wait(link, lines, [wakeup])
        if (now := time.monotonic()) - said >= ALIVE_SECONDS:
            said = now
            os.write(link.control, b"alive\n")
        if wakeup in ready:
            os.read(wakeup, 4096)
        # Orphaned processes become ours as well.
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else STATUS_OF_SIGNAL - code


def execute(link: _Virtio | _Serial) -> None:
    """Execute the order."""
    order = link.order()
    os.write(link.control, b"alive\n")
    Path("/proc/sys/kernel/hostname").write_text(order["hostname"])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = _begin(order, link)
    lines = _Lines(link, child)
    _finish(_follow(child, link, lines, reader), link, lines)


def main() -> None:
    """Execute the order, and switch the machine off."""
    execute(_LINKS[sys.argv[1]]())
    _libc.reboot(RB_POWER_OFF)
