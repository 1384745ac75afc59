r"""What a literal stands for: numbers, escapes, and the names inside f-strings.

Offsets in problems are relative to the start of the literal.
"""

from __future__ import annotations

import math
import re

from lmppl.records import dataclass

# Numbers beyond this do not fit the 64-bit integers that the rest of the pipeline uses.
LARGEST_INT = 2**63 - 1

_SIMPLE_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "\n": "",
}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9A-Fa-f]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOLE = re.compile(r"\{([^{}\n]*)\}")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a literal; `start` and `end` are relative to the literal."""

    code: str
    start: int
    end: int
    message: str
    help: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A decoded stretch of a string or, where `name` is set, an interpolation.

    `name_start` and `name_end` are the place of the name inside the literal.
    """

    start: int
    end: int
    value: str
    name: str | None = None
    name_start: int = 0
    name_end: int = 0


def decode_int(text: str) -> tuple[int, list[Problem]]:
    """The value of an integer literal, and what is wrong with it."""
    digits = text.replace("_", "").lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > LARGEST_INT:
        problem = Problem(
            "LMP017",
            0,
            len(text),
            "this integer is too large",
            f"the largest is {LARGEST_INT}; a real number such as 1e30 may be larger",
        )
        return 0, [problem]
    return int(digits), []


def decode_real(text: str) -> tuple[float, list[Problem]]:
    """The value of a real literal, and what is wrong with it."""
    value = float(text)
    if math.isinf(value):
        problem = Problem(
            "LMP017",
            0,
            len(text),
            "this number is too large",
            "the largest real number is about 1.8e308",
        )
        return 0.0, [problem]
    return value, []


def decode_string(text: str, reserved: frozenset[str]) -> tuple[list[Piece], list[Problem]]:
    """The pieces of a string literal in order, neighbouring text joined, and what is wrong.

    `reserved` are the words that cannot be names.
    """
    prefix = text[0] if text[0] in "rf" else ""
    quotes = '"""' if text.startswith('"""', len(prefix)) else '"'
    start = len(prefix) + len(quotes)
    stop = len(text) - len(quotes)
    if prefix == "r":
        return [Piece(start, stop, text[start:stop])], []
    if "\\" not in text and prefix != "f":
        return [Piece(start, stop, text[start:stop])], []
    pieces: list[Piece] = []
    problems: list[Problem] = []
    value: list[str] = []
    # Braces that were escaped by mistake: their partners are not worth a second complaint.
    forgiven = 0
    since = position = start
    while position < stop:
        character = text[position]
        if character == "\\":
            forgiven += prefix == "f" and text[position + 1] == "{"
            decoded, position = _escape(text, position, stop, prefix == "f", problems)
            value.append(decoded)
        elif (
            prefix == "f"
            and text[position : position + 2] in ("{{", "}}")
            and (position + 1 < stop)
        ):
            value.append(character)
            position += 2
        elif prefix == "f" and character == "{":
            hole = _hole(text, position, stop, reserved, problems)
            if hole.name is not None:
                if position > since:
                    pieces.append(Piece(since, position, "".join(value)))
                pieces.append(hole)
                value = []
                since = hole.end
            position = hole.end
        elif prefix == "f" and character == "}" and forgiven:
            forgiven -= 1
            position += 1
        elif prefix == "f" and character == "}":
            problems.append(
                Problem(
                    "LMP016",
                    position,
                    position + 1,
                    "this `}` closes nothing",
                    "a brace that belongs to the text is doubled in an f-string: `}}`",
                )
            )
            position += 1
        else:
            value.append(character)
            position += 1
    if stop > since or not pieces:
        pieces.append(Piece(since, stop, "".join(value)))
    return pieces, problems


def _escape(
    text: str, position: int, stop: int, in_f_string: bool, problems: list[Problem]
) -> tuple[str, int]:
    """The character that the escape at `position` stands for, and the offset after it."""
    letter = text[position + 1]
    if letter in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[letter], position + 2
    if letter in _HEX_LENGTHS:
        length = _HEX_LENGTHS[letter]
        end = position + 2 + length
        digits = text[position + 2 : min(end, stop)]
        if len(digits) == length and _HEX.fullmatch(digits):
            point = int(digits, 16)
            if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
                return chr(point), end
            problems.append(
                Problem("LMP015", position, end, f"`{text[position:end]}` is not a character")
            )
            return "", end
        matched = _HEX.match(digits)
        end = position + 2 + (matched.end() if matched else 0)
        problems.append(
            Problem(
                "LMP015",
                position,
                end,
                f"`\\{letter}` needs {length} hexadecimal digits",
                f"for example `\\{letter}{'e9'.rjust(length, '0')}`",
            )
        )
        return "", end
    if in_f_string and letter in "{}":
        remedy = f"a brace that belongs to the text is doubled in an f-string: `{letter * 2}`"
    else:
        remedy = f'write `\\\\{letter}` for a backslash, or use a raw string `r"…"` for a regex'
    problems.append(
        Problem(
            "LMP015",
            position,
            position + 2,
            f"unknown escape `\\{letter}` in a string",
            remedy,
        )
    )
    return letter, position + 2


def _hole(
    text: str, position: int, stop: int, reserved: frozenset[str], problems: list[Problem]
) -> Piece:
    """The interpolation at `position`; its name is None where it is not one."""
    matched = _HOLE.match(text, position, stop)
    if matched is None:
        problems.append(
            Problem(
                "LMP016",
                position,
                position + 1,
                "this `{` is never closed",
                "close it as in `{name}`; a brace that belongs to the text is doubled: `{{`",
            )
        )
        return Piece(position, position + 1, "")
    inside = matched.group(1)
    name = inside.strip(" \t")
    if _NAME.fullmatch(name) and name not in reserved:
        start = matched.start(1) + inside.index(name)
        return Piece(position, matched.end(), "", name, start, start + len(name))
    if not name:
        message = "there is no name between these braces"
        remedy = "put a name there, or double the braces that belong to the text: `{{}}`"
    elif name in reserved:
        message = f"`{name}` is a reserved word, so it cannot be a name"
        remedy = "interpolate a name"
    else:
        message = "an f-string interpolates names only"
        remedy = f"name the value first: `let value = {name}`, then `{{value}}`"
    problems.append(Problem("LMP016", position, matched.end(), message, remedy))
    return Piece(position, matched.end(), "")
