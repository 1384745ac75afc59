"""What a head is fitted by: numbers to make small, from texts and what the head says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lmppl.inference.twist import CONTRASTIVE, FUDGE, LOG_RATIO, PATHS, SIXO, SOFT_Q

# A factor this far below their mean, in nats, and one farther count alike: nothing is learnt from
# how dead a text is.
_DEPTH = 20.0
# What stands for their mean where all are 0.
_NOTHING = -1e4
# What a square nat of a path that does not agree counts.
_OF_PATHS = 0.1
# A probability of which no text is surer, as a log.
_SURE = -0.05


@dataclass(frozen=True, slots=True)
class Scored:
    """Texts under a head, all `[texts, tokens]`.

    `log_psi` is log ψ of each text up to each of its tokens, `log_value` what the head expects
    before the token, log Σ_v p(v) ψ(x<t v) over what the requirements allow, and `log_before` the
    log of prior over proposal of the tokens before, of texts that are draws of a proposal. `inside`
    says where there is a token. `log_phi` `[texts]` are the factors of the whole text.
    """

    log_psi: Tensor
    log_value: Tensor
    log_before: Tensor
    inside: Tensor
    log_phi: Tensor

    def size(self) -> Tensor:
        """The mean square of log ψ, in square nats."""
        return torch.where(self.inside, self.log_psi, 0.0).pow(2).sum() / self.inside.sum()


def paths(positive: Scored, prior: Scored) -> Tensor:
    """Path consistency from every token to the end of its text (Nachum et al. 2017, arXiv
    1702.08892, section 4, with paths as long as can be; the log-variance of Richter et al. 2020 at
    the first token).

    With V(x<t) = log Σ p ψ, what is expected before a token, the best twist has for every text
    log ψ(x≤t) = log φ + Σ_{s>t} (V(x<s) − log ψ(x≤s)) − log Z: the sum is how much less likely
    the proposal p ψ, renormalised, makes the rest of the text than the prior does. So every token
    learns from the factors themselves, by way of no guess but of the tokens after it, and of texts
    of any kind: those of the posterior and those of the prior. log Z is what the mean says.
    """
    every = (positive, prior)
    steps = [torch.where(t.inside, t.log_value - t.log_psi, 0.0) for t in every]
    phi = [texts.log_phi.clamp(min=_lowest(*every)) for texts in every]
    whole = torch.cat([p + step.sum(-1) for p, step in zip(phi, steps, strict=True)])
    log_z, total = whole.mean().detach(), torch.zeros((), dtype=torch.float64)
    for texts, step, log_phi in zip(every, steps, phi, strict=True):
        after = step.flip(-1).cumsum(-1).flip(-1) - step
        error = texts.log_psi - (log_phi - log_z).unsqueeze(-1) - after
        total = total + torch.where(texts.inside, error, 0.0).pow(2).sum()
    return _OF_PATHS * total / (positive.inside.sum() + prior.inside.sum())


def contrastive(positive: Scored, prior: Scored) -> Tensor:
    """Contrastive twist learning (Zhao et al. 2024, arXiv 2404.17546, section 4.1).

    At every token, log ψ on average over texts of the posterior less log Σ p ψ, whose gradient is
    that of KL(posterior's beginnings ‖ p ψ). The second is summed over the vocabulary after
    beginnings of the prior.
    """
    both = positive.inside.any(0) & prior.inside.any(0)
    share = positive.inside.double()
    mean = (share * positive.log_psi).sum(0) / share.sum(0).clamp(min=1.0)
    weight = prior.log_before.masked_fill(~prior.inside, -math.inf)
    weight = weight.masked_fill(~both, 0.0)
    log_total = (weight + prior.log_value).logsumexp(0) - weight.logsumexp(0)
    return (log_total - mean)[both].mean()


def soft_q(positive: Scored, prior: Scored) -> Tensor:
    """Path consistency: log ψ up to a token is what is expected after it, and in the end the
    factors (soft Q-learning; Nachum et al. 2017, arXiv 1702.08892; Zhao et al. 2024, appendix)."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    lowest = _lowest(positive, prior)
    for texts in (positive, prior):
        after = torch.cat([texts.log_value[:, 1:], texts.log_value[:, :1]], -1)
        last = texts.inside & ~torch.cat(
            [texts.inside[:, 1:], torch.zeros_like(texts.inside[:, :1])], -1
        )
        end = texts.log_phi.clamp(min=lowest).unsqueeze(-1)
        goal = torch.where(last, end, after.detach().clamp(min=lowest))
        error = torch.where(texts.inside, texts.log_psi - goal, 0.0)
        total, count = total + error.pow(2).sum(), count + float(texts.inside.sum())
    return total / max(count, 1.0)


def log_ratio(positive: Scored, prior: Scored) -> Tensor:
    """The mean square of log target − log proposal about its mean, over texts, for each token.

    The proposal is p ψ, renormalised at every token; zero where all texts weigh the same (the
    log-variance of Richter et al. 2020, arXiv 2010.10436).
    """
    every = []
    for texts in (positive, prior):
        # log p cancels. Tokens are drawn from p(v) ψ(x<t v) / Σ p ψ, whatever ψ(x<t) was.
        steps = torch.where(texts.inside, texts.log_value - texts.log_psi, 0.0)
        every.append(texts.log_phi.clamp(min=_lowest(positive, prior)) + steps.sum(-1))
    ratio = torch.cat(every)
    return (ratio - ratio.mean()).pow(2).mean() / positive.inside.shape[1]


def sixo(positive: Scored, prior: Scored) -> Tensor:
    """Telling beginnings of the posterior from those of the prior by log ψ, token by token, whose
    best is the log of their ratio (Lawson et al. 2022, SIXO, arXiv 2206.05952, section 3)."""
    share = positive.inside.double()
    ours = (share * functional.softplus(-positive.log_psi)).sum() / share.sum().clamp(min=1.0)
    theirs = functional.softplus(prior.log_psi)
    weight = _of_prior(prior)
    return ours + (weight * theirs).sum() / prior.inside.any(0).sum().clamp(min=1)


def fudge(positive: Scored, prior: Scored) -> Tensor:
    """Foretelling at every token whether a text of the prior will be taken, as it is with
    probability φ over the largest φ, by cross entropy (Yang and Klein 2021, FUDGE,
    arXiv 2104.05218, section 3.1).

    The probability is ψ times that of a text of which nothing is known, the mean over texts: a
    twist is one whatever it is multiplied by. Above `_SURE` the loss goes on in a straight line.
    Texts of the posterior are not looked at.
    """
    taken = (prior.log_phi - prior.log_phi.max()).exp().nan_to_num(0.0).unsqueeze(-1)
    log_taken = prior.log_psi + taken.mean().clamp(min=1e-6).log()
    sure = log_taken.clamp(max=_SURE)
    slope = 1.0 / math.expm1(-_SURE)
    log_not = torch.log(-torch.expm1(sure)) - slope * (log_taken - sure)
    loss = -(taken * sure + (1.0 - taken) * log_not)
    return (_of_prior(prior) * loss).sum() / prior.inside.any(0).sum().clamp(min=1)


def _lowest(positive: Scored, prior: Scored) -> float:
    """The least that a factor counts as."""
    log_phi = torch.cat([positive.log_phi, prior.log_phi])
    mean = float(log_phi.logsumexp(0)) - math.log(log_phi.shape[0])
    return max(mean, _NOTHING) - _DEPTH


def _of_prior(texts: Scored) -> Tensor:
    """What makes means over texts of the masked prior those of the prior, `[texts, tokens]`: they
    sum to 1 at every token that some text has."""
    weight = texts.log_before.masked_fill(~texts.inside, -math.inf)
    return weight.softmax(0).nan_to_num(0.0)


Objective = Callable[[Scored, Scored], Tensor]
OBJECTIVES: Mapping[str, Objective] = {
    PATHS: paths,
    CONTRASTIVE: contrastive,
    SOFT_Q: soft_q,
    LOG_RATIO: log_ratio,
    SIXO: sixo,
    FUDGE: fudge,
}
