"""What a number of a run means for its reader, in plain words, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lmppl.posterior import Unseen


class Method(Protocol):
    """What a method says of the draws that it makes; empty words where it says nothing special."""

    @property
    def is_exact(self) -> bool: ...

    @property
    def more_draws(self) -> str: ...

    def better_draws(self, *, scored: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What made the draws: the method, and whether the program has factors beside requirements."""

    method: Method | None = None
    scored: bool = True

    @property
    def is_exact(self) -> bool:
        """Draws that are independent and exact cannot be made better, only more."""
        return self.method is not None and self.method.is_exact

    @property
    def more_draws(self) -> str:
        """More of the same draws, which is what to do first."""
        return (self.method and self.method.more_draws) or "use more draws"

    @property
    def better_draws(self) -> str:
        """Never the method that made these draws."""
        own = self.method and self.method.better_draws(scored=self.scored)
        return own or "use smc with look-ahead, or fit a guide with svi"

    @property
    def wider_target(self) -> str:
        return "make the factors less sharp" if self.scored else "loosen the requirements"


def advice(
    name: str,
    value: object,
    method: Method | None = None,
    *,
    num_draws: float = math.inf,
    limit: float | None = None,
    scored: bool = True,
) -> str | None:
    """A warning about a diagnostic, with what to do, or None where there is nothing to say.

    Names without a rule, and values that are no known number, give None. `num_draws` is how many
    draws there are: a small number of independent draws is a warning where far more were asked for.
    `limit` takes the place of the value above which chains disagree. `method` is the one that made
    the draws, which is not what should be tried next. Without factors (not `scored`) nothing
    is said about them.
    """
    rule = ADVISED.get(name)
    if rule is None or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    enough = _ENOUGH.get(name)
    if enough is not None and value >= min(enough, num_draws / 4.0):
        return None
    if name == "r_hat" and value <= (R_HAT_LIMIT if limit is None else limit):
        return None
    return rule(float(value), Run(method, scored))


# Chains that agree have an R-hat below this, and as low as chance allows.
R_HAT_LIMIT = 1.01
# Independent draws that are enough, however many were made.
_ENOUGH = {"ess": 30.0, "ess_bulk": 100.0, "ess_tail": 100.0}


def _ess(value: float, run: Run) -> str | None:
    return f"the draws are worth only {value:.1f} independent ones; {run.more_draws}" + (
        "" if run.is_exact else f", or {run.better_draws}"
    )


def _max_weight(value: float, run: Run) -> str | None:
    if value <= 0.2:
        return None
    return (
        f"one draw carries {100 * value:.0f}% of the weight, so every answer is mostly about that "
        f"draw; {run.more_draws}, or {run.wider_target}"
    )


def _pareto_k(value: float, run: Run) -> str | None:
    if value <= 0.7:
        return None
    return (
        f"the weights have a heavy tail (Pareto k-hat {value:.2f}, trustworthy below 0.7): draws "
        "that matter were probably never made, and the evidence is probably too low; "
        f"{run.better_draws}"
    )


def _r_hat(value: float, run: Run) -> str | None:
    return (
        f"the chains do not agree with each other (R-hat {value:.2f}, more than chance alone"
        " explains); run more steps (num_samples, warmup_steps), or compare with smc"
    )


def _bulk(value: float, run: Run) -> str | None:
    return (
        f"the chains are worth only {value:.0f} independent draws; run more steps (num_samples) "
        "or more chains (num_chains)"
    )


def _tail(value: float, run: Run) -> str | None:
    return (
        f"the tails are worth only {value:.0f} independent draws: quantiles and rare events are "
        "rough; run more steps (num_samples) or more chains (num_chains)"
    )


def _stuck(value: float, run: Run) -> str | None:
    if value < 1.0:
        return None
    chains = "a chain" if value == 1.0 else f"{value:.0f} chains"
    return (
        f"{chains} never moved: that is no sign of convergence; use smaller moves, a softer "
        "factor, or smc"
    )


def _unique(value: float, run: Run) -> str | None:
    if value > 1.0:
        return None
    return (
        "every draw is the same: either the posterior is that narrow or the sampler has "
        f"collapsed; compare with another method, or {run.more_draws}"
    )


def _acceptance(value: float, run: Run) -> str | None:
    if value >= 0.01:
        return None
    return (
        f"only {100 * value:.2g}% of the proposals were accepted; use a method that steers towards "
        f"the posterior (smc), or {run.wider_target}"
    )


ADVISED: dict[str, Callable[[float, Run], str | None]] = {
    "ess": _ess,
    "max_weight": _max_weight,
    "pareto_k": _pareto_k,
    "r_hat": _r_hat,
    "ess_bulk": _bulk,
    "ess_tail": _tail,
    "num_chains_that_never_moved": _stuck,
    "num_unique_draws": _unique,
    "acceptance_rate": _acceptance,
}


def unseen_advice(
    unseen: Unseen | None, method: Method | None, *, scored: bool = True, claimed: bool = True
) -> str | None:
    """A warning where what no draw showed may be more than what was drawn, or None.

    `scored` says whether the program has factors, `claimed` whether it has `expect` lines.
    """
    if unseen is None:
        return None
    if unseen.reason:
        return f"verdicts are undecided: {unseen.reason}" if claimed else unseen.reason
    if unseen.share(0.95) <= 0.5:
        return None
    run = Run(method, scored)
    return (
        "the draws cannot rule out that they have missed most of the posterior: few draws of the"
        f" prior come near the largest weight that is possible; {run.more_draws}, or "
        + ("declare tighter ranges of the rewards" if scored else run.wider_target)
    )


def no_r_hat_advice() -> str:
    """The warning about chains of which nothing tells whether they agree."""
    return (
        "nothing that was looked at ever changes along the chains, so whether they agree cannot be"
        " told; run more steps (num_samples), or compare with smc"
    )
