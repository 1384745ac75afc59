"""How a run wants the forward passes of its language models, as a value that is handed to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lmppl.lm.protocol import LanguageModel
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Settings that change how fast texts are computed, and never which.

    `max_rows` bounds the rows of one forward pass (None: what the language model has for itself).
    `stepping` is how single tokens are computed, one of `STEPPINGS`: "none" (in the general way),
    "step" (compiled, of fixed shapes) or "cuda-graph" (captured).
    """

    max_rows: int | None = None
    stepping: str = "none"


@runtime_checkable
class Adjustable(Protocol):
    """A language model that has such settings."""

    def under(self, settings: ForwardSettings) -> LanguageModel:
        """The same language model under these settings: it shares weights and what is compiled.

        Raises:
            InferenceError: LMP403, it cannot be run so.
        """
        ...


def under(lm: LanguageModel, settings: ForwardSettings) -> LanguageModel:
    """The language model as a run wants it; one without settings as it is."""
    return lm.under(settings) if isinstance(lm, Adjustable) else lm


class Memory:
    """What running out of a device's memory has taught of one model, for the rest of the process.

    `max_rows` rows of it fit (None: so far any number).
    """

    def __init__(self) -> None:
        self.max_rows: int | None = None

    def __repr__(self) -> str:
        return f"<Memory: {self.max_rows or 'any number of'} rows>"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""
        if self.max_rows is None:
            return ()
        return (f"out of memory: at most {self.max_rows} rows are computed at once",)


@dataclass(frozen=True, slots=True)
class RowLimit:
    """The rows of one forward pass: as many as were asked for, and as the memory holds."""

    asked: int | None
    memory: Memory

    __repr__ = brief

    @property
    def value(self) -> int | None:
        """The most rows, or None: any number."""
        known = [rows for rows in (self.asked, self.memory.max_rows) if rows is not None]
        return min(known, default=None)
