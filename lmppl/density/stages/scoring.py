"""Given texts under the prior of their site, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.automaton import Automata
from lmppl.errors import Diagnostic, InferenceError, InternalError
from lmppl.lm.protocol import Prompt

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun
    from lmppl.density.stages.text import TextStage


def rescore(stage: TextStage, prompts: Sequence[Prompt], text: TextBatch) -> Tensor:
    """log p(text | prompt) of given texts, `[rows]` float64, under the site's warp."""
    if stage.warp.is_identity:
        log_probs = stage.lm.token_log_probs(prompts, text.tokens, text.lengths)
        require_numbers(stage, log_probs)
        return log_probs.double().sum(-1)
    total = torch.zeros(text.lengths.shape[0], dtype=torch.float64, device=stage.device)
    prefixes = stage.lm.start(prompts, max_new_tokens=stage.max_tokens)
    rows = torch.arange(total.shape[0], device=stage.device)
    for t in range(int(text.lengths.max())):
        inside = text.lengths[rows] > t
        if not bool(inside.all()):
            at = inside.nonzero().squeeze(-1)
            rows, prefixes = rows[at], prefixes.select(at)
        if t:
            prefixes = stage.lm.extend(prefixes, text.tokens[rows, t - 1])
        logits = stage.warp(prefixes.row_logits()).double().log_softmax(-1)
        token = text.tokens[rows, t]
        total = total.index_add(0, rows, logits.gather(1, token.unsqueeze(-1)).squeeze(-1))
    require_numbers(stage, total)
    return total


def retrace(
    stage: TextStage, prompts: Sequence[Prompt], automata: Automata, text: TextBatch
) -> tuple[TextBatch, Tensor]:
    """Given texts with what each token costs after these prompts and under these automata.

    Also whether each `[rows]` is a text that could have been drawn: no token is forbidden by
    the mask, and no stop string is completed before the last token.
    """
    num_rows = text.lengths.shape[0]
    if automata.is_trivial and stage.warp.is_identity:
        log_probs = stage.lm.token_log_probs(prompts, text.tokens, text.lengths).double()
        require_numbers(stage, log_probs)
        zeros = torch.zeros_like(log_probs)
        possible = (log_probs > -math.inf).all(-1)
        return replace(text, token_log_prob=log_probs, token_log_mass=zeros), possible
    run = stage.begin(prompts, automata, record=True)
    possible = torch.ones(num_rows, dtype=torch.bool, device=stage.device)
    for t in range(int(text.lengths.max())):
        run, step = stage.step(run, None, forced=text.tokens[:, t])
        rows = step.rows
        drawable = step.log_proposal > -math.inf
        possible = possible.index_copy(0, rows, possible[rows] & drawable)
        if run.num_open:
            run = run.close((text.lengths[run.open] > t + 1) & possible[run.open])
        if not run.num_open:
            break
    as_long = (run.positions == text.lengths) & (run.finished == text.finished)
    retraced = replace(text, token_log_prob=run.token_log_prob, token_log_mass=run.token_log_mass)
    return retraced, possible & as_long


def weight_of(stage: TextStage, run: TextRun, text: TextBatch) -> Tensor:
    """What given texts would weigh if a run of no tokens had drawn them, `[rows]` float64.

    −inf for a text that it could not have drawn.
    """
    log_weight = torch.zeros(text.lengths.shape[0], dtype=torch.float64, device=stage.device)
    for t in range(int(text.lengths.max())):
        run, step = stage.step(run, None, forced=text.tokens[:, t])
        log_weight = log_weight.index_add(0, step.rows, step.log_weight)
        if run.num_open:
            alive = log_weight[run.open] > -math.inf
            run = run.close((text.lengths[run.open] > t + 1) & alive)
        if not run.num_open:
            break
    return run.unsteered(log_weight)


def require_numbers(stage: TextStage, log_probs: Tensor) -> None:
    """No log probability of the site's language model is NaN: that is no probability of zero.

    Raises:
        InferenceError: LMP985, one is.
    """
    if bool(log_probs.isnan().any()):
        raise no_numbers(stage)


def no_numbers(stage: TextStage) -> InferenceError:
    return InferenceError(
        [
            Diagnostic(
                "LMP985",
                "error",
                f"the language model of `{stage.name}`, {stage.lm.name}, gave probabilities that"
                " are not numbers (NaN)",
                help='half precision may have overflowed: try dtype="float32" or dtype="bfloat16"',
            )
        ]
    )


def require_sums(log_ratio: Tensor, log_mass: Tensor) -> None:
    """What a steering says of tokens adds up to a number, or to nothing (−inf)."""
    if bool((log_ratio.isnan() | log_mass.isnan() | (log_mass == math.inf)).any()):
        raise InternalError("a steering gave NaN or infinity for log ψ(x≤t) / ψ(x<t)")
