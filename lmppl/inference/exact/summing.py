"""Exact answers from sums over texts: the evidence, what holds of all texts, independent draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmppl.density import SiteRows, Target, TextStage, Traces
from lmppl.density.walk import Chosen, walk
from lmppl.errors import InternalError
from lmppl.finite.posterior import Summary, draw, summary
from lmppl.inference.exact.sums import Sums
from lmppl.inference.failures import NoMass
from lmppl.inference.loop import Draws
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.sequences.weights import normalise

# Draws where nothing says how many.
NUM_DRAWS = 1000
# Probabilities of tokens by place that are kept with the result.
_MOST_KEPT = 200_000
# Two ways to the same number may differ by rounding.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Group:
    """The combinations of choices of one binding: rows of `Sums.choices`, and the log of what each
    weighs with all its texts summed, `[rows]`."""

    rows: Tensor
    log_weight: Tensor


def drawn(
    target: Target,
    sums: Sums,
    log_evidences: tuple[float, ...],
    group: int,
    num_draws: int,
    stream: Stream,
) -> Draws:
    """The result of one binding.

    Raises:
        NoMass: no text has a positive weight.
    """
    choices = sums.choices
    rows = (choices.group == group).nonzero().squeeze(-1)
    log_weight = choices.log_density()[rows]
    for numbers in sums.needed.values():
        own = [log_evidences[numbers[row]] for row in rows.tolist()]
        log_weight = log_weight + log_weight.new_tensor(own)
    log_z = float(torch.logsumexp(log_weight, 0)) if len(rows) else -math.inf
    if log_z == -math.inf:
        raise NoMass("no execution has positive weight")
    probs = normalise(log_weight)
    whole = Group(rows, log_weight)
    traces = _traces(target, sums, whole, num_draws, stream, log_z)
    uniform = torch.zeros(num_draws, dtype=torch.float64)
    info, diagnostics = _what_holds(sums, rows, probs, log_z)
    return Draws(traces, uniform, Estimate.exact(log_z), diagnostics=diagnostics, info=info)


def _traces(
    target: Target, sums: Sums, group: Group, num_draws: int, stream: Stream, log_z: float
) -> Traces:
    """Independent draws of the posterior, scored by the definition of the program."""
    every = torch.arange(num_draws, device=group.rows.device)
    cumulative = normalise(group.log_weight).exp().cumsum(-1)
    point = stream.child("draws", 0).uniforms(every) * cumulative[-1]
    last = len(cumulative) - 1
    at = torch.searchsorted(cumulative, point, right=True).clamp_(max=last)
    rows = group.rows[at]
    log_prob = (group.log_weight - log_z)[at].clone()

    def choose(site: SiteRows) -> Chosen:
        stage = target.stages[site.number]
        if stage.text is None:
            choices = sums.choices
            value = choices.values[stage.name].select(rows)
            return Chosen(value, choices.log_prior[stage.name][rows])
        numbers = torch.tensor(sums.needed[stage.name], device=rows.device)[rows]
        tokens = every.new_zeros(num_draws, stage.text.max_tokens)
        uniforms = stream.child("site", site.number)
        for number in torch.unique(numbers).tolist():
            own = (numbers == number).nonzero().squeeze(-1)
            found = draw(
                sums.tables(number),
                len(own),
                partial(_of_rows, uniforms, own),
                sums.texts[number].prompt,
            )
            tokens[own] = found.tokens
            log_prob[own] += found.log_prob
        return _forced(stage.text, site, tokens)

    start = target.start(sums.choices.group[rows])
    traces = walk(target, start, choose)
    off = (traces.log_density() - log_prob - log_z).abs().max()
    if not float(off) <= _TOLERANCE * (1.0 + abs(log_z)):
        raise InternalError(
            "dynamic programming and the definition of the program weigh a text differently, by"
            f" {float(off):g} nats"
        )
    return traces


def _of_rows(stream: Stream, rows: Tensor, chosen: Tensor, step: int) -> Tensor:
    """The numbers of some of the rows at a step: the same whatever draws they are among."""
    return stream.uniforms(rows[chosen], step)


def _forced(stage: TextStage, rows: SiteRows, tokens: Tensor) -> Chosen:
    """Given tokens as texts, with their log prior."""
    run = stage.start(rows, *stage.unsteered(rows))
    place = 0
    while run.num_open:
        run, _ = stage.step(run, None, forced=tokens[:, place], masked=False)
        place += 1
    return Chosen(stage.finish(run), run.log_prior)


def _what_holds(
    sums: Sums, rows: Tensor, probs: Tensor, log_z: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Exact numbers on all executions: what a reader of the result may ask for."""
    summaries: dict[int, Summary] = {}
    weight = probs.exp()
    own = sums.choices.total_log_potential()[rows]
    mean = float((weight * own).sum())
    log_prior = torch.where(weight > 0, probs, 0.0)
    entropy = -float((weight * log_prior).sum())
    knows_entropy = knows_kl = True
    tokens: dict[str, Any] = {}
    for site, numbers in sums.needed.items():
        marginal: Tensor | None = None
        for row, share in zip(rows.tolist(), weight.tolist(), strict=True):
            if share == 0.0:
                continue
            number = numbers[row]
            if number not in summaries:
                summaries[number] = summary(sums.tables(number), sums.texts[number].prompt)
            found = summaries[number]
            form = sums.texts[number].weight.form
            mean += share * (found.log_weight + form.constant)
            if form.power:
                # What the prior gives a text is there to the power 1 + power.
                knows_kl = knows_kl and form.power != -1.0 and found.log_prior is not None
                if knows_kl:
                    mean += share * form.power / (1.0 + form.power) * (found.log_prior or 0.0)
            knows_entropy = knows_entropy and found.entropy is not None
            entropy += share * (found.entropy or 0.0)
            part = share * found.tokens
            marginal = part if marginal is None else marginal + part
        if marginal is not None and marginal.numel() <= _MOST_KEPT:
            tokens[site] = marginal.tolist()
    diagnostics: dict[str, Any] = {
        "summed": True,
        "num_sums": len(sums.texts),
        "num_states": max(sums.tables(n).log_value[0].numel() for n in summaries),
    }
    if knows_kl:
        diagnostics["kl_to_prior"] = mean - log_z
    if knows_entropy:
        diagnostics["entropy"] = entropy
    return {"token_probabilities": tokens}, diagnostics
