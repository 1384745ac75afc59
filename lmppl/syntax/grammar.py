"""The grammar file and the parser tables made from it.

Making the tables takes about a second, so they are kept in a cache directory of the user, under a
name that holds a digest of everything they depend on. Nothing here runs at import.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import pkgutil
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmppl.caches import kept
from lmppl.errors import InternalError
from lmppl.syntax.automaton import Rule, Tables

if TYPE_CHECKING:
    from lark import Lark
    from lark.lexer import TerminalDef

START = "program"
# What the tables in the cache look like; counts up when that changes.
_FORMAT = "2"

# The group of the pattern that all keywords match.
KEYWORD = "KEYWORD"

# Words that only count as keywords right after `extern`; elsewhere they are names.
AFTER_EXTERN = {"lm": "LM", "function": "FUNCTION"}


@functools.cache
def grammar_text() -> str:
    """The text of `lmp.lark`, from the installed package or from the checkout it runs in."""
    with contextlib.suppress(FileNotFoundError):
        packaged = pkgutil.get_data("lmppl", "grammar/lmp.lark")
        if packaged is not None:
            return packaged.decode("utf-8")
    checkout = Path(__file__).parents[2] / "grammar" / "lmp.lark"
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    raise InternalError("the grammar file lmp.lark is missing from the installation")


def build_parser(*, strict: bool = False) -> Lark:
    """Lark's own parser of the grammar.

    `strict` refuses every conflict, also among terminals; it needs the package interegular.
    """
    # A tenth of a second, and only for whoever makes the tables.
    from lark import Lark

    return Lark(
        grammar_text(),
        parser="lalr",
        lexer="contextual",
        start=START,
        strict=strict,
        propagate_positions=False,
        maybe_placeholders=False,
        keep_all_tokens=True,
    )


def build_tables() -> Tables:
    """The tables made from the grammar text, without the cache."""
    built = build_parser()
    # Lark does not say where its tables are.
    table: Any = built.parser.parser._parse_table
    numbers = {rule: -1 - number for number, rule in enumerate(built.rules)}
    states = [
        {
            str(kind): argument if isinstance(argument, int) else numbers[argument]
            for kind, (_, argument) in table.states[number].items()
        }
        for number in range(len(table.states))
    ]
    rules = [
        Rule(
            origin=str(rule.origin.name),
            name=str(rule.alias or rule.origin.name),
            size=len(rule.expansion),
            spread=tuple(
                number
                for number, symbol in enumerate(rule.expansion)
                if not symbol.is_term and symbol.name.startswith("_")
            ),
            unwrap=bool(rule.options.expand1 and not rule.alias),
        )
        for rule in built.rules
    ]
    words = _keywords(built.terminals)
    pattern = _pattern(built.terminals)
    return Tables(states, rules, table.start_states[START], table.end_states[START], pattern, words)


def _pattern(terminals: Collection[TerminalDef]) -> str:
    # The order is that of lark's own lexers: what is longer or more particular is tried first.
    ordered = sorted(
        terminals,
        key=lambda each: (
            -each.priority,
            -each.pattern.max_width,
            -len(each.pattern.value),
            each.name,
        ),
    )
    words = _keywords(terminals)
    # One group for all keywords: Python compiles the pattern in every process. Nothing else that
    # is a token begins with one of them, so that their order makes no difference.
    kinds = [f"(?P<{KEYWORD}>(?:{'|'.join(words)})\\b)"]
    kinds += [
        f"(?P<{each.name}>{each.pattern.to_regexp()})"
        for each in ordered
        if each.name not in {*AFTER_EXTERN.values(), *words.values()}
    ]
    return "|".join(kinds)


def _keywords(terminals: Collection[TerminalDef]) -> dict[str, str]:
    # A keyword is a terminal whose pattern is a word followed by \b.
    found: dict[str, str] = {}
    for each in terminals:
        word = each.pattern.value.removesuffix(r"\b")
        if word.isalpha() and word != each.pattern.value and each.name not in AFTER_EXTERN.values():
            found[word] = each.name
    return found


@functools.cache
def tables() -> Tables:
    """The tables of this process: from the cache where there are some, else built and cached."""
    return kept(f"grammar-{_digest()}.json", _read, build_tables, _written)


@functools.cache
def terminals() -> re.Pattern[str]:
    """One pattern over all terminals of the grammar; the name of the group is the terminal, or
    `KEYWORD`."""
    return re.compile(tables().pattern)


def keywords() -> Mapping[str, str]:
    """The reserved words, each with its terminal."""
    return tables().keywords


def _digest() -> str:
    parts = (grammar_text(), _FORMAT, START)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _read(data: bytes) -> Tables:
    return Tables.of_json(json.loads(data))


def _written(built: Tables) -> bytes:
    return json.dumps(built.to_json()).encode()
