"""What each code means, a page each: `LMP303.md` says what the code LMP303 is about.

A page is the only place where a code is listed. `lmppl explain` reads one, the index in the
documentation reads all, and nothing else reads any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PAGES = Path(__file__).parent
_HEADING = re.compile(r"# (LMP\d{3}): (.+)\n\n")
_REMARK = re.compile(r"\n<!--.*?-->\n", re.DOTALL)
_PART = re.compile(r"^## (.+)\n\n|^```\w+ ?(.*)\n((?:.*\n)*?)```\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A page: its code, its title, and the Markdown under the title."""

    code: str
    title: str
    text: str

    def __repr__(self) -> str:
        return f"<Explanation {self.code}: {self.title}>"

    def __str__(self) -> str:
        """The page to be read as it is: blocks of code are indented, without their fences."""

        def part(found: re.Match[str]) -> str:
            if found[1] is not None:
                return f"{found[1]}:\n"
            name = f"{found[2]}:\n" if found[2] else ""
            return name + re.sub(r"^(?=.)", "    ", found[3], flags=re.MULTILINE)

        return f"{self.code}: {self.title}\n\n{_PART.sub(part, _REMARK.sub('', self.text))}"


def codes() -> list[str]:
    """Every code, in order."""
    return sorted(path.stem for path in _PAGES.glob("LMP*.md"))


def explanations() -> list[Explanation]:
    """Every page, in order."""
    return [_read(_PAGES / f"{code}.md") for code in codes()]


def explanation(code: str) -> Explanation | None:
    """The page of a code; None where there is no such code."""
    path = _PAGES / f"{code}.md"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> Explanation:
    text = path.read_text(encoding="utf-8")
    heading = _HEADING.match(text)
    if heading is None:
        raise ValueError(f"{path.name} does not begin with `# {path.stem}: title`")
    return Explanation(heading[1], heading[2], text[heading.end() :])
