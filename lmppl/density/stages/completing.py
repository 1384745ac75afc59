"""Runs drawn to their end; texts taken up where they are, and finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmppl.density.stages.growing import GrowingStrings
from lmppl.density.stages.run import TextRun
from lmppl.density.stages.scoring import no_numbers
from lmppl.density.stages.strings import own_lengths, strings
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.protocol import Steering
from lmppl.lm.protocol import LanguageModel, Prefixes, Prompt
from lmppl.rng import Uniforms

if TYPE_CHECKING:
    from lmppl.density.stages.protocol import Stage
    from lmppl.density.stages.text import TextStage


def generate(
    stage: TextStage,
    prompts: Sequence[Prompt],
    steering: Steering,
    uniforms: Uniforms,
    *,
    masked: bool = True,
    record: bool = False,
) -> tuple[TextRun, Tensor]:
    """Complete texts and the log of prior over proposal, `[rows]` float64, −inf for dead ones.

    The texts are draws of the prior (of the steered prior where `masked`).
    """
    return complete(stage, stage.begin(prompts, steering, record=record), uniforms, masked=masked)


def complete(
    stage: Stage, run: Any, uniforms: Uniforms, *, masked: bool = True
) -> tuple[Any, Tensor]:
    """A `Run` of any site drawn until no row is open, and the log of prior over proposal, `[rows]`.

    −inf for rows that are dead. Draws are the prior's where not `masked`.
    """
    log_weight = torch.zeros_like(run.log_prior)
    number = 0
    while run.num_open:
        run, log_weight = stage.advance(run, log_weight, uniforms, number, masked=masked)
        number += 1
    return run, run.unsteered(log_weight)


def resumed(
    stage: TextStage,
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    tokens: Tensor,
    lengths: Tensor,
) -> Prefixes:
    """The first `lengths` of `tokens` after their prompts, in a language model that is to go on."""
    return lm.resume(prompts, tokens, lengths, max_new_tokens=stage.max_tokens)


def recovered(stage: TextStage, run: TextRun, prompts: Sequence[Prompt]) -> TextRun:
    """The run with what its open rows have in caches computed anew from their tokens.

    A step that was broken off leaves caches behind that are neither before it nor after it.
    """
    if not run.num_open:
        return run
    own = [prompts[row] for row in run.open.tolist()]
    tokens, lengths = run.tokens[run.open], run.positions[run.open]
    if run.beside is not None:
        prefixes = resumed(stage, run.beside.proposal.lm, own, tokens, lengths)
        run = replace(run, beside=replace(run.beside, prefixes=prefixes))
    return replace(
        run,
        prefixes=resumed(stage, stage.lm, own, tokens, lengths),
        pending=None,
        archive=None,
        growing=GrowingStrings(),
    )


def finished(stage: TextStage, run: TextRun) -> TextBatch:
    """The texts of a run in which no row is open any more."""
    if run.undefined is not None and bool(run.undefined):
        raise no_numbers(stage)
    return TextBatch(
        tokens=run.tokens,
        lengths=run.positions,
        finished=run.finished,
        num_tokens=own_lengths(stage, run),
        strings=tuple(strings(stage, run)),
        token_log_prob=run.token_log_prob,
        token_log_mass=run.token_log_mass,
    )
