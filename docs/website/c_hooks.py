# SPDX-License-Identifier: Apache-2.0
"""The reference of what a protocol sees of the engine, from the comments of ``protocol.h``.

The header's first comment describes the hooks, a prototype and its words in columns. Each comment
after that is about the declarations that follow it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = Path("kickbench/engine/include/kickbench/protocol.h")

_INTRODUCTION = f"""\
# C hooks

This page has what the header of the protocols says. It is made from its comments.
[Protocols of your own](../docs/protocols.md) explains how you write a protocol, and
`{HEADER}` is the whole header.

## The hooks

"""
# A hook is a prototype; its words stand beside it, and on lines of their own that begin far right.
_HOOK = re.compile(r"^\t(?P<code>\w[\w *]*\([^()]*\))(?: +(?P<text>.*))?$")
_MORE = re.compile(r"^\t {8,}(?P<text>\S.*)$")
_COMMENT = re.compile(r"/\*(.*?)\*/", re.DOTALL)
_NAME = re.compile(r"#define (KB_\w+)|(?:enum|struct) (kb_\w+) \{|\b(kb_\w+)\(")


@dataclass(frozen=True)
class Hook:
    """A function that a protocol defines."""

    prototype: str
    text: str

    @property
    def name(self) -> str:
        return self.prototype.partition("(")[0].split()[-1].lstrip("*")


@dataclass(frozen=True)
class Declarations:
    """Declarations that follow each other, and the comment before them."""

    text: str
    code: str

    @property
    def names(self) -> list[str]:
        """What is declared, in order: what stands at the beginning of a line."""
        starts = [line for line in self.code.splitlines() if line and not line[0].isspace()]
        found = (_NAME.search(line) for line in starts)
        return [next(filter(None, match.groups())) for match in found if match]


def page(root: Path) -> str:
    """The page, in Markdown."""
    text = (root / HEADER).read_text(encoding="utf-8")
    parts = [_INTRODUCTION]
    for part in introduction(text):
        if isinstance(part, Hook):
            parts.append(f"### {part.name}\n\n```c\n{part.prototype};\n```\n\n{part.text}\n")
        else:
            parts.append(f"{part}\n")
    parts.append("## What the engine offers\n")
    for block in declarations(text):
        title = ", ".join(block.names)
        parts.append(f"### {title}\n\n{block.text}\n\n```c\n{block.code}\n```\n")
    return "\n".join(parts)


def introduction(header: str) -> Iterator[Hook | str]:
    """The first long comment: hooks, and the paragraphs around them in Markdown."""
    comment = next(c for c in _COMMENT.findall(header) if "hooks" in c)
    for paragraph in re.split(r"\n\n", _unstarred(comment)):
        lines = paragraph.splitlines()
        if not _HOOK.match(lines[0]):
            code = all(line.startswith("\t") for line in lines)
            dedented = "\n".join(line.removeprefix("\t") for line in lines)
            yield f"```c\n{dedented}\n```" if code else _prose(paragraph)
            continue
        prototype, words = "", list[str]()
        for line in lines:
            if begins := _HOOK.match(line):
                if prototype:
                    yield _hook(prototype, words)
                prototype, words = begins["code"], [begins["text"] or ""]
            elif more := _MORE.match(line):
                words.append(more["text"])
        yield _hook(prototype, words)


def _hook(prototype: str, words: list[str]) -> Hook:
    """The words become a sentence, as they begin and end as in a table."""
    text = _prose(" ".join(words))
    return Hook(re.sub(r"\s+", " ", prototype), f"{text[0].upper()}{text[1:].rstrip('.')}.")


def declarations(header: str) -> Iterator[Declarations]:
    """What follows the includes, comment by comment; the bodies of functions are left out."""
    body = header[header.rindex("#include") :].partition("\n")[2]
    body = body.removesuffix("#endif\n")
    parts = re.split(r"^(/\*.*?\*/)$", body, flags=re.DOTALL | re.MULTILINE)
    for comment, code in [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]:
        text = "" if "----" in comment else _prose(_unstarred(comment.strip("/*")))
        code = re.sub(r"^_Static_assert\(.*?\);$", "", code, flags=re.DOTALL | re.MULTILINE)
        code = re.sub(r"\)\n\{.*?^\}$", ");", code, flags=re.DOTALL | re.MULTILINE)
        code = re.sub(r"\n{2,}", "\n\n", code).strip()
        if code:
            yield Declarations(text, code)


def _unstarred(comment: str) -> str:
    lines = (re.sub(r"^ \* ?", "", line) for line in comment.splitlines())
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _prose(text: str) -> str:
    """A comment's words as Markdown: names are code, and nothing else means anything."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(
        r"`[^`]*`|(?:#define )?\b(?:kb_\w+(?:\(\))?|KB_\w+|KVM_RUN|true(?=:))\b|\*\w*|<",
        lambda match: match[0] if match[0][0] == "`" else f"`{match[0]}`",
        text,
    )
