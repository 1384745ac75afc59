"""Language models as finite-state ones, with temperature, top-k and top-p of a site."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lmppl.finite.hidden import HiddenStates
from lmppl.finite.known import KnownStates
from lmppl.finite.prior import FiniteStateLM
from lmppl.lm.protocol import LanguageModel
from lmppl.lm.states import HasStates, TooManyStates
from lmppl.sequences.drawing import Warp


class NotFinite(ValueError):
    """A language model, or what a site makes of it, has no finitely many states to sum over.

    The message says why in words that go on "…, because"; `remedy` says what to change.
    """

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


def finite_states(lm: LanguageModel, warp: Warp) -> FiniteStateLM:
    """The language model under the `warp` of a site.

    Where the state is known, a warp changes the row of each state. Where it is hidden, it changes
    the mixture over the states, which is another one after every text.

    Raises:
        NotFinite: it has no tables, they are too large, or its warp cannot be followed.
    """
    if not isinstance(lm, HasStates):
        raise NotFinite(
            f"{lm.name} has no finitely many states",
            "use a language model that is a table of finitely many states",
        )
    try:
        tables = lm.states()
    except TooManyStates as problem:
        raise NotFinite(str(problem), "use a lower order, or a smaller corpus") from problem
    if tables.successor is not None and isinstance(tables.initial, int):
        emission = _warped(tables.log_emission, warp)
        return KnownStates.of(emission, tables.successor, tables.initial)
    assert tables.log_transition is not None and isinstance(tables.initial, Tensor)
    if not warp.is_identity:
        raise NotFinite(
            f"temperature, top_k and top_p change what {lm.name} draws after a text, and not in a"
            " hidden state",
            "leave them out, or write them into the weights of the file",
        )
    return HiddenStates(tables.initial, tables.log_transition, tables.log_emission)


def _warped(log_emission: Tensor, warp: Callable[[Tensor], Tensor]) -> Tensor:
    return warp(log_emission).double().log_softmax(-1)
