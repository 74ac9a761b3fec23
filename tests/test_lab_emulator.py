# SPDX-License-Identifier: Apache-2.0
"""How the lab follows a machine: what it passes on, and when it gives up. The emulator is a stub
that does at once what a real one does rarely; the real one is in test_lab_machines.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kickbench.errors import EXIT_MEASUREMENT, MeasurementError
from kickbench.lab.emulation import Order
from kickbench.lab.emulator import Limits, execute
from kickbench.lab.machines import Machine
from kickbench.lab.qemu import Qemu

STUB = """#!{python}
import json, os, re, signal, subprocess, sys, time
port = {{
    name: open(int(re.search(rf"socket,id={{name}},fd=(\\d+)", " ".join(sys.argv))[1]), "r+b", 0)
    for name in ("console", "control", "stdout", "stderr")
}}
say = lambda name, text: port[name].write(text.encode() + b"\\n")
order = json.loads(port["control"].readline())
{what}
"""


def machine(folder: Path, what: str) -> Machine:
    """A machine whose emulator does ``what``, in Python: it has port, say and order."""
    stub = folder / "emulator"
    stub.write_text(STUB.format(python=sys.executable, what=what))
    stub.chmod(0o755)
    return Machine("stubbed", "", Qemu("", (), str(stub)))


def run(
    folder: Path, what: str, limits: Limits | None = None, *argv: str, tidies_up: bool = True
) -> int:
    order = Order(argv or ["true"], {}, folder, [folder])
    stubbed = machine(folder, what)
    return execute(stubbed, folder / "bzImage", order, limits, tidies_up=tidies_up)


def failure(folder: Path, what: str, limits: Limits | None = None) -> str:
    with pytest.raises(MeasurementError) as caught:
        run(folder, what, limits)
    assert caught.value.exit_code == EXIT_MEASUREMENT
    return str(caught.value)


def failure_after(folder: Path, what: str, limit: str, seen: Callable[[str, Path], bool]) -> str:
    """The failure by a limit that leaves the machine the time to do what is to be seen of it."""
    for attempt, seconds in enumerate((0.5, 5.0, 50.0, 500.0)):
        place = folder / str(attempt)
        place.mkdir()
        message = failure(place, what, Limits(**{limit: seconds}))
        if seen(message, place):
            break
    return message


@pytest.mark.parametrize("status", [0, 1, 3, 130])
def test_the_status_of_the_command_comes_back(tmp_path: Path, status: int) -> None:
    assert run(tmp_path, f"say('control', 'exit {status}')") == status


def test_what_it_prints_comes_out_byte_for_byte(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    what = "port['stdout'].write(b'\\0\\xff' * 50000); say('stderr', 'aside')"
    assert run(tmp_path, f"{what}; say('control', 'exit 0')") == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"\0\xff" * 50000
    assert captured.err == b"aside\n"


def test_the_order_has_the_command_and_the_folder_to_write_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    what = "say('stdout', json.dumps([order[k] for k in ('argv', 'cwd', 'shares', 'hostname')]))"
    assert run(tmp_path, f"{what}; say('control', 'exit 0')", None, "a", "b c") == 0
    assert capfd.readouterr().out == (
        f'[["a", "b c"], "{tmp_path}", {{"share0": "{tmp_path}"}}, "stubbed"]\n'
    )


def test_a_machine_that_panics_is_reported_with_the_last_lines_of_its_console(
    tmp_path: Path,
) -> None:
    what = (
        "for n in range(100): say('console', f'line {n}')\nsay('console', 'Kernel panic\\x1b[2J')"
    )
    message = failure(tmp_path, what)
    what = "the machine stubbed ended by itself; the last lines of its console:\n"
    assert message.startswith(what)
    assert message.endswith("  | line 99\n  | Kernel panic [2J")
    assert "line 80" not in message


def test_a_machine_that_does_not_come_up_is_ended(tmp_path: Path) -> None:
    what = "say('console', 'stuck'); time.sleep(6000)"
    message = failure_after(tmp_path, what, "boot", lambda message, _: "stuck" in message)
    assert re.match(r"the machine stubbed did not come up for \d+ s and was ended", message)
    assert message.endswith("  | stuck")


def test_a_machine_that_falls_silent_is_ended_however_much_its_console_says(tmp_path: Path) -> None:
    what = """
say('control', 'alive')
while True:
    say('console', 'rcu: stall')
    time.sleep(0.05)
"""
    message = failure_after(tmp_path, what, "silence", lambda message, _: "rcu" in message)
    assert "gave no sign of life for" in message
    assert "rcu: stall" in message


def test_a_machine_that_takes_too_long_is_ended_though_it_lives(tmp_path: Path) -> None:
    what = """
while True:
    say('control', 'alive')
    time.sleep(0.05)
"""
    assert "; set a larger --time-limit" in failure(tmp_path, what, Limits(total=0.7))


def test_an_emulator_that_does_not_start_says_why(tmp_path: Path) -> None:
    message = failure(tmp_path, "sys.exit('no such CPU model')")
    assert message.endswith("  | no such CPU model")


def ends(pid: int) -> bool:
    """Whether a process ends, which takes a moment when it is nobody's child any more."""
    until = time.monotonic() + 600
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_process_is_left_not_even_a_child_of_the_emulator(tmp_path: Path) -> None:
    what = """
child = subprocess.Popen(["sleep", "600"])
open(order["cwd"] + "/pids", "w").write(f"{os.getpid()} {child.pid}")
time.sleep(6000)
"""
    failure_after(tmp_path, what, "boot", lambda _, place: (place / "pids").exists())
    (found,) = tmp_path.glob("*/pids")
    pids = [int(pid) for pid in found.read_text().split()]
    assert len(pids) == 2
    assert all(ends(pid) for pid in pids)


PARENT = """
import sys
sys.path.insert(0, {tests!r})
import test_lab_emulator as t
from pathlib import Path
{before}
try:
    print("status", t.run(Path({folder!r}), {what!r}, tidies_up={tidies_up}), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
ANSWER_TO_SIGNALS = """
say('control', 'alive')
open(order["cwd"] + "/pids", "w").write(str(os.getpid()))
said = port['control'].readline().decode().strip()
{then}
"""


def parent(
    folder: Path, what: str, before: str = "", tidies_up: bool = True
) -> subprocess.Popen[str]:
    """A process that does ``before`` and runs the stub, when the stub is up."""
    text = PARENT.format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        what=what,
        before=before,
        tidies_up=tidies_up,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (folder / "pids").exists() or not (folder / "pids").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # it says that it lives before it writes the file, and that must be read
    return process


def test_ctrl_c_is_passed_on_and_the_command_may_end_in_its_own_way(tmp_path: Path) -> None:
    what = ANSWER_TO_SIGNALS.format(then="say('control', 'exit 13' + said[-1])")
    process = parent(tmp_path, what)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[0] == f"status 13{int(signal.SIGINT)}\n"


def test_a_second_ctrl_c_ends_the_machine(tmp_path: Path) -> None:
    then = "open(order['cwd'] + '/told', 'w').close(); time.sleep(600)"
    process = parent(tmp_path, ANSWER_TO_SIGNALS.format(then=then))
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "told").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[0] == "interrupted\n"
    assert ends(int((tmp_path / "pids").read_text()))


def test_a_ctrl_c_ends_a_machine_whose_command_has_nothing_to_tidy_up(tmp_path: Path) -> None:
    process = parent(tmp_path, ANSWER_TO_SIGNALS.format(then=""), tidies_up=False)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[0] == "interrupted\n"
    assert ends(int((tmp_path / "pids").read_text()))


# Reads a window as slowly as a test can tell, and says when it has it.
SLOW = """
import contextlib, dataclasses, os, signal, time
import kickbench.lab.qemu as q
signal.signal(signal.SIGTERM, signal.default_int_handler)
start = q.Qemu.start
class Windows:
    def take(self, name, size):
        open({folder!r} + "/begun", "w").close()
        while not os.path.exists({folder!r} + "/go"):
            time.sleep(0.01)
        return b"%s %d\\n" % (name.encode(), size)
@contextlib.contextmanager
def slow(self, *order):
    with start(self, *order) as running:
        yield dataclasses.replace(running, windows=Windows())
q.Qemu.start = slow
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_does_not_lose_what_is_being_brought_out(
    tmp_path: Path, number: signal.Signals
) -> None:
    what = """
say('control', 'alive')
open(order["cwd"] + "/pids", "w").write("up")
port['control'].write(b'stdout 1\\nstdout 2\\n')
lines = [port['control'].readline().decode().strip() for _ in range(3)]
say('control', 'exit 13' + min(lines)[-1])
"""
    process = parent(tmp_path, what, SLOW.format(folder=str(tmp_path)))
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.2)
    (tmp_path / "go").touch()
    said = process.communicate(timeout=600)[0]
    assert said == "stdout 1\nstdout 2\nstatus 132\n"


def test_the_handlers_of_signals_are_as_before(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run(tmp_path, "say('control', 'exit 0')") == 0
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_emulator_does_not_survive_us(tmp_path: Path) -> None:
    process = parent(tmp_path, ANSWER_TO_SIGNALS.format(then="time.sleep(600)"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert ends(int((tmp_path / "pids").read_text()))
