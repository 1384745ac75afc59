"""The model with finitely many states to look ahead by: a prior itself, or a surrogate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from torch import Tensor

from lmppl.density import TextStage
from lmppl.finite.models import NotFinite, finite_states
from lmppl.finite.prior import FiniteStateLM
from lmppl.lm.protocol import LanguageModel, Prompt
from lmppl.records import brief
from lmppl.surrogates.finding import surrogate_at_hand, surrogate_for
from lmppl.surrogates.surrogate import Surrogate, prompt_tokens

# Parameters of a language model from which making a surrogate unasked takes too long.
_MOST_PARAMETERS = 100_000_000

# Particles from which making one pays.
_FEWEST_PARTICLES = 64


@dataclass(frozen=True, slots=True)
class FinitePrior:
    """A model with finitely many states: that of a site (`is_exact`), or one that resembles it.

    `encode` gives the tokens of a prompt; `words` say what the model is. Of a `surrogate`,
    `log_shares` `[V]` are how likely each token is wherever it stands.
    """

    model: FiniteStateLM
    encode: Callable[[Prompt], Sequence[int]]
    is_exact: bool
    words: str
    log_shares: Tensor | None = None
    surrogate: Surrogate | None = None

    __repr__ = brief

    def coarser(self) -> FinitePrior | None:
        """That of a surrogate which knows the last token only, and has fewer states; None: there
        is none."""
        if self.surrogate is None or self.surrogate.fitted.longest <= 1:
            return None
        model = self.surrogate.fitted.shorter(1).to(self.model.device)
        words = f"{self.words}, by the last token alone"
        return replace(self, model=cast(FiniteStateLM, model), surrogate=None, words=words)


def finite_prior(
    stage: TextStage, prompts: Sequence[Prompt], *, make: bool, num_particles: int
) -> FinitePrior | str:
    """What to look ahead by in texts of a site after these prompts, or why there is nothing.

    Where the site's language model has no finitely many states, a surrogate of it: one at hand, or
    one that is made, where `make`, or else where that takes a minute at most and the run has as
    many particles as make it worth while.
    """
    lm = stage.lm
    encode = partial(prompt_tokens, lm)
    try:
        return FinitePrior(finite_states(lm, stage.warp), encode, True, f"{lm.name} itself")
    except NotFinite:
        pass
    distinct = list(dict.fromkeys(prompts))
    surrogate = surrogate_at_hand(lm, distinct)
    if surrogate is None:
        if not make and num_particles < _FEWEST_PARTICLES:
            return f"{lm.name} has no surrogate, and so few particles are not worth making one"
        if not make and (reason := _too_dear(lm)):
            return reason
        surrogate = surrogate_for(lm, distinct, max_tokens=stage.max_tokens)
    words = f"a {surrogate.origin} surrogate of {lm.name}"
    # It has no pass forward, which nothing here asks for.
    model = cast(FiniteStateLM, surrogate.model.to(stage.device))
    shares = surrogate.fitted.shorter(0).root.log().to(stage.device)
    return FinitePrior(model, encode, False, words, shares, surrogate)


def _too_dear(lm: LanguageModel) -> str:
    """Why no surrogate is made unasked; empty where one is."""
    model: Any = getattr(lm, "model", None)
    if model is None:
        return f"{lm.name} has no surrogate, and what drawing from it costs is not known"
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > _MOST_PARAMETERS:
        return (
            f"{lm.name} has no surrogate, and making one of a model of {size / 1e6:,.0f} M"
            " parameters takes long"
        )
    return ""
