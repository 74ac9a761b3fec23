# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH server on loopback, with a host key and a configuration of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SUPERVISOR = "kickbench-run"


@dataclass(frozen=True)
class Sshd:
    """The server. ``ssh`` is the command that reaches it, for KICKBENCH_SSH, as ``host``."""

    process: subprocess.Popen[bytes]
    ssh: str
    host: str
    cache: Path

    @property
    def runs(self) -> list[Path]:
        """The runs that are on the machine."""
        return list((self.cache / "kickbench/agent/runs").glob("*"))

    def supervisors(self) -> list[int]:
        """The processes that measure runs there."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if _comm(int(folder.name)) == SUPERVISOR:
                    files = [str(file.readlink()) for file in (folder / "fd").iterdir()]
                    if any(file.startswith(str(self.cache)) for file in files):
                        stat = (folder / "stat").read_text()
                        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        # A worker has its supervisor's name and files until it becomes its program.
        return [pid for pid, parent in parents.items() if parent not in parents]

    def workers(self, supervisor: int) -> list[int]:
        """The processes that this supervisor has measure, once they are their own program.

        A worker that is stopped before would be taken for a supervisor when its own one is gone.
        """
        return [pid for pid in children(supervisor) if _comm(pid) not in (SUPERVISOR, None)]

    def cut(self) -> None:
        """End all connections that there are, as a broken network does. The server stays."""
        for child in children(self.process.pid):
            for grandchild in children(child):
                os.kill(grandchild, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _comm(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return None


def children(pid: int) -> list[int]:
    """The processes that this one has started, and that are not reaped."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Network:
    """A network namespace, with a cable to this one.

    ``address`` is the one at its end, and ``near`` that at ours.
    """

    name: str
    address: str
    near: str

    def cable(self, state: str) -> None:
        """Have the cable ``up`` or ``down``."""
        _ip("-n", self.name, "link", "set", "cable", state)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def network(which: int = 0) -> Iterator[Network]:
    """Make a network namespace, ``which`` of eight. Addresses are of RFC 2544, and this process."""
    name = f"kb{os.getpid()}n{which}"
    number = 4 * ((8 * os.getpid() + which) % 32768)
    one, other = (
        f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{(number & 255) + end}" for end in (1, 2)
    )
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("addr", "add", f"{one}/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{other}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "lo", "up")
        found = Network(name, other, one)
        found.cable("up")
        yield found
    finally:
        # The kernel ends a namespace, and the cable with it, some time after the command. The next
        # test's cable has the same name, so this one is taken away here and now.
        subprocess.run(["ip", "link", "delete", name])
        _ip("netns", "delete", name)


@contextlib.contextmanager
def running(folder: Path, inside: Network | None = None, name: str = "box") -> Iterator[Sshd]:
    """Run the server with its files in ``folder``. The agents' cache is there as well.

    It is on loopback, or ``inside`` a network. Another ``name`` is the host's own, too: root only.
    """
    address = inside.address if inside else "127.0.0.1"
    assert SSHD is not None
    for file in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / file)]
        subprocess.run(key, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = _free_port()
    cache = folder / "cache"
    (folder / "sshd_config").write_text(
        f"""
ListenAddress {address}:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
SetEnv XDG_CACHE_HOME={cache} XDG_STATE_HOME={cache} KICKBENCH_LOCK={os.environ["KICKBENCH_LOCK"]}
"""
    )
    (folder / "known").write_text(f"[{address}]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"""
Host {name}
HostName {address}
Port {port}
User {getpass.getuser()}
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
StrictHostKeyChecking yes
"""
    )
    command = ["ip", "netns", "exec", inside.name] if inside else []
    if name != "box":
        command += ["unshare", "-u", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
    command += [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection((address, port)):
                break
            time.sleep(0.05)
        ssh = shlex.join(["ssh", "-F", str(folder / "ssh_config")])
        yield Sshd(process, ssh, name, cache)
    finally:
        process.terminate()
        process.wait()
