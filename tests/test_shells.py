# SPDX-License-Identifier: Apache-2.0
"""What shells and man get: completions and manual pages, as they are stored and as they work."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import kickbench, kickbench_captured
from website import man_pages
from website.command_line import contexts

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / man_pages.MAN).glob("*.1"))
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
AGAIN = "write them anew: PYTHONPATH=docs python -m website.man_pages"


# --- manual pages ------------------------------------------------------------------------------


def test_the_stored_manual_pages_are_those_of_the_commands() -> None:
    stored = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
    assert stored == man_pages.man_pages(), AGAIN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_manual_page_has_a_name_that_whatis_shows(page: Path) -> None:
    _, _, name = page.read_text(encoding="utf-8").partition(".SH NAME\n")
    line = name.partition("\n")[0].replace(r"\-", "-")
    assert re.fullmatch(rf"{page.stem} - [a-z].*[^.]", line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_manual_page_shows_no_marks_of_markdown(page: Path) -> None:
    """Nor does --help, which has the same texts."""
    assert r"\(ga" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "check",
    [
        ["groff", "-man", "-ww", "-z", "-Tutf8"],
        ["mandoc", "-Tlint", "-Wwarning"],
    ],
    ids=lambda check: check[0],
)
def test_what_formats_manual_pages_has_nothing_to_warn_of(check: list[str]) -> None:
    if shutil.which(check[0]) is None:
        pytest.skip(f"there is no {check[0]}")
    done = subprocess.run([*check, *PAGES], capture_output=True, text=True, check=False)
    found = (done.stdout + done.stderr).splitlines()
    # A page has the version instead: no date says when the next release comes.
    assert [line for line in found if "missing date" not in line] == []


def test_exit_code_1_names_every_command_that_can_be_asked_for_it() -> None:
    asked = {
        f"{context.command_path.removeprefix('kickbench ')} {option}"
        for context in contexts()
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--fail-on")
    }
    assert "ab report --fail-on-regression" in asked
    (row,) = re.findall(r"(?m)^\| 1 \| .*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert asked == {words for words in re.findall(r"`([^`]+)`", row) if "--" in words}


# --- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", man_pages.COMPLETIONS)
def test_the_stored_completion_is_that_of_typer(shell: str) -> None:
    stored = (ROOT / man_pages.COMPLETIONS[shell]).read_text(encoding="utf-8")
    assert stored == man_pages.completion(shell), AGAIN


def test_the_command_prints_the_completion_too() -> None:
    # Typer then takes the shell from the command, and not from the processes above.
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = kickbench("--show-completion", "bash", env=environment)
    assert shown.stdout.strip() == man_pages.completion("bash").strip()


COMMANDS_WITH_A_SCENARIO = [
    *("run", "lab run", "lab explain", "fleet run", "bisect"),
    *("ab start", "scenario validate", "scenario validate my_guest.toml"),
]


@pytest.mark.parametrize("command", COMMANDS_WITH_A_SCENARIO)
def test_every_command_that_takes_a_shipped_scenario_completes_its_name(command: str) -> None:
    done = completed(f"kickbench {command} smp_w")
    assert (done.returncode, done.stdout.split()) == (0, ["smp_windows_like"])


@pytest.mark.parametrize(
    "asked", [{}, {"COMP_WORDS": "kickbench ru"}, {"COMP_WORDS": "kickbench", "COMP_CWORD": "x"}]
)
def test_a_completion_that_no_shell_asks_for_ends_quietly(asked: dict[str, str]) -> None:
    done = kickbench(env={**os.environ, "_KICKBENCH_COMPLETE": "complete_bash", **asked})
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def completed(line: str) -> subprocess.CompletedProcess[str]:
    """What bash gets for the last word of a line."""
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    return kickbench_captured(env={**os.environ, "_KICKBENCH_COMPLETE": "complete_bash", **asked})


def bash(folder: Path) -> tuple[list[str], dict[str, str]]:
    if not BASH_COMPLETION.exists():
        pytest.skip("there is no bash-completion")
    place = folder / "bash-completion/completions"
    place.mkdir(parents=True)
    shutil.copy(ROOT / man_pages.COMPLETIONS["bash"], place)
    (folder / "rc").write_text(f"source {BASH_COMPLETION}\n")
    return ["bash", "--rcfile", str(folder / "rc"), "-i"], {"XDG_DATA_DIRS": str(folder)}


def zsh(folder: Path) -> tuple[list[str], dict[str, str]]:
    shutil.copy(ROOT / man_pages.COMPLETIONS["zsh"], folder)
    (folder / ".zshrc").write_text(
        f"fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D\n"
    )
    return ["zsh", "-i"], {"ZDOTDIR": str(folder)}


def fish(folder: Path) -> tuple[list[str], dict[str, str]]:
    place = folder / "fish/vendor_completions.d"
    place.mkdir(parents=True)
    shutil.copy(ROOT / man_pages.COMPLETIONS["fish"], place)
    return ["fish", "-i"], {"XDG_DATA_DIRS": f"{folder}:/usr/local/share:/usr/share"}


@pytest.mark.parametrize("shell", [bash, zsh, fish], ids=lambda shell: shell.__name__)
def test_a_shell_completes_commands_scenarios_and_files(
    shell: Callable[[Path], tuple[list[str], dict[str, str]]], tmp_path: Path
) -> None:
    """Keys are typed in a terminal. The command that they start keeps its arguments."""
    if shutil.which(shell.__name__) is None:
        pytest.skip(f"there is no {shell.__name__}")
    home, tools, kept = tmp_path / "home", tmp_path / "bin", tmp_path / "kept"
    home.mkdir()
    tools.mkdir()
    (tmp_path / "share").mkdir()
    (home / "my_guest.toml").touch()
    command = tools / "kickbench"
    command.write_text(
        "#!/bin/sh\n"
        f'if [ "$_KICKBENCH_COMPLETE" ]; then exec {sys.executable} -P -m kickbench "$@"; fi\n'
        f'echo "$@" >{kept}.part; mv {kept}.part {kept}\n'
    )
    command.chmod(0o755)
    arguments, more = shell(tmp_path / "share")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": str(home), "PATH": path, "TERM": "xterm", "LC_ALL": "C.UTF-8", **more}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606
    try:
        os.write(terminal, b"kickbench ru\tsmp_wi\tmy_g\t\n")
        shown = output_until(kept.exists, terminal)
        assert kept.exists(), shown
        assert kept.read_text().split() == ["run", "smp_windows_like", "my_guest.toml"]
    finally:
        os.close(terminal)  # which ends the shell
        os.waitpid(pid, 0)


def output_until(is_done: Callable[[], bool], terminal: int) -> str:
    shown = b""
    end = time.monotonic() + 300
    while not is_done() and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
    return shown.decode(errors="replace")
