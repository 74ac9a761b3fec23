# SPDX-License-Identifier: Apache-2.0
"""The command line as a script sees it: exit codes, and errors of one or two lines that help."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import KICKBENCH, kickbench_captured

import kickbench
from kickbench import entry
from kickbench.cli import COMMANDS

# What the tests mean to see must not depend on the terminal or the settings of who runs them.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("KICKBENCH_DEBUG", "PYTHONPATH", "PYTHONSAFEPATH", "FORCE_COLOR")
} | {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}

Command = Callable[..., subprocess.CompletedProcess[str]]


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=ENVIRONMENT,
        **options,
    )


def cli(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a script starts it."""
    return run([*KICKBENCH, *map(str, arguments)], cwd=cwd)


def here(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As ``cli``, in this process: for what does not depend on how the command was started."""
    return kickbench_captured(*arguments, cwd=cwd, env=ENVIRONMENT)


def is_helpful(stderr: str) -> bool:
    """One or two lines that begin with the program's name, and no traceback."""
    lines = stderr.splitlines()
    return 1 <= len(lines) <= 2 and lines[0].startswith("kickbench: ") and "Traceback" not in stderr


# --- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["run", "--nonsense"],
        ["run", "quick", "one-too-many"],
        ["run", "--results"],
        ["run", "quick", "--results", ""],
        ["report", "x", "-o", ""],
        ["methods", "--nonsense"],
        ["doctor", "superfluous"],
        ["report"],
        ["scenario", "nonsense"],
        ["scenario", "validate"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: list[str], tmp_path: Path) -> None:
    done = here(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_help_and_is_2() -> None:
    done = cli()
    assert done.returncode == 2
    assert "Usage: " in done.stdout + done.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_0_and_goes_to_standard_output(command: list[str], option: str) -> None:
    done = here(*command, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout


@pytest.mark.parametrize(
    "command", [[], ["fleet"], ["history"], ["lab"], ["scenario"]], ids=" ".join
)
def test_the_list_of_commands_has_no_line_that_is_cut(command: list[str]) -> None:
    assert "..." not in here(*command, "--help").stdout.partition("Commands:")[2]


def test_version() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"kickbench {kickbench.__version__}\n",
        "",
    )


def test_ctrl_c_while_the_command_loads_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loading:
        @property
        def main(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "kickbench.cli", Loading())  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "kickbench: interrupted\n"


LOADS_AND_IS_INTERRUPTED = """
import sys, time
import kickbench.cli
from kickbench import entry

def load():
    try:
        import interrupted
        time.sleep(600)
    finally:
        print(interrupted.is_whole)

kickbench.cli.main = load
entry.main()
"""
INTERRUPTED = """
import signal
try:
    exec("signal.raise_signal(signal.SIGINT)")
except KeyboardInterrupt:
    raise ImportError("initialization failed")
is_whole = True
"""


def test_a_ctrl_c_while_a_library_loads_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    (tmp_path / "loads.py").write_text(LOADS_AND_IS_INTERRUPTED)
    done = run([sys.executable, "-m", "loads"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "True\n")
    assert done.stderr == "kickbench: interrupted\n"


def test_run_without_a_scenario_is_2() -> None:
    done = here("run")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_helpful(done.stderr)
    assert "kickbench scenario list" in done.stderr


@pytest.mark.parametrize("more", [["quick"], ["--quick"], ["--strict"]], ids=" ".join)
def test_resume_takes_neither_a_scenario_nor_its_options(more: list[str], tmp_path: Path) -> None:
    done = here("run", "--resume", tmp_path, *more)
    assert done.returncode == 2
    assert is_helpful(done.stderr)


@pytest.mark.parametrize("command", [["show"], ["report"], ["run", "--resume"]], ids=" ".join)
@pytest.mark.parametrize("kind", ["a folder", "a file", "nothing"])
def test_what_is_no_results_folder_is_2(command: list[str], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "results"
    if kind == "a folder":
        path.mkdir()
        (path / "unrelated.txt").write_text("hello\n")
    elif kind == "a file":
        path.write_text("hello\n")
    if command[0] == "run" and not usable_kvm():
        pytest.skip("resuming looks at the host first, and KVM is not usable")
    done = here(*command, path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_helpful(done.stderr)
    assert str(path) in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_name_longer_than_any_file_is_2() -> None:
    """In processes: each of these commands is started once as a script starts it."""
    for command in ("run", "show", "report"):
        done = cli(command, "x" * 300)
        assert done.returncode == 2, command
        assert is_helpful(done.stderr)


def usable_kvm() -> bool:
    from kickbench.host.capabilities import probe

    return probe().usable


# --- bad scenarios -----------------------------------------------------------------------------

HEAD = 'name = "bad"\n'
VM = "[vm]\nvcpus = 1\n"
GUEST = '[guest]\nprogram = "pm_timer"\n'
PLACEMENT = '[[placement]]\nname = "here"\n'

# Name: the file, and the key, place or word that the message must name.
BAD_SCENARIOS: dict[str, tuple[str | bytes, str]] = {
    "unknown key": (HEAD + VM + "vcpu = 2\n" + GUEST, "vm.vcpu: unknown key"),
    "unknown table": (HEAD + VM + GUEST + "[guests]\n", "guests"),
    "wrong type": (HEAD + "[vm]\nvcpus = 'two'\n" + GUEST, "vm.vcpus"),
    "table instead of value": (HEAD + VM + "[guest]\nprogram = {a = 1}\n", "guest.program"),
    "value instead of table": (HEAD + "vm = 1\n" + GUEST, "vm: expected a table"),
    "missing key": (HEAD + "[vm]\n" + GUEST, "vm.vcpus"),
    "missing name": (VM + GUEST, "name: missing"),
    "unknown program": (HEAD + VM + '[guest]\nprogram = "pm_timers"\n', "pm_timer"),
    "unknown method": (HEAD + VM + GUEST + '[measure]\nmethods = "sigmsk"\n', "sigmask"),
    "unknown kind": (HEAD + VM + GUEST + '[measure]\nkinds = "exit"\n', "measure.kinds"),
    "unknown irqchip": (HEAD + VM + 'irqchip = "apic"\n' + GUEST, "vm.irqchip"),
    "empty sweep": (HEAD + "[vm]\nvcpus = []\n" + GUEST, "vm.vcpus"),
    "duplicate in a sweep": (HEAD + "[vm]\nvcpus = [2, 2]\n" + GUEST, "vm.vcpus"),
    "too large a sweep": (
        HEAD + f"[vm]\nvcpus = {list(range(1, 1025))}\n" + GUEST + f"exit_rate_hz = "
        f"{list(range(1, 12))}\n",
        "cases",
    ),
    "0 vCPUs": (HEAD + "[vm]\nvcpus = 0\n" + GUEST, "vm.vcpus"),
    "5000 vCPUs": (HEAD + "[vm]\nvcpus = [1, 5000]\n" + GUEST, "vm.vcpus[1]"),
    "negative rate": (HEAD + VM + GUEST + "exit_rate_hz = -1\n", "guest.exit_rate_hz"),
    "rate of 0": (HEAD + VM + GUEST + "exit_rate_hz = 0\n", "guest.exit_rate_hz"),
    "rate not a number": (HEAD + VM + GUEST + "exit_rate_hz = nan\n", "guest.exit_rate_hz"),
    "infinite rate": (HEAD + VM + GUEST + "exit_rate_hz = inf\n", "guest.exit_rate_hz"),
    "precision not a number": (HEAD + VM + GUEST + "[measure]\nprecision = nan\n", "precision"),
    "0 processes": (HEAD + VM + GUEST + "[measure]\nprocesses = 0\n", "measure.processes"),
    "paced spin": (HEAD + VM + '[guest]\nprogram = "spin"\nexit_rate_hz = 10\n', "spin"),
    "baseline not measured": (
        HEAD + VM + GUEST + '[measure]\nmethods = "sigmask"\nbaseline = "immediate_exit"\n',
        "measure.baseline",
    ),
    "placements of one name": (HEAD + VM + GUEST + 2 * PLACEMENT, "here"),
    "placement in words": (HEAD + VM + GUEST + PLACEMENT + 'vcpus = "node one"\n', "placement"),
    "backward CPU range": (HEAD + VM + GUEST + PLACEMENT + 'vcpus = "cpu:3-1"\n', "placement"),
    "name that leaves the folder": ('name = "../../evil"\n' + VM + GUEST, "name"),
    "name with markup": ('name = "<script>"\n' + VM + GUEST, "name"),
    "description with an escape": (
        HEAD + 'description = "\\u001b[31m"\n' + VM + GUEST,
        "description",
    ),
    "syntax error": (HEAD + "[vm\n", "TOML syntax error"),
    "key twice": (HEAD + HEAD + VM + GUEST, "TOML syntax error"),
    "nested too deeply": (HEAD + "a = " + "[" * 100_000, "nested too deeply"),
    "empty file": ("", "name: missing"),
    "not UTF-8": (b'name = "\xff"\n', "UTF-8"),
    "binary": (b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)), "bad.toml"),
}


@pytest.mark.parametrize("case", BAD_SCENARIOS)
def test_a_bad_scenario_is_2_in_a_line_or_two_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    content, culprit = BAD_SCENARIOS[case]
    file = tmp_path / "bad.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = here("run", file.name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_helpful(done.stderr)
    assert "bad.toml" in done.stderr
    assert culprit in done.stderr
    assert "\x1b" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_100_mb_of_garbage_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    with file.open("wb") as garbage:
        garbage.truncate(100 << 20)
    done = here("run", file)
    assert done.returncode == 2
    assert is_helpful(done.stderr)
    assert "1 MiB" in done.stderr


def test_a_scenario_that_is_not_there_is_2_and_names_those_there_are(tmp_path: Path) -> None:
    done = here("run", "quik", cwd=tmp_path)
    assert done.returncode == 2
    assert is_helpful(done.stderr)
    assert 'did you mean "quick"' in done.stderr
    assert "smp_windows_like" in done.stderr


@pytest.mark.parametrize("kind", ["a directory", "a pipe", "/dev/null"])
def test_what_is_no_regular_file_is_no_scenario(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path = Path(kind)
    done = here("run", path)
    assert done.returncode == 2
    assert is_helpful(done.stderr)
    assert str(path) in done.stderr


# --- --debug -----------------------------------------------------------------------------------


def test_debug_shows_the_traceback_and_keeps_the_exit_code() -> None:
    done = here("--debug", "run", "no_such_scenario")
    assert "Traceback (most recent call last):" in done.stderr
    assert "ScenarioError" in done.stderr
    # Not Python's 1 for an exception: that says "a regression was found".
    assert done.returncode == 2


# --- a reader that leaves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["methods"], ["doctor"], ["scenario", "schema"], ["scenario", "list"], ["--help"]],
    ids=" ".join,
)
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    """As in ``kickbench methods | true``: the pipe is closed before the first line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [*KICKBENCH, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
            check=False,
            env=ENVIRONMENT,
        )
    assert done.stderr == ""
    # Not Click's 1: that says "a regression was found". 3 is what doctor says of the host.
    assert done.returncode in (0, 3)


SAYS_AND_FAILS = """
import os, sys, typer
from kickbench import cli
from kickbench.errors import UsageError

@cli.app.command()
def probe(kind: str) -> None:
    for _ in range(3):
        typer.echo("x" * 100_000)
        typer.echo(b"bytes")
        typer.echo("y", err=True)
    open(os.environ["DONE"], "w").close()
    if kind == "error":
        raise UsageError("wrong")
    if kind == "pipe":
        raise BrokenPipeError(32, "of another pipe")
    raise typer.Exit(1)

cli.main()
"""


@pytest.mark.parametrize(("kind", "code"), [("exit", 1), ("error", 2), ("pipe", 4)])
def test_a_reader_that_leaves_changes_neither_the_work_nor_its_outcome(
    kind: str, code: int, tmp_path: Path
) -> None:
    """As in ``kickbench compare --fail-on-regression A B 2>&1 | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-P", "-c", SAYS_AND_FAILS, "probe", kind],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            timeout=600,
            check=False,
            env={**ENVIRONMENT, "DONE": str(tmp_path / "done")},
        )
    assert done.returncode == code
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("encoding", "dash"), [("latin-1", "\\u2014"), ("utf-8", "\u2014")])
def test_letters_that_the_locale_has_not_are_escaped(
    tmp_path: Path, encoding: str, dash: str
) -> None:
    command = ["env", f"PYTHONIOENCODING={encoding}", *KICKBENCH]
    query = ["fleet", "query", str(tmp_path), 'SELECT 1 AS "\u2014"']
    done = run([*command, *query], encoding="utf-8")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, dash)
    done = run([*command, "show", "\u2014"], encoding="utf-8")
    assert (done.returncode, done.stderr) == (2, f"kickbench: {dash}: does not exist\n")


def test_output_that_cannot_be_written_is_4_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*KICKBENCH, "methods"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 4
        assert done.stderr == "kickbench: standard output: No space left on device\n"
        done = subprocess.run(
            [*KICKBENCH, "nonsense"], stderr=full, timeout=600, check=False, env=ENVIRONMENT
        )
        assert done.returncode == 2


# --- Ctrl-C ------------------------------------------------------------------------------------

WRITES_AND_IS_INTERRUPTED = """
import signal, sys
from kickbench.cli import _tolerant_streams

def interrupt(frame, event, function):
    ours = "kickbench" in frame.f_code.co_filename
    if event == "c_return" and function.__name__ == {function!r} and ours:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

with _tolerant_streams():
    sys.setprofile(interrupt)
    try:
        sys.stdout.write("a line\\n")
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("function", ["write", "flush"])
def test_a_ctrl_c_while_a_line_is_written_does_not_write_it_again(function: str) -> None:
    text = WRITES_AND_IS_INTERRUPTED.format(function=function)
    done = run([sys.executable, "-P", "-c", text])
    assert (done.stdout, done.stderr) == ("a line\ninterrupted\n", "")


ENDS_AND_IS_INTERRUPTED = """
import atexit, signal, sys
from kickbench import entry
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["kickbench", "scenario", "list"]
entry.main()
"""


def test_a_ctrl_c_while_python_ends_is_no_traceback() -> None:
    done = run([sys.executable, "-P", "-c", ENDS_AND_IS_INTERRUPTED])
    assert done.stderr == ""
    assert "quick" in done.stdout
    assert done.returncode == -signal.SIGINT


def test_ctrl_c_before_python_has_begun_is_heard_later(tmp_path: Path) -> None:
    """Whoever starts kickbench may keep the signal back until kickbench can hear it."""
    process = subprocess.Popen(
        [*KICKBENCH, "run", "quick", "--results", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]),
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said == "kickbench: interrupted\n"


# --- imports -----------------------------------------------------------------------------------

DECOY = "raise SystemExit('the wrong kickbench was imported')\n"


def test_a_folder_named_kickbench_in_the_current_directory_is_not_taken(tmp_path: Path) -> None:
    for name in ("kickbench", "numpy", "typer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(DECOY)
    done = cli("scenario", "list", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    script = shutil.which("kickbench", path=str(Path(sys.executable).parent))
    if script is not None:
        done = run([script, "scenario", "list"], cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.kvm
def test_the_worker_is_not_taken_from_the_current_directory_either(tmp_path: Path) -> None:
    (tmp_path / "kickbench").mkdir()
    (tmp_path / "kickbench" / "__init__.py").write_text(DECOY)
    (tmp_path / "short.toml").write_text(
        HEAD + VM + GUEST + "[measure]\nprocesses = 1\nmax_seconds = 0.2\n"
    )
    done = cli("run", "short.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results").glob("*/*/summary.json"))) == 1


HEAVY = {"jinja2", "matplotlib", "numpy", "pandas", "pyarrow", "pyperf", "scipy"}


def imported(*arguments: str) -> set[str]:
    """The top-level packages that a command imports, as ``python -X importtime`` lists them."""
    done = run([sys.executable, "-P", "-X", "importtime", "-m", "kickbench", *arguments])
    names = re.findall(r"^import time:[^|]*\|[^|]*\|\s*(\S+)$", done.stderr, re.MULTILINE)
    assert "kickbench" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_no_heavy_library(option: str) -> None:
    assert not imported(option) & (HEAVY | {"pydantic"})


# Here typer itself may import pydantic, where it is installed.
@pytest.mark.parametrize(
    "arguments",
    [["run", "--help"], ["show", "--help"], ["methods"], ["x"]],
    ids=" ".join,
)
def test_what_computes_nothing_imports_no_heavy_library(arguments: list[str]) -> None:
    assert not imported(*arguments) & HEAVY


# --- a host that cannot ------------------------------------------------------------------------

# Inside a mount namespace of its own, so that nobody else's /dev/kvm is touched.
NAMESPACE = r"""
set -e
work=$1 how=$2
shift 2
case $how in
missing)
    mkdir -p "$work/dev"
    mount --rbind /dev "$work/dev"
    mount -t tmpfs tmpfs /dev
    for device in null zero random urandom; do
        : > "/dev/$device"
        mount --bind "$work/dev/$device" "/dev/$device"
    done
    mkdir /dev/shm
    ;;
other | forbidden)
    : > "$work/kvm"
    chmod 000 "$work/kvm"
    if [ ! -e /dev/kvm ]; then mount -t tmpfs tmpfs /dev; : > /dev/kvm; : > /dev/null; fi
    mount --bind "$work/kvm" /dev/kvm
    ;;
esac
if [ "$how" = forbidden ]; then
    # The owner's permissions, none, count for a root that has no capabilities.
    set -- setpriv --inh-caps=-all --bounding-set=-all "$@"
fi
exec "$@"
"""


@pytest.fixture(params=["missing", "other", "forbidden"])
def broken_kvm(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Command]:
    """What is wrong with /dev/kvm, and a function that runs kickbench where it is so."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("needs unshare and setpriv (util-linux)")
    namespace = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        namespace.append("--map-root-user")
    namespace += ["sh", "-c", NAMESPACE, "sh", str(tmp_path), request.param]
    tried = run([*namespace, sys.executable, "-c", "import os; os.stat('/dev/null')"])
    if tried.returncode != 0:
        reason = tried.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"no mount namespace may be made here: {reason}")

    def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run([*namespace, *KICKBENCH, *arguments], **options)

    return request.param, command


ADVICE = {
    "missing": ("/dev/kvm does not exist", "modprobe"),
    "other": ("/dev/kvm is not a KVM device", "udev"),
    "forbidden": ("no permission to open /dev/kvm", "its mode is 0000"),
}


def test_run_without_kvm_is_3_and_says_what_to_do(
    broken_kvm: tuple[str, Command], tmp_path: Path
) -> None:
    how, command = broken_kvm
    results = tmp_path / "results"
    done = command("run", "quick", "--results", str(results))
    assert (done.returncode, done.stdout) == (3, "")
    assert is_helpful(done.stderr)
    assert all(words in done.stderr for words in ADVICE[how])
    assert not results.exists()


def test_doctor_without_kvm_is_3_and_says_so_first(broken_kvm: tuple[str, Command]) -> None:
    how, command = broken_kvm
    done = command("doctor")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("This host cannot run kickbench")
    assert all(words in " ".join(done.stdout.split()) for words in ADVICE[how])


def test_methods_without_kvm_still_prints_the_catalogue(broken_kvm: tuple[str, Command]) -> None:
    how, command = broken_kvm
    done = command("methods")
    assert (done.returncode, done.stderr) == (0, "")
    assert ADVICE[how][0] in done.stdout
    assert "immediate_exit" in done.stdout


@pytest.mark.kvm
def test_a_scenario_of_which_no_case_can_run_is_3(tmp_path: Path) -> None:
    for where in ("node:999", "cpu:9999"):
        file = tmp_path / "elsewhere.toml"
        file.write_text(HEAD + VM + GUEST + PLACEMENT + f'vcpus = "{where}"\n')
        done = here("run", file, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert is_helpful(done.stderr)
        assert where.partition(":")[2] in done.stderr
        assert not (tmp_path / "results").exists()
