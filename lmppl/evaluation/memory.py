"""What functions of the host returned, so that they are asked once for each choice of arguments."""

from __future__ import annotations

from collections.abc import Callable

from lmppl.rewards.scorer import REMEMBERED


class HostMemory:
    """Results by function and arguments; the oldest are forgotten first, as scores are."""

    __slots__ = ("_results",)

    def __init__(self) -> None:
        self._results: dict[tuple[object, ...], object] = {}

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<{len(self):,} results of host functions>"

    def of(self, call: tuple[object, ...], ask: Callable[[], object]) -> object:
        """The result of a call, which is asked for where it is not known."""
        if call in self._results:
            return self._results[call]
        result = ask()
        while len(self._results) >= REMEMBERED:
            del self._results[next(iter(self._results))]
        self._results[call] = result
        return result
