"""Tokens drawn from a mixture of whole texts: a guide's, and the prior's as a floor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmppl.density.stages.run import Step, TextRun
from lmppl.density.stages.scoring import require_sums
from lmppl.sequences.drawing import draw_tokens

if TYPE_CHECKING:
    from lmppl.density.stages.text import TextStage


@dataclass(frozen=True, slots=True)
class Mixture:
    """The next token of a mixture of whole texts (a defensive mixture, Hesterberg 1995).

    Given the tokens so far the mixture's next token is one of the components', weighed by how
    likely each is now. So along a text the probability is that of the mixture of whole texts, and
    at least ε times that of the masked prior.
    `log_prior` and `log_q` `[open, vocab]` are float64, the second normalised over what `mask`
    allows; `log_mass` `[open]` is what the mask leaves of the prior, and `log_gain` `[open, vocab]`
    by how much each token moves the odds.
    """

    log_prior: Tensor
    log_q: Tensor
    log_mass: Tensor
    log_gain: Tensor

    @classmethod
    def of(
        cls, log_prior: Tensor, log_guide: Tensor, log_odds: Tensor, mask: Tensor | None
    ) -> Mixture:
        """From log probabilities of both components, `[open, vocab]`, and `log_odds` `[open]`."""
        allowed = log_prior if mask is None else log_prior.masked_fill(~mask, -math.inf)
        prior, log_mass = _normalised(allowed)
        # What the prior cannot draw has no weight, so nothing else need propose it.
        guide, guide_mass = _normalised(log_guide.masked_fill(prior == -math.inf, -math.inf))
        odds = log_odds.masked_fill(guide_mass == -math.inf, -math.inf).unsqueeze(-1)
        log_q = torch.logaddexp(guide + logsigmoid(odds), prior + logsigmoid(-odds))
        gain = torch.where(prior == -math.inf, 0.0, guide - prior)
        return cls(log_prior, log_q, log_mass, gain)


def _normalised(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The rows `[n, vocab]` with a mass of one each, and the log mass `[n]` that they had."""
    mass = log_probs.logsumexp(-1)
    return log_probs - mass.masked_fill(mass == -math.inf, 0.0).unsqueeze(-1), mass


def mixed_step(
    stage: TextStage,
    run: TextRun,
    uniforms: Tensor | None,
    mask: Tensor | None,
    log_factors: Tensor | None,
    forced: Tensor | None,
) -> tuple[TextRun, Step]:
    """The next token of every open row of a run whose `beside` has odds; `[open, …]` each.

    What the tokens cost the prior's own mask is recorded: moves that go on from the texts propose
    from that.
    """
    beside, prefixes = run.beside, run.prefixes
    assert beside is not None and beside.log_odds is not None and prefixes is not None
    log_prior = stage.warp(prefixes.row_logits()).double().log_softmax(-1)
    mix = Mixture.of(log_prior, beside.log_probs(), beside.log_odds, mask)
    dead = mix.log_mass == -math.inf
    # A row that nothing is left to draws what is meaningless, and has weight zero.
    logits = mix.log_q.masked_fill(dead.unsqueeze(-1), 0.0)
    drawn = draw_tokens(logits, uniforms, mask=mask, log_factors=log_factors, forced=forced)
    at = drawn.tokens.unsqueeze(-1)
    own = log_prior.gather(1, at).squeeze(-1)
    odds = beside.log_odds + mix.log_gain.gather(1, at).squeeze(-1)
    run = replace(run, beside=replace(beside, log_odds=odds))
    growth = None if log_factors is None else drawn.log_ratio
    rows, log_mass = run.open, drawn.log_mass.masked_fill(dead, -math.inf)
    if growth is not None:
        require_sums(growth, log_mass)
    if beside.proposal.looks_ahead:
        ratio = (drawn.log_prob - own).masked_fill(own == -math.inf, 0.0)
        growth = ratio if growth is None else growth + ratio
    new = stage.place(run, drawn.tokens, own, mix.log_mass.clamp(max=0.0), growth)
    step = Step(
        rows,
        own,
        log_mass,
        drawn.log_ratio,
        drawn.log_prob,
        is_floored=True,
        is_deferred=beside.proposal.looks_ahead,
    )
    return new, step
