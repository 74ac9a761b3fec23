# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a lab machine: runs one command as the lab outside orders, and says how it ended.

It talks over the serial port of virtio that is called ``control``: the first line from outside is
the order (:class:`kickbench.lab.machines.Order` as JSON), later lines are numbers of signals for
the command. From inside come ``alive``, again and again, and at last ``exit N``. The command's
standard output and error are ports of their own, so that the lab passes them on byte for byte.
Standard library only: it runs before anything else does.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

PORTS = Path("/sys/class/virtio-ports")
CONSOLE = "/dev/hvc0"
ALIVE_SECONDS = 5.0
PORT_SECONDS = 30.0
STATUS_OF_SIGNAL = 128
RB_POWER_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)


def _port(name: str) -> str:
    """The device of the port that has this name; it may take a moment to appear."""
    until = time.monotonic() + PORT_SECONDS
    while time.monotonic() < until:
        for port in PORTS.glob("vport*"):
            if (port / "name").read_text().strip() == name:
                return f"/dev/{port.name}"
        time.sleep(0.05)
    raise SystemExit(f"kickbench: the machine has no port {name}")


def _mount_share(tag: str, path: str) -> None:
    """A folder of the host's, to be written to, where it is outside."""
    Path(path).mkdir(parents=True, exist_ok=True)
    options = b"trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
    if _libc.mount(tag.encode(), os.fsencode(path), b"9p", ctypes.c_ulong(0), options):
        error = os.strerror(ctypes.get_errno())
        raise SystemExit(f"kickbench: {path} cannot be shared with the machine: {error}")


def _begin(order: dict[str, Any]) -> int:
    """Start the command; returns its process id."""
    streams = [CONSOLE] * 3 if order["terminal"] else [os.devnull, _port("stdout"), _port("stderr")]
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(os.open(stream, os.O_RDONLY if stream == os.devnull else os.O_RDWR), number)
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


def _follow(child: int, control: int, wakeup: int) -> int:
    """Pass signals on and say that we live, until the command ends; returns its exit status."""
    pending = b""
    while True:
        ready, _, _ = select.select([control, wakeup], [], [], ALIVE_SECONDS)
        os.write(control, b"alive\n")
        if wakeup in ready:
            os.read(wakeup, 4096)
        if control in ready:
            *lines, pending = (pending + os.read(control, 4096)).split(b"\n")
            for line in lines:
                os.killpg(child, int(line))
        # Orphans end up here as well.
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else STATUS_OF_SIGNAL - code


def main() -> None:
    """Do the one order, and switch the machine off."""
    control = os.open(_port("control"), os.O_RDWR)
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(control, 1 << 16)
    order = json.loads(text)
    os.write(control, b"alive\n")
    socket.sethostname(order["hostname"])
    for tag, path in order["shares"].items():
        _mount_share(tag, path)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    status = _follow(_begin(order), control, reader)
    os.sync()
    os.write(control, f"exit {status}\n".encode())
    _libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
