"""What Python says of characters: which are letters, digits or spaces, and which have a case.

It is asked of Python's own regular-expression engine, so that automata and `re` cannot disagree
about a character, once for every user and Python: the answers lie in the cache.
"""

from __future__ import annotations

import json
import re
import sys
from array import array
from functools import lru_cache
from itertools import chain
from unicodedata import unidata_version

from lmppl.automata.alphabet import Charset, charset
from lmppl.caches import kept

# Planes 4 to 13 are unassigned, 14 holds tags and variation selectors and 15 and 16 are for private
# use: no letters, digits or spaces.  Not scanning them makes the first question four times faster.
_SCANNED = 0x40000


def category(escape: str, ascii_only: bool = False) -> Charset:
    """The characters that `\\w`, `\\d` or `\\s` matches."""
    if ascii_only:
        return _matched(re.compile(f"{escape}+", re.ASCII), "".join(map(chr, range(128))))
    return _table()[escape]


def cased_set() -> Charset:
    """Every character whose letter case could matter, a superset; others are their own case."""
    return _table()[_CASED]


@lru_cache(maxsize=1)
def cased_characters() -> str:
    """Those of `cased_set`, in order."""
    return "".join(chr(code) for first, last in cased_set() for code in range(first, last + 1))


_ESCAPES = (r"\w", r"\d", r"\s")
_CASED = "cased"
# What the table looks like; counts up when that changes.
_FORMAT = 1


@lru_cache(maxsize=1)
def _table() -> dict[str, Charset]:
    # The same for all processes of one Python, and slower to ask for than to read.
    python = f"{sys.implementation.name}-{sys.hexversion:x}-{unidata_version}"
    name = f"characters-{_FORMAT}-{python}.json"
    return kept(name, _read, ask_python, lambda table: json.dumps(table).encode())


def _read(data: bytes) -> dict[str, Charset]:
    found = json.loads(data)
    return {name: tuple((low, high) for low, high in found[name]) for name in (*_ESCAPES, _CASED)}


def ask_python() -> dict[str, Charset]:
    """The characters of every escape, and those that have a case, asked of Python itself."""
    scanned = scanned_characters()
    cased = charset((ord(each), ord(each)) for each in _cased(scanned))
    found = {escape: _matched(re.compile(f"{escape}+"), scanned) for escape in _ESCAPES}
    return {**found, _CASED: cased}


def _matched(pattern: re.Pattern[str], scanned: str) -> Charset:
    return tuple((each.start(), each.end() - 1) for each in pattern.finditer(scanned))


# Ideographs, syllables of Hangul, surrogates and what is for private use lie between these.
_MAY_HAVE_CASE = (range(0, 0x3400, 256), range(0xA000, 0xAC00, 256), range(0xF900, 0x20000, 256))


def _cased(scanned: str) -> set[str]:
    found: set[str] = set()
    for start in chain(*_MAY_HAVE_CASE):
        block = scanned[start : start + 256]
        if block.lower() == block and block.upper() == block:
            continue
        for char, lower, upper in zip(
            block, map(str.lower, block), map(str.upper, block), strict=True
        ):
            if lower != char or upper != char:
                found.update(char, *lower, *upper)
    return found


def scanned_characters() -> str:
    """All characters that may be letters, digits or spaces, in order, and others."""
    # Surrogates are characters of Python's str too. Faster than joining chr(i): from one block of
    # 256 code points to the next each grows by 256, which is one sum of long integers.
    first, step = array("I", range(256)), array("I", [256]) * 256
    block, step_of_all = (int.from_bytes(each.tobytes(), sys.byteorder) for each in (first, step))
    codes = bytearray()
    for _ in range(0, _SCANNED, 256):
        codes += block.to_bytes(4 * 256, sys.byteorder)
        block += step_of_all
    encoding = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
    return codes.decode(encoding, "surrogatepass")
