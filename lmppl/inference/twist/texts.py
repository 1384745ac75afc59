"""Texts that a head is fitted on, with what the language model says of every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target, TextStage, Traces
from lmppl.density.steering.learned import Head, scaled
from lmppl.inference.twist.objectives import Scored
from lmppl.inference.twists import unembedding_of
from lmppl.lm.protocol import Prompt
from lmppl.lowering.guide import Contexts
from lmppl.lowering.text_guides import replay_masks
from lmppl.records import brief

# Texts read by the language model at once: their logits are held for every token.
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of one site: `tokens` `[texts, tokens]`, `lengths`, `contexts`, `group` and `log_phi`
    `[texts]`, `hidden` `[texts, tokens, hidden]` as the logits give it, unscaled, and what the
    requirements allowed at every token, `[texts, tokens, vocab]` (None: all).

    `log_before` `[texts, tokens]` is the log of prior over proposal of each text before each of its
    tokens, for texts that are draws of a proposal."""

    stage: TextStage
    tokens: Tensor
    lengths: Tensor
    contexts: Tensor
    group: Tensor
    log_phi: Tensor
    hidden: Tensor
    allowed: Tensor | None
    log_before: Tensor

    __repr__ = brief

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        target: Target,
        number: int,
        traces: Traces,
        head: Head,
        hidden: Tensor | None = None,
        *,
        twisted: bool = False,
    ) -> Texts:
        """The texts of site `number` of complete executions, which are draws of the masked prior,
        or `twisted` by the head; `hidden` where it is known, so that they are not read again.

        What a text is worth is said by the factors of its site and by all that come later.
        """
        stage = target.stages[number].text
        assert stage is not None
        text, rows = traces.values[stage.name], target.rows(number, traces)
        columns = int(text.lengths.max())
        tokens = text.tokens[:, :columns]
        if hidden is None:
            read = []
            for first in range(0, tokens.shape[0], _AT_ONCE):
                at = slice(first, first + _AT_ONCE)
                logits = _logits(stage, rows.prompts[at], tokens[at], text.lengths[at])
                read.append(head.read(logits))
            hidden = torch.cat(read)
        automata = target.requirements.automata(number, traces, rows.prompts)
        log_phi = torch.zeros(traces.num_rows, dtype=torch.float64, device=target.device)
        for later in range(number, len(target.stages)):
            for potential in target.potentials_at(later):
                log_phi = log_phi + traces.log_potential[potential.label]
        found = cls(
            stage,
            tokens,
            text.lengths,
            Contexts.before(target, number).of(traces),
            traces.group,
            log_phi,
            hidden[:, :columns],
            replay_masks(stage, automata, tokens, text.lengths),
            torch.zeros(tokens.shape, dtype=torch.float64, device=target.device),
        )
        if found.allowed is None and not twisted:
            return found
        own = head if twisted else replace(head, outer=torch.zeros_like(head.outer))
        weight, before = unembedding_of(stage), []
        for first in range(0, tokens.shape[0], _AT_ONCE):
            some = torch.arange(first, min(first + _AT_ONCE, tokens.shape[0]), device=tokens.device)
            scored = found.scored(own, weight, some)
            step = torch.where(scored.inside, scored.log_value - scored.log_psi, 0.0)
            before.append(step.cumsum(-1) - step)
        return replace(found, log_before=torch.cat(before))

    def joined(self, others: Sequence[Texts]) -> Texts:
        """These texts, and then those of the others."""
        every = (self, *others)
        columns = max(each.tokens.shape[1] for each in every)

        def wide(name: str) -> Tensor:
            parts = []
            for each in every:
                part = getattr(each, name)
                shape = (part.shape[0], columns - part.shape[1], *part.shape[2:])
                parts.append(torch.cat([part, part.new_zeros(shape)], 1))
            return torch.cat(parts)

        return replace(
            self,
            tokens=wide("tokens"),
            hidden=wide("hidden"),
            log_before=wide("log_before"),
            allowed=None if self.allowed is None else wide("allowed"),
            lengths=torch.cat([each.lengths for each in every]),
            contexts=torch.cat([each.contexts for each in every]),
            group=torch.cat([each.group for each in every]),
            log_phi=torch.cat([each.log_phi for each in every]),
        )

    def scored(self, head: Head, unembedding: Tensor, at: Tensor) -> Scored:
        """The texts `at` under a head, with a gradient."""
        raw, tokens, lengths = self.hidden[at], self.tokens[at], self.lengths[at]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        inside = columns < lengths.unsqueeze(-1)
        log_probs = self.stage.warp(raw @ unembedding.float().t()).log_softmax(-1)
        share = (columns / self.stage.max_tokens).expand_as(tokens)
        contexts = self.contexts[at].unsqueeze(-1).expand_as(tokens)
        log_psi = head.log_psi(scaled(raw), share, contexts)
        if self.allowed is not None:
            # Past the end everything is allowed, so that no row is of nothing but −∞.
            allowed = self.allowed[at] | ~inside.unsqueeze(-1)
            log_probs = log_probs.masked_fill(~allowed, -math.inf)
        chosen = log_psi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        value = (log_probs + log_psi).logsumexp(-1)
        return Scored(
            chosen.double(),
            value.double(),
            self.log_before[at],
            inside,
            self.log_phi[at],
        )


def _logits(stage: TextStage, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
    """Logits of the token at every position, `[texts, tokens, vocab]`; 0 past the end."""
    lm: Any = stage.lm
    if hasattr(lm, "sequence_logits"):
        found: Tensor = lm.sequence_logits(prompts, tokens, lengths)
        return found
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    prefixes = lm.start(prompts, max_new_tokens=stage.max_tokens)
    columns = []
    for column in range(tokens.shape[1]):
        inside = (lengths[rows] > column).nonzero().squeeze(-1)
        rows, prefixes = rows[inside], prefixes.select(inside)
        logits = torch.zeros((tokens.shape[0], lm.vocab.size), device=tokens.device)
        if rows.shape[0]:
            if column:
                prefixes = lm.extend(prefixes, tokens[rows, column - 1])
            logits[rows] = prefixes.row_logits().float()
        columns.append(logits)
    return torch.stack(columns, 1)
