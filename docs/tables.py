"""The tables in docs/ that are made from the registries of the code.

    python docs/tables.py            writes them anew
    python docs/tables.py --check    exits with 1 where one is out of date

A table stands in a page between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from lmppl.builtins import FACTORS, PLANNED, Argument
from lmppl.builtins.signature import ACCEPTED_IN_WORDS
from lmppl.errors.explanations import explanations
from lmppl.inference import METHODS, Settings
from lmppl.inference.settings import option_default

DOCS = Path(__file__).parent
# At the start of a line: what is indented is shown as code.
_TABLE = re.compile(
    r"(^<!-- table: ([^\n]+?) -->\n).*?(^<!-- end of table -->)", re.DOTALL | re.MULTILINE
)

_BANDS = {
    "0": "Syntax",
    "1": "Names and types",
    "2": "Meaning",
    "3": "Constraints",
    "4": "Inference",
    "5": "Reproducibility",
    "6": "Pedantic",
    "9": "Run time",
}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def builtins(*kinds: str) -> str:
    """Every built-in of these kinds: signature, meaning, example."""
    chosen = [each for each in FACTORS if each.kind in kinds]
    rows = [(f"`{each.signature}`", each.doc, f"`{each.example}`") for each in chosen]
    return markdown(("written", "is", "for instance"), rows)


def arguments(*kinds: str) -> str:
    """Every distinct argument of the built-ins of these kinds."""
    chosen = [each for each in FACTORS if each.kind in kinds]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in chosen:
        for argument in each.arguments:
            cells = (f"`{argument.name}`", _accepted(argument), argument.doc)
            rows.setdefault(cells, []).append(f"`{each.name}`")
    return markdown(
        ("argument", "of", "takes", "meaning"),
        [(name, _few(owners), takes, doc) for (name, takes, doc), owners in rows.items()],
    )


def _few(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _accepted(argument: Argument) -> str:
    if argument.choices:
        return " or ".join(f'`"{choice}"`' for choice in argument.choices)
    words = ACCEPTED_IN_WORDS[argument.accepts]
    if argument.accepts in ("number", "int") and argument.domain != "finite":
        words += f", {argument.domain}"
    if argument.known == "file":
        words += ", written in the file"
    return words


def planned() -> str:
    """The names that are refused with LMP230."""
    by_kind: dict[str, list[str]] = {}
    for name, kind in PLANNED.items():
        by_kind.setdefault(kind, []).append(f"`{name}`")
    return markdown(("kind", "names"), [(kind, ", ".join(n)) for kind, n in by_kind.items()])


def methods() -> str:
    """Every method in one line, linked to its page."""
    return markdown(
        ("method", "what it does"),
        [(f"[{each.name}]({each.name}.md)", each.summary) for each in METHODS],
    )


def options(method: str) -> str:
    """The options of one method with their defaults; those that all methods share come last."""
    kind = next(each for each in METHODS if each.name == method)
    shared = {setting.name for setting in fields(Settings)}
    ordered = sorted(fields(kind), key=lambda setting: setting.name in shared)
    rows = []
    for setting in ordered:
        default = option_default(setting)
        shown = "" if default is None else f"`{default!r}`"
        rows.append((f"`{setting.name}`", shown, setting.metadata["doc"]))
    return markdown(("option", "default", "meaning"), rows)


def diagnostics() -> str:
    """Every code with its title, band by band."""
    parts = []
    for band, title in _BANDS.items():
        rows = [(f"`{each.code}`", each.title) for each in explanations() if each.code[3] == band]
        if rows:
            parts.append(f"### {band}xx: {title}\n\n" + markdown(("code", "meaning"), rows))
    return "\n".join(parts)


_MAKERS: dict[str, Callable[..., str]] = {
    "builtins": builtins,
    "arguments": arguments,
    "planned": planned,
    "methods": methods,
    "options": options,
    "diagnostics": diagnostics,
}


def renewed(page: str) -> str:
    """The page with every table made anew."""

    def table(found: re.Match[str]) -> str:
        maker, *parameters = found[2].split()
        return f"{found[1]}\n{_MAKERS[maker](*parameters)}\n{found[3]}"

    return _TABLE.sub(table, page)


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def main(check: bool) -> int:
    stale = []
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(DOCS.parent)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
