"""Tokens, and the trees that the parser makes of them."""

from __future__ import annotations

from typing import TypeAlias


class Token(str):
    """A word of a text with the name of its terminal; of what was made up, places are None.

    Offsets are 0-based, lines and columns 1-based, ends exclusive.
    """

    __slots__ = ("column", "end_column", "end_line", "end_pos", "line", "start_pos", "type")

    def __new__(
        cls,
        type: str,
        value: str,
        start_pos: int | None = None,
        line: int | None = None,
        column: int | None = None,
        end_line: int | None = None,
        end_column: int | None = None,
        end_pos: int | None = None,
    ) -> Token:
        made = super().__new__(cls, value)
        made.type = type
        made.start_pos, made.end_pos = start_pos, end_pos
        made.line, made.column = line, column
        made.end_line, made.end_column = end_line, end_column
        return made

    def __getnewargs__(self) -> tuple[str, str, *tuple[int | None, ...]]:  # type: ignore[override]
        # What an error shows of a program goes from process to process.
        places = (self.start_pos, self.line, self.column)
        return self.type, str(self), *places, self.end_line, self.end_column, self.end_pos

    type: str
    start_pos: int | None
    line: int | None
    column: int | None
    end_line: int | None
    end_column: int | None
    end_pos: int | None

    def as_if(self, type: str, value: str) -> Token:
        """Another token in the place of this one."""
        return Token(
            type,
            value,
            self.start_pos,
            self.line,
            self.column,
            self.end_line,
            self.end_column,
            self.end_pos,
        )

    def __repr__(self) -> str:
        return f"Token({self.type}, {str(self)!r})"


class Tree:
    """What a rule of the grammar matched: the name of the rule, and its parts in order."""

    __slots__ = ("children", "data")

    def __init__(self, data: str, children: list[Child]) -> None:
        self.data = data
        self.children = children

    def __repr__(self) -> str:
        return f"Tree({self.data}, {self.children!r})"


Child: TypeAlias = Token | Tree
