"""The fenced blocks of a page in Markdown, with what a comment before a block says of it.

<!-- not run: why -->        the block is only shown
<!-- refused: LMP230 -->     the program must be refused with this code
<!-- output -->              what the last command printed

The word after the language, if any, is the file that the block is written to.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if path.is_file()
]

_BLOCK = re.compile(
    r"(?:^[ ]*<!--[ ](?P<mark>not[ ]run|refused|output)(?::[ ](?P<note>[^\n]*?))?[ ]-->\n)?"
    r"^(?P<indent>[ ]*)(?P<fence>```+)(?P<language>\w*)(?: (?P<file>\S+))?\n"
    r"(?P<body>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its file, text, line in the page, and its mark."""

    language: str
    file: str | None
    body: str
    line: int
    mark: str | None
    note: str | None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return blocks_in(page.read_text(encoding="utf-8"))


def blocks_in(text: str) -> list[Block]:
    """The blocks of a text in Markdown, in order."""
    return [
        Block(
            found["language"],
            found["file"],
            textwrap.dedent(found["body"]),
            text.count("\n", 0, found.start("body")) + 1,
            found["mark"],
            found["note"],
        )
        for found in _BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))
