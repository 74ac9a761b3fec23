# SPDX-License-Identifier: Apache-2.0
"""The first code on another machine: it finds a folder for the agent, unpacks and starts it.

It is sent as text and executed before anything of kickbench is there, so it imports none of it. It
is also read by a Python that is too old, and then says so.

On standard input are a line of JSON, ``{"token": ..., "agents": {MACHINE: NAME}}``, then
``{"size": N}`` with N bytes of a zip file (0: the agent is there already), then the requests to the
server. On standard output are a line that begins with the token, so that text of a login shell
before it does no harm, and then the answers of the server.
"""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any, Iterator, NoReturn, Optional, Tuple

OLDEST = (3, 9)
_SERVE = (
    "import sys;sys.path.insert(0,sys.argv[1]);"
    "from kickbench.agent.server import serve;serve(sys.argv[2])"
)


def _problem_of(folder: Path) -> Optional[str]:
    """Why the agent cannot be in the folder; None if it can. The folder is made if need be."""
    try:
        folder.parent.parent.mkdir(0o700, exist_ok=True)
        for path in (folder.parent, folder):
            path.mkdir(0o700, exist_ok=True)
            found = path.lstat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return f"{path} is not only this user's"
        if os.statvfs(str(folder)).f_flag & os.ST_NOEXEC:
            return f"{folder} is mounted noexec"
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"kickbench")
        probe.unlink()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return None


def _places() -> Iterator[Path]:
    """Where the agent may be, the best first. Neither it nor its parent may be another user's."""
    user = os.geteuid()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if cache.is_absolute() and os.path.isdir(str(cache.parent)):
        yield cache / "kickbench" / "agent"
    for parent in (f"/run/user/{user}", "/run", "/var/tmp", "/tmp", "/dev/shm"):
        if os.path.isdir(parent):
            yield Path(parent) / f"kickbench-{user}" / "agent"


def _choose() -> Tuple[Optional[Path], str]:
    """The folder of the agent, or None and why there is none."""
    problems = []
    for folder in _places():
        problem = _problem_of(folder)
        if problem is None:
            return folder, ""
        problems.append(problem)
    return None, "; ".join(problems)


def _unpack(data: bytes, home: Path) -> None:
    import shutil
    import tempfile
    import zipfile

    temporary = tempfile.mkdtemp(prefix=".new-", dir=str(home.parent))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(temporary)
        try:
            Path(temporary).rename(home)
        except OSError:
            if not home.is_dir():  # else another connection was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(source: io.FileIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.read(size - len(data))
        if not part:
            sys.exit(1)
        data += part
    return data


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):
        return False


def _start_with_engine(home: Path, folder: Path) -> NoReturn:
    """Start Python again with the engine's library in it from the beginning.

    The engine's signal handler needs its thread's own variable at a fixed place ("initial-exec").
    musl has no such place for a library that comes later.
    """
    engine = home / "kickbench" / "engine" / "kickbench_engine.so"
    environment = {**os.environ, "LD_PRELOAD": str(engine), "PYTHONPATH": str(home)}
    os.chdir("/")
    words = [sys.executable, "-u", "-E", "-S", "-c", _SERVE, str(home), str(folder)]
    os.execve(sys.executable, words, environment)  # noqa: S606 (this Python)


def main() -> None:
    source = io.FileIO(0, closefd=False)  # without a buffer: the rest is for the server
    order = json.loads(source.readline().decode())

    def say(**what: Any) -> None:
        os.write(1, f"\n{order['token']}{json.dumps(what)}\n".encode())

    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST:
        say(error="python", python=version)
        return
    machine = os.uname()[4]
    if machine not in order["agents"]:
        say(error="machine", machine=machine)
        return
    folder, problem = _choose()
    if folder is None:
        say(error="folder", detail=problem)
        return
    home = folder / order["agents"][machine]
    say(have=home.is_dir(), machine=machine, python=version)
    size = json.loads(source.readline().decode() or "{}").get("size")
    if size is None:
        return
    try:
        if size:
            _unpack(_read(source, size), home)
    except OSError as error:
        say(error="unpack", detail=f"{folder}: {error.strerror}")
        return
    say(ready=True)
    if not _is_glibc():
        _start_with_engine(home, folder)
    sys.path.insert(0, str(home))
    os.environ["PYTHONPATH"] = str(home)
    os.chdir("/")
    from kickbench.agent.server import serve

    serve(str(folder))


main()
