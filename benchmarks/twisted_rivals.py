"""Twists as papers learn them, at full strength: CTL, soft Q-learning, SIXO and FUDGE.

Each draws fresh texts for every update, as theirs do, and takes gradients of its own loss with
respect to log ψ of every beginning. What they share with each other, and with the twist of lmppl,
is the head on the frozen model's hidden state, Adam, and how gradients are cut. `Tuning` has
what the papers leave open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lmppl.density import Target, TextStage
from lmppl.density.steering.learned import Head, LearnedTwist
from lmppl.inference.twists import unembedding_of
from lmppl.rng import Stream
from lmppl.sequences.resampling import systematic_resample
from lmppl.sequences.weights import effective_sample_size

RIVALS = ("CTL", "soft Q", "SIXO", "FUDGE")
LONGEST = 1.0  # gradients are cut to this length, as those of lmppl's own fit are


@dataclass(frozen=True, slots=True)
class Classifier(Head):
    """A head whose ψ is a probability: log ψ = log sigmoid(raw + bias), for FUDGE."""

    bias: Tensor

    def log_psi(self, hidden: Tensor, share: Tensor, contexts: Tensor) -> Tensor:
        # `super()` has no class to look at in a dataclass with slots.
        return functional.logsigmoid(Head.log_psi(self, hidden, share, contexts) + self.bias)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts drawn under a head, before any is resampled at the token at hand, `[texts, tokens]`.

    `hidden` `[texts, tokens, hidden]` is what the language model knew before each token; `share`
    of the tokens were drawn by then; `log_weight` is that of each beginning, as a draw of p ψ,
    since all were last resampled; `inside` says where there is a token. `origin` `[texts, tokens]`
    are the numbers of the beginnings that the final texts have: their ancestors. `final` `[texts]`
    are the log weights of whole texts, factors included, `log_phi` those factors.
    """

    hidden: Tensor
    tokens: Tensor
    share: Tensor
    inside: Tensor
    log_weight: Tensor
    origin: Tensor
    final: Tensor
    log_phi: Tensor

    @property
    def num_tokens(self) -> int:
        return int(self.inside.sum())

    def whole(self) -> Batch:
        """The same, read along whole texts: every final text with its own beginnings."""

        def along(values: Tensor) -> Tensor:
            index = self.origin
            if values.dim() == 3:
                index = index.unsqueeze(-1).expand(-1, -1, values.shape[-1])
            return values.gather(0, index)

        return replace(
            self,
            hidden=along(self.hidden),
            tokens=along(self.tokens),
            share=along(self.share),
            inside=along(self.inside),
            log_weight=torch.zeros_like(self.log_weight),
        )

    def log_psi(self, head: Head) -> Tensor:
        """log ψ of every next token, `[texts, tokens, vocab]`."""
        raw = self.hidden
        scaled = raw * raw.pow(2).mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        return head.log_psi(scaled, self.share, torch.zeros_like(self.tokens))

    def chosen(self, log_psi: Tensor) -> Tensor:
        """That of the tokens that were drawn, `[texts, tokens]`."""
        return log_psi.gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def draw(target: Target, head: Head | None, size: int, stream: Stream, resample: bool) -> Batch:
    """Texts of the one site of a target: of p ψ renormalised, resampled or not; None: of p."""
    stage = _text(target)
    traces = target.start(torch.zeros(size, dtype=torch.long))
    rows = target.rows(0, traces)
    steering = () if head is None else (LearnedTwist(head, torch.zeros(size, dtype=torch.long)),)
    reader = head if head is not None else _reader(target)
    run = stage.start(rows, *target.steering(rows), *steering)
    every = torch.arange(size)
    log_weight = torch.zeros(size, dtype=torch.float64)
    hidden, tokens, share, inside, weights, parents = [], [], [], [], [], []
    ancestors = every
    while run.num_open:
        run = stage.extend(run)
        assert run.prefixes is not None and run.position is not None
        raw = torch.zeros(size, reader.reading.shape[1])
        raw[run.open] = reader.read(run.prefixes.row_logits())
        is_open = torch.zeros(size, dtype=torch.bool)
        is_open[run.open] = True
        at = run.position
        run, step = stage.step(run, stream.uniforms(every, at))
        log_weight = log_weight.index_add(0, step.rows, step.log_weight)
        hidden.append(raw)
        tokens.append(run.tokens[:, at].clone())
        share.append(torch.full((size,), at / stage.max_tokens))
        inside.append(is_open)
        weights.append(log_weight)
        parents.append(ancestors)
        ancestors = every
        few = float(effective_sample_size(log_weight.unsqueeze(0))) < 0.5 * size
        if resample and few and run.num_open:
            point = stream.child("resample").uniforms(torch.zeros(1, dtype=torch.long), at)
            ancestors = systematic_resample(log_weight.unsqueeze(0), point)[0]
            run, log_weight = run.select(ancestors), torch.zeros_like(log_weight)
    traces = traces.with_value(stage.name, stage.finish(run), run.log_prior)
    traces = target.apply_potentials(traces, 0)
    log_phi = traces.total_log_potential()
    # From the end to the beginning: whose beginning every final text had at each token.
    origin, here = [], every
    for parent in reversed(parents):
        origin.append(here)
        here = parent[here]
    return Batch(
        torch.stack(hidden, 1),
        torch.stack(tokens, 1),
        torch.stack(share, 1),
        torch.stack(inside, 1),
        torch.stack(weights, 1),
        torch.stack(origin[::-1], 1),
        run.unsteered(log_weight) + log_phi,
        log_phi,
    )


def _text(target: Target) -> TextStage:
    stage = target.stages[0].text
    assert stage is not None
    return stage


def _reader(target: Target) -> Head:
    return Head.fresh(unembedding_of(_text(target)), 1, 1, torch.Generator().manual_seed(0))


def ctl(head: Head, drawn: Batch, plain: Batch | None, stage: TextStage, most: float) -> Tensor:
    """Contrastive twist learning (Zhao et al. 2024, arXiv 2404.17546, equation 16): at every token
    the gradient of log ψ over texts of the posterior less that over beginnings of p ψ, both
    weighted particles of the twisted sampler itself."""
    whole = drawn.whole()
    positive = torch.where(whole.inside, drawn.final.unsqueeze(-1), -torch.inf).softmax(0)
    negative = torch.where(drawn.inside, drawn.log_weight, -torch.inf).softmax(0)
    ours = (positive.nan_to_num(0.0) * whole.chosen(whole.log_psi(head))).sum(0)
    theirs = (negative.nan_to_num(0.0) * drawn.chosen(drawn.log_psi(head))).sum(0)
    return (theirs - ours).sum() / drawn.tokens.shape[1]


def soft_q(head: Head, drawn: Batch, plain: Batch | None, stage: TextStage, most: float) -> Tensor:
    """Soft Q-learning (Zhao et al. 2024, section 4 and its appendix; Mudgal et al. 2023): the
    square of log ψ less the log of what is expected of it after one more token, and of the factors
    where the text is whole, on texts of the sampler itself."""
    whole = drawn.whole()
    log_psi = whole.log_psi(head)
    weight = unembedding_of(stage).float()
    log_probs = stage.warp(whole.hidden @ weight.t()).log_softmax(-1)
    value = (log_probs + log_psi).logsumexp(-1).detach()
    after = torch.cat([value[:, 1:], value[:, :1]], -1)
    goes_on = torch.cat([whole.inside[:, 1:], torch.zeros_like(whole.inside[:, :1])], -1)
    mean = drawn.log_phi.logsumexp(0) - math.log(len(drawn.log_phi))
    lowest = drawn.log_phi.clamp(min=float(mean) - 20.0)
    goal = torch.where(goes_on, after.double(), lowest.unsqueeze(-1))
    error = torch.where(whole.inside, whole.chosen(log_psi).double() - goal, 0.0)
    return error.pow(2).sum() / whole.inside.sum()


def sixo(head: Head, drawn: Batch, plain: Batch | None, stage: TextStage, most: float) -> Tensor:
    """SIXO (Lawson et al. 2022, arXiv 2206.05952, section 3): a classifier whose logit is log ψ
    tells beginnings of the posterior, weighted particles, from those of the prior."""
    assert plain is not None
    whole = drawn.whole()
    weight = torch.where(whole.inside, drawn.final.unsqueeze(-1), -torch.inf).softmax(0)
    ours = functional.softplus(-whole.chosen(whole.log_psi(head)))
    theirs = functional.softplus(plain.chosen(plain.log_psi(head)))
    share = plain.inside.double() / plain.inside.sum(0).clamp(min=1)
    total = (weight.nan_to_num(0.0) * ours).sum() + (share * theirs).sum()
    return total / drawn.tokens.shape[1]


def fudge(head: Head, drawn: Batch, plain: Batch | None, stage: TextStage, most: float) -> Tensor:
    """FUDGE (Yang and Klein 2021, arXiv 2104.05218, section 3.1): ψ is the probability that a text
    of the prior is taken, φ over the most that φ was so far, by cross entropy at every token."""
    assert plain is not None and isinstance(head, Classifier)
    taken = (plain.log_phi - most).clamp(max=0.0).exp().unsqueeze(-1)
    log_psi = plain.chosen(plain.log_psi(head)).double()
    log_not = torch.log(-torch.expm1(log_psi.clamp(max=-1e-7)))
    loss = -(taken * log_psi + (1.0 - taken) * log_not)
    return torch.where(plain.inside, loss, 0.0).sum() / plain.inside.sum()


LOSSES = {"CTL": ctl, "soft Q": soft_q, "SIXO": sixo, "FUDGE": fudge}


@dataclass(frozen=True, slots=True)
class Tuning:
    """The learning rate, how many texts an update is of (SIXO's are half of the posterior and half
    of the prior), and how many steps are taken on each batch."""

    lr: float = 0.004
    size: int = 64
    steps: int = 2


def learn(
    name: str, target: Target, num_tokens: int, width: int, tuning: Tuning, seed: int
) -> Head:
    """The head of a rival after it has drawn so many tokens."""
    stage, stream = _text(target), Stream.from_seed(seed)
    generator = torch.Generator().manual_seed(stream.child("head").key & (2**63 - 1))
    fresh = Head.fresh(unembedding_of(stage), 1, width, generator)
    if name == "FUDGE":
        # It begins at the share of texts that are taken, as its first texts have it.
        parts = {each: getattr(fresh, each) for each in Head.__dataclass_fields__}
        fresh = Classifier(**parts, bias=torch.zeros(()))
    trained = {key: value.clone().requires_grad_() for key, value in fresh.trained.items()}
    if isinstance(fresh, Classifier):
        trained["bias"] = torch.full((), -2.0).requires_grad_()
    head = replace(fresh, **trained)
    optimiser = torch.optim.Adam(trained.values(), lr=tuning.lr)
    spent, number, most = 0, 0, -torch.inf
    while spent < num_tokens:
        at = stream.child("update", number)
        now = replace(head, **{key: value.detach() for key, value in trained.items()})
        drawn = plain = None
        size = tuning.size // 2 if name == "SIXO" else tuning.size
        if name != "FUDGE":
            # The first of all is of ψ = 1, whose weights are those of importance sampling.
            drawn = draw(target, now, size, at.child("drawn"), name != "soft Q")
            spent += drawn.num_tokens
        if name in ("SIXO", "FUDGE"):
            plain = draw(target, None, size, at.child("plain"), False)
            spent += plain.num_tokens
            most = max(most, float(plain.log_phi.max()))
        for group in optimiser.param_groups:
            group["lr"] = tuning.lr * (1.0 - 0.9 * min(spent / num_tokens, 1.0))
        for _ in range(tuning.steps):
            optimiser.zero_grad()
            loss = LOSSES[name](head, drawn or plain, plain, stage, most)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), LONGEST)
            optimiser.step()
        number += 1
    return replace(head, **{key: value.detach() for key, value in trained.items()})
