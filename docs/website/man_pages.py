# SPDX-License-Identifier: Apache-2.0
"""The manual pages, from the typer application: one for each command, in the form of man(7).

They are installed with the package, and are stored in packaging/man: the build has no typer.
``PYTHONPATH=docs python -m website.man_pages`` writes them anew, with the completions of the shells
beside them, which are typer's. A test compares what is stored with what this module says.

click-man makes such pages, too. It leaves out all options and arguments of typer's, and cuts texts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kickbench
from website.command_line import contexts, records

ROOT = Path(__file__).resolve().parents[2]
MAN = "packaging/man"
COMPLETIONS = {
    "bash": "packaging/completions/kickbench",
    "zsh": "packaging/completions/_kickbench",
    "fish": "packaging/completions/kickbench.fish",
}
_ENVIRONMENT = {
    "KICKBENCH_DEBUG": "Not empty: as --debug.",
    "KICKBENCH_HOSTNAME": "The host's name in results, for example in a container.",
    "KICKBENCH_LOCK": "The file that runs on one host lock, so that each knows of the others. "
    "Containers of a host need a common one.",
    "KICKBENCH_SSH": 'The command for --host, for example "ssh -p 2222". Otherwise it is ssh.',
    "XDG_CACHE_HOME": "The folder of caches. Otherwise it is ~/.cache.",
}
_FILES = {
    "/dev/kvm": "KVM. You must be able to read and write it.",
    "results/": "The folder of each run, in the current folder.",
    "reports/": "The HTML reports, in the current folder.",
    "~/.cache/kickbench/": "What is made once: the lab's kernels, and the agent's files on a host.",
    "/run/lock/kickbench.measuring": "The file that runs lock if KICKBENCH_LOCK names none.",
}


def man_pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    return {f"{_name(each)}.1": "\n".join(_page(each)) + "\n" for each in contexts()}


def completion(shell: str) -> str:
    """What has a shell complete the command, as typer prints it.

    zsh runs the whole file when it first completes the command. So there the file must complete,
    too.
    """
    environment = {**os.environ, "_KICKBENCH_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-P", "-m", "kickbench"]
    script = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    more = '\n_kickbench_completion "$@"\n' if shell == "zsh" else ""
    return f"{script.stdout.strip()}\n{more}"


def _name(context: Any) -> str:
    return str(context.command_path).replace(" ", "-")


def _page(context: Any) -> Iterator[str]:
    command, name = context.command, _name(context)
    summary, *paragraphs = re.split(r"\n\s*\n", command.help)
    yield r".\" SPDX-License-Identifier: Apache-2.0"
    yield r".\" Made by docs/website/man_pages.py"
    yield f'.TH {_roff(name.upper())} 1 "" "kickbench {kickbench.__version__}" "kickbench"'
    yield ".SH NAME"
    yield rf"{_roff(name)} \- {_roff(summary[0].lower() + summary[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_roff(context.command_path)}"
    yield _roff(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    paragraphs = [summary, *paragraphs] if context.parent else _introduction()
    yield "\n.PP\n".join(map(_roff, paragraphs))
    for kind in ("argument", "option"):
        if found := records(context, kind):
            yield f".SH {kind.upper()}S"
            for names, text in found:
                yield from _entry(_names(names), text)
    if commands := getattr(command, "commands", {}):
        yield ".SH COMMANDS"
        for below, its in commands.items():
            yield from _entry(rf"\fB{_roff(f'{name}-{below}')}\fP(1)", its.help.partition("\n")[0])
    if context.parent:
        yield ".SH SEE ALSO"
        yield r"\fBkickbench\fP(1) has the exit codes, the environment variables and the files."
    else:
        tables = {"EXIT STATUS": _exit_codes(), "ENVIRONMENT": _ENVIRONMENT, "FILES": _FILES}
        for title, table in tables.items():
            yield f".SH {title}"
            for key, text in table.items():
                yield from _entry(rf"\fB{_roff(key)}\fP", text)


def _introduction() -> list[str]:
    """The first paragraph of the README, without its links."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", readme.split("\n\n")[1])]


def _exit_codes() -> dict[str, str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", readme, re.MULTILINE)
    return {code: f"{text[0].upper()}{text[1:]}.".replace("`", "") for code, text in rows}


def _names(names: str) -> str:
    """Options in bold, and what they take in italics: -o, --output DIR."""
    fonts = ((word, "B" if word[0] == "-" else "I") for word in names.split())
    return " ".join(rf"\f{font}{_roff(word)}\fP" for word, font in fonts)


def _entry(tag: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield tag
    yield _roff(text)


def _roff(text: str) -> str:
    """Text as it is, whatever characters it has (groff_char(7)), in lines that are not long."""
    text = textwrap.fill(text, 72, break_long_words=False, break_on_hyphens=False)
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text.replace("'", r"\(aq"))


def main() -> None:
    """Write what is stored in packaging/."""
    for old in (ROOT / MAN).glob("*.1"):
        old.unlink()
    made = {f"{MAN}/{name}": text for name, text in man_pages().items()}
    made |= {path: completion(shell) for shell, path in COMPLETIONS.items()}
    for path, text in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
