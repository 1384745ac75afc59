"""One draw of a posterior, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmppl.errors import closest


class Draw(Mapping[str, Any]):
    """The values of one draw: of every returned name and every site, by name or as attributes.

    `weight` is the normalised weight of the draw and `log_weight` its log in nats; they, and the
    methods of a mapping, are attributes even where a value has the same name.
    """

    __slots__ = ("_values", "log_weight", "weight")

    def __init__(self, values: Mapping[str, Any], weight: float, log_weight: float) -> None:
        self._values = values
        self.weight = weight
        self.log_weight = log_weight

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such attribute; `_values` itself may be missing while a
        # copy is being made.
        if name == "_values":
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        guess = closest(name, self._values)
        has = f"did you mean {guess!r}?" if guess else f"it has {', '.join(self._values)}"
        raise AttributeError(f"a draw has no value {name!r}; {has}")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"Draw({inside}, weight={self.weight:.4g})"


class TextDraw(str):
    """A draw of a program that returns one text: the text itself, with the values by name.

    It is a `str`, so that any function of a text takes it; `draw["mood"]`, `draw.mood` and
    `draw.weight` reach the rest, as in `Draw`.
    """

    draw: Draw

    def __new__(cls, text: str, draw: Draw) -> TextDraw:
        made = super().__new__(cls, text)
        made.draw = draw
        return made

    def __getnewargs__(self) -> tuple[str, Draw]:  # type: ignore[override]
        # What pickling and copying hand to `__new__`.
        return str(self), self.draw

    def __getitem__(self, key: Any) -> Any:
        return self.draw[key] if isinstance(key, str) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name == "draw":
            raise AttributeError(name)
        return getattr(self.draw, name)
