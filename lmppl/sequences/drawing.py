"""Drawing tokens from logits: one normalisation, one float64 CDF, no Python over rows.

`torch.multinomial` and the exponential race touch the whole vocabulary with expensive operations;
here a row costs one exponential per token and a search. Wide vocabularies are searched in two
levels, so that only one block of a row is cumulated in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.timing import timed

_BLOCK = 256
_WIDE = 4096
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens and what they cost; all `[rows]`.

    `log_prob` is the log probability of the token under the distribution p of the logits (before
    any mask or factor), float64. `log_mass` is the log of Σ p·f with the factors f, which is the
    probability that a mask allowed: 0 without any, −inf where nothing was allowed (the token is
    then meaningless). `log_ratio` is log f of the token; None where it is 0 for all.
    """

    tokens: Tensor
    log_prob: Tensor
    log_mass: Tensor
    log_ratio: Tensor | None = None


@timed("normalise and draw")
def draw_tokens(
    logits: Tensor,
    uniforms: Tensor | None,
    *,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    log_factors: Tensor | None = None,
    forced: Tensor | None = None,
) -> Drawn:
    """One token per row from softmax(logits) times factors, renormalised.

    `logits` is `[physical, vocab]`, unnormalised; row i reads `logits[index[i]]` (`index` is
    `[rows]`, absent when it is the identity). `uniforms` is `[rows]`, float64 in [0, 1): the draw
    is the inverse of the CDF there. `mask` is `[rows, vocab]`, true where a token is allowed, and
    `log_factors` `[rows, vocab]` the log of what else multiplies its probability.

    Rows whose `forced` `[rows]` is not −1 take that token, at the cost that drawing it would have.
    Where all do, `uniforms` may be None.
    """
    if forced is None:
        assert uniforms is not None
        return _drawn(logits, uniforms, index, mask, log_factors)
    if uniforms is None:
        return _costs(forced, logits, index, mask, log_factors)
    drawn = _drawn(logits, uniforms, index, mask, log_factors)
    at = (forced >= 0).nonzero().squeeze(-1)
    costs = _costs(
        forced[at],
        logits,
        at if index is None else index[at],
        None if mask is None else mask[at],
        None if log_factors is None else log_factors[at],
    )
    log_ratio = drawn.log_ratio
    if costs.log_ratio is not None:
        log_ratio = torch.zeros_like(drawn.log_prob) if log_ratio is None else log_ratio
        log_ratio = log_ratio.index_copy(0, at, costs.log_ratio)
    return Drawn(
        drawn.tokens.index_copy(0, at, costs.tokens),
        drawn.log_prob.index_copy(0, at, costs.log_prob),
        drawn.log_mass.index_copy(0, at, costs.log_mass),
        log_ratio,
    )


def log_mass_of(logits: Tensor, mask: Tensor | None, index: Tensor | None) -> Tensor:
    """The log of the probability that a mask allows in each row, `[rows]` float64."""
    if index is not None:
        logits = logits.index_select(0, index)
    if mask is None:
        return torch.zeros(logits.shape[0], dtype=torch.float64, device=logits.device)
    logits = logits.double()
    allowed = logits.masked_fill(~mask, -math.inf).logsumexp(-1)
    return torch.clamp(allowed - logits.logsumexp(-1), max=0.0)


def _costs(
    tokens: Tensor,
    logits: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    log_factors: Tensor | None,
) -> Drawn:
    """Given tokens `[rows]`, as if they had been drawn."""
    at = tokens.unsqueeze(-1)
    if index is not None:
        logits = logits.index_select(0, index)
    log_probs = logits.double().log_softmax(-1)
    log_prob = log_probs.gather(1, at).squeeze(-1)
    if mask is None and log_factors is None:
        return Drawn(tokens, log_prob, torch.zeros_like(log_prob))
    log_ratio = torch.zeros_like(log_prob)
    if log_factors is not None:
        log_ratio = log_factors.gather(1, at).squeeze(-1).double()
        log_probs = log_probs + log_factors
    if mask is not None:
        log_ratio = log_ratio.masked_fill(~mask.gather(1, at).squeeze(-1), -math.inf)
        log_probs = log_probs.masked_fill(~mask, -math.inf)
    log_mass = log_probs.logsumexp(-1)
    if log_factors is None:
        log_mass = log_mass.clamp(max=0.0)
    return Drawn(tokens, log_prob, log_mass, log_ratio)


def _drawn(
    logits: Tensor,
    uniforms: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    log_factors: Tensor | None,
) -> Drawn:
    if log_factors is not None:
        return _draw_weighted(logits, uniforms, index, mask, log_factors)
    num_rows, chunk = uniforms.shape[0], max(1, _CHUNK // logits.shape[-1])
    if (
        logits.device.type == "cpu"
        and logits.shape[-1] < _WIDE
        and num_rows > chunk
        and 2 * logits.shape[0] > num_rows
    ):
        # A few rows at a time, so that the passes over a row find it in cache.
        parts = [
            _draw(
                logits[at] if index is None else logits.index_select(0, index[at]),
                uniforms[at],
                None,
                None if mask is None else mask[at],
            )
            for at in (slice(first, first + chunk) for first in range(0, num_rows, chunk))
        ]
        return Drawn(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.log_prob for part in parts]),
            torch.cat([part.log_mass for part in parts]),
        )
    return _draw(logits, uniforms, index, mask)


def _draw_weighted(
    logits: Tensor,
    uniforms: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    log_factors: Tensor,
) -> Drawn:
    """As `draw_tokens`: a draw from logits + log factors, scored by the logits as well."""
    if index is not None:
        logits = logits.index_select(0, index)
    weighted = logits.to(_weight_dtype(logits.dtype)) + log_factors
    if mask is not None:
        weighted = weighted.masked_fill_(~mask, -math.inf)
    nothing = weighted.amax(-1) == -math.inf
    weighted = weighted.masked_fill_(nothing.unsqueeze(-1), 0.0)
    drawn = _drawn(weighted, uniforms, None, None, None)
    at = drawn.tokens.unsqueeze(-1)
    highest = logits.amax(-1, keepdim=True)
    log_total = _weights(logits, highest).sum(-1).double().log() + highest.squeeze(-1).double()
    # The sum of all weights: that of the token, over the probability that it had among them.
    log_weights = weighted.gather(1, at).squeeze(-1).double() - drawn.log_prob
    return Drawn(
        drawn.tokens,
        logits.gather(1, at).squeeze(-1).double() - log_total,
        (log_weights - log_total).masked_fill(nothing, -math.inf),
        log_factors.gather(1, at).squeeze(-1).double(),
    )


def _draw(logits: Tensor, uniforms: Tensor, index: Tensor | None, mask: Tensor | None) -> Drawn:
    if mask is not None and index is not None:
        logits, index = logits.index_select(0, index), None
    highest = logits.amax(-1, keepdim=True)
    if logits.shape[-1] < _WIDE:
        tokens, allowed, total = _draw_narrow(logits, highest, uniforms, index, mask)
    else:
        tokens, allowed, total = _draw_wide(logits, highest, uniforms, index, mask)
    rows = torch.arange(tokens.shape[0], device=tokens.device) if index is None else index
    log_total = total.log() if index is None else total.log().index_select(0, index)
    log_prob = logits[rows, tokens].double() - highest[rows, 0].double() - log_total
    if mask is None:
        return Drawn(tokens, log_prob, torch.zeros_like(log_prob))
    return Drawn(tokens, log_prob, torch.clamp(allowed.log() - log_total, max=0.0))


def _weight_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _weights(logits: Tensor, highest: Tensor) -> Tensor:
    """exp(logits − highest) in float32 or better."""
    dtype = _weight_dtype(logits.dtype)
    return (logits.to(dtype) - highest.to(dtype)).exp_()


def _draw_narrow(
    logits: Tensor, highest: Tensor, uniforms: Tensor, index: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens `[rows]`, allowed weight `[rows]`, total weight `[physical]`, by one CDF a row."""
    weights = _weights(logits, highest)
    total = None if mask is None else weights.sum(-1).double()
    if mask is not None:
        weights = weights.mul_(mask)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    allowed = cumulative[:, -1]
    if total is None:
        total = allowed
    if index is not None:
        cumulative, allowed = cumulative.index_select(0, index), allowed.index_select(0, index)
    point = _below(uniforms * allowed, allowed)
    tokens = torch.searchsorted(cumulative, point.unsqueeze(-1), right=True).squeeze(-1)
    return tokens.clamp_(max=logits.shape[-1] - 1), allowed, total


def _draw_wide(
    logits: Tensor, highest: Tensor, uniforms: Tensor, index: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_draw_narrow`, in two levels: the block of `_BLOCK` tokens, then the token in it."""
    num_physical, vocab = logits.shape
    num_blocks = -(-vocab // _BLOCK)
    sums = logits.new_empty((num_physical, num_blocks), dtype=torch.float64)
    total = None if mask is None else sums.new_empty(num_physical)
    stored = logits.new_zeros(
        (num_physical, num_blocks * _BLOCK), dtype=_weight_dtype(logits.dtype)
    )
    # A few rows at a time, so that the passes over a row find it in cache.
    chunk = max(1, _CHUNK // vocab) if logits.device.type == "cpu" else num_physical
    for first in range(0, num_physical, chunk):
        rows = slice(first, first + chunk)
        weights = stored[rows]
        weights[:, :vocab].copy_(logits[rows]).sub_(highest[rows]).exp_()
        blocks = weights.view(weights.shape[0], num_blocks, _BLOCK)
        if mask is not None:
            assert total is not None
            total[rows] = blocks.sum(-1).double().sum(-1)
            weights[:, :vocab].mul_(mask[rows])
        sums[rows] = blocks.sum(-1).double()
    cumulative = sums.cumsum(-1)
    blocks = stored.view(num_physical, num_blocks, _BLOCK)
    if total is None:
        total = cumulative[:, -1]
    rows_of = torch.arange(num_physical, device=logits.device) if index is None else index
    if index is not None:
        cumulative = cumulative.index_select(0, index)
    allowed = cumulative[:, -1]
    point = _below(uniforms * allowed, allowed)
    block = torch.searchsorted(cumulative, point.unsqueeze(-1), right=True)
    block = block.clamp_(max=num_blocks - 1)
    before = cumulative.gather(1, (block - 1).clamp(min=0)).masked_fill_(block == 0, 0.0)
    inner = blocks[rows_of, block.squeeze(-1)].cumsum(-1, dtype=torch.float64)
    # The sums of a block in two orders differ in the last bits.
    rest = _below(torch.clamp(point - before.squeeze(-1), min=0.0), inner[:, -1])
    offset = torch.searchsorted(inner, rest.unsqueeze(-1), right=True)
    tokens = (block * _BLOCK + offset).squeeze(-1)
    return tokens.clamp_(max=vocab - 1), allowed, total


def _below(point: Tensor, total: Tensor) -> Tensor:
    """`point`, moved strictly below `total`, so that the search ends at a token of weight > 0."""
    return torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))


@dataclass(frozen=True, slots=True)
class Warp:
    """How `temperature`, `top_k` and `top_p` change the prior; applied in that order, renormalised.

    Top-p keeps the smallest set of most probable tokens whose probability reaches `top_p`
    (Holtzman et al. 2020, arXiv:1904.09751). Tokens that tie with the last kept one by top-k stay.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def is_identity(self) -> bool:
        return self.temperature == 1.0 and self.top_k is None and self.top_p is None

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits `[..., vocab]` of the changed distribution, −inf where a token was cut."""
        if self.is_identity:
            return logits
        if self.temperature != 1.0:
            # Divide in float32 or better: a half-precision quotient would move the distribution.
            logits = logits.to(_weight_dtype(logits.dtype)) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < kth, -math.inf)
        if self.top_p is not None and self.top_p < 1.0:
            ordered, order = logits.sort(dim=-1, descending=True, stable=True)
            probs = ordered.softmax(-1, dtype=torch.float64)
            cut_sorted = probs.cumsum(-1) - probs >= self.top_p
            cut = torch.zeros_like(cut_sorted).scatter(-1, order, cut_sorted)
            logits = logits.masked_fill(cut, -math.inf)
        return logits


IDENTITY_WARP = Warp()
