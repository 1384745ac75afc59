"""Moves of texts in the making between two of their tokens, after particles were resampled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import SiteRows, TextBatch, TextStage
from lmppl.density.stages.completing import resumed
from lmppl.density.stages.growing import GrowingStrings
from lmppl.density.stages.run import Step, TextRun
from lmppl.density.steering.steered import Steered
from lmppl.lm.protocol import PrefixArchive, Prompt
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Trail:
    """How the texts of a site came to be, so that some of their last tokens can be drawn again.

    `origin` `[rows]` is the row of what the steerings were made for. `log_q` `[rows, T]` is the log
    probability with which each token was drawn; `log_tokens` and, for every steering that scores
    by value, `log_values` `[rows, T + 1]` are what `Steered` held after so many tokens. They are
    written in place, as tokens are.
    """

    origin: Tensor
    log_q: Tensor
    log_tokens: Tensor
    log_values: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, run: TextRun) -> Trail:
        """Of texts of no tokens."""
        rows, size = run.tokens.shape
        zeros = run.log_prior.new_zeros((rows, size + 1))
        each = tuple(zeros.clone() if part.by_value else None for part in run.steered.parts)
        origin = torch.arange(rows, device=zeros.device)
        return cls(origin, zeros[:, :-1].clone(), zeros, each)

    def select(self, indices: Tensor) -> Trail:
        """For the rows `indices`, with repeats."""
        return Trail(
            self.origin[indices],
            self.log_q[indices],
            self.log_tokens[indices],
            tuple(None if each is None else each[indices] for each in self.log_values),
        )

    def after(self, run: TextRun, step: Step | None) -> Trail:
        """With what was said of the texts when they had their last tokens, and how these were
        drawn, where that is not written yet."""
        at = run.position
        assert at is not None
        if step is not None:
            self.log_q[step.rows, at - 1] = step.log_proposal
        if run.steered.log_tokens is not None:
            self.log_tokens[:, at] = run.steered.log_tokens
        for known, now in zip(self.log_values, run.steered.log_values, strict=True):
            if known is not None and now is not None:
                known[:, at] = now
        return self

    def steered(self, steered: Steered, rows: Tensor, at: int) -> Steered:
        """Where texts are that were just taken up after `at` tokens, with ψ as it was then."""
        return replace(
            steered,
            log_tokens=self.log_tokens[rows, at],
            log_values=tuple(None if each is None else each[rows, at] for each in self.log_values),
        )


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens `start … start + size − 1` are drawn again; those after them stay."""

    start: int
    size: int

    @classmethod
    def drawn(cls, stream: Stream, position: int, block_size: int, in_block: bool) -> Span:
        """Up to `block_size` of the last tokens, of which as many more follow `in_block`."""
        sizes = stream.child("span").uniforms(torch.arange(2)).tolist()
        size = min(1 + int(sizes[0] * block_size), position)
        after = 1 + int(sizes[1] * block_size) if in_block else 0
        return cls(max(0, position - size - after), size)


@dataclass(frozen=True, slots=True)
class Moved:
    """Texts after a move: `accepted` `[rows]` says which of those that were to move have taken what
    was proposed; `num_tokens` were read by language models for it."""

    run: TextRun
    trail: Trail
    accepted: Tensor
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Rejuvenation:
    """Moves by Metropolis and Hastings' rule that keep p(x≤t) ψ(x≤t), which is what particles are
    weighted draws of after t tokens (Gilks and Berzuini 2001, "Following a moving target").

    Tokens of a span are drawn again as the run draws them, from p ψ(x≤s) / ψ(x<s); what follows
    is kept. With q that proposal, a new text is taken with probability

        min(1, p(x') ψ(x') q(x) / (p(x) ψ(x) q(x'))).

    The weights of the particles stay as they are. A text that ended is not moved, so that one that
    would end within the span is refused: nothing would lead back. `look_every` is the number of
    tokens between two scores of unfinished texts.
    """

    stage: TextStage
    rows: SiteRows
    look_every: int

    def moved(
        self,
        run: TextRun,
        trail: Trail,
        which: Tensor,
        span: Span,
        counters: Tensor,
        stream: Stream,
    ) -> Moved:
        """One move of the open texts `which` `[n]`, all of as many tokens.

        `counters` `[n]` names the random numbers of each.
        """
        prompts = self.rows.prompts
        archive = self._archive(run, prompts)
        side = self._begun(run, trail, which, span, archive)
        side, alive, log_q, num_tokens, there = self._drawn(
            side, run, which, span, counters, stream.child("tokens"), trail
        )
        new, old = self._log_target(side, None), self._log_target(run, which)
        log_old_q = trail.log_q[which, span.start : span.start + span.size].sum(-1)
        log_ratio = torch.where(alive, new - old + log_old_q - log_q, -math.inf)
        accepted = stream.child("accept").uniforms(counters).log() < log_ratio
        merged, trail = self._merged(run, side, trail, there, which, accepted)
        return Moved(
            self._recalled(merged, run, side, which, accepted, archive, prompts),
            trail,
            accepted,
            num_tokens,
        )

    def _archive(self, run: TextRun, prompts: list[Prompt]) -> PrefixArchive | None:
        """What is computed of the open texts, so that a move costs what it draws."""
        archive = self.stage.memory(run.num_rows)
        if archive is not None and run.prefixes is not None:
            own = [prompts[row] for row in run.open.tolist()]
            nothing = torch.zeros_like(run.open)
            archive.recall(run.open, own, run.tokens[run.open], nothing)
            archive.file(run.open, run.prefixes)
            archive.settle(torch.ones_like(run.finished))
        return archive

    def _begun(
        self,
        run: TextRun,
        trail: Trail,
        which: Tensor,
        span: Span,
        archive: PrefixArchive | None,
    ) -> TextRun:
        """The texts that are to move, as they were before the span."""
        kept = TextBatch(
            tokens=run.tokens[which],
            lengths=run.positions[which],
            finished=run.finished[which],
            num_tokens=run.positions[which],
            strings=(),
            token_log_prob=_some(run.token_log_prob)[which],
            token_log_mass=_some(run.token_log_mass)[which],
        )
        side = self.stage.begin(
            [self.rows.prompts[row] for row in which.tolist()],
            *run.steered.parts,
            rows=trail.origin[which],
            kept=kept,
            kept_lengths=torch.full_like(which, span.start),
            record=True,
            archive=archive,
            archived=which,
        )
        return replace(
            side, position=span.start, steered=trail.steered(side.steered, which, span.start)
        )

    def _drawn(
        self,
        side: TextRun,
        run: TextRun,
        which: Tensor,
        span: Span,
        counters: Tensor,
        uniforms: Stream,
        trail: Trail,
    ) -> tuple[TextRun, Tensor, Tensor, int, Trail]:
        """The texts with the span drawn again and what follows it taken as it was.

        Also which of them are as long as before and have not ended, the log probability with which
        the span was drawn, the tokens that were read, and the trail of the new texts.
        """
        there = trail.select(which)
        alive = torch.ones_like(which, dtype=torch.bool)
        log_q = torch.zeros_like(side.log_prior)
        num_tokens = 0
        assert run.position is not None
        for at in range(span.start, run.position):
            if not side.num_open:
                break
            is_drawn = at < span.start + span.size
            own = run.tokens[which, at]
            side, step = self.stage.step(
                side,
                uniforms.uniforms(counters, at),
                forced=None if is_drawn else own,
            )
            num_tokens += step.rows.shape[0]
            if is_drawn:
                log_q = log_q.index_add(0, step.rows, step.log_proposal)
            possible = alive[step.rows] & (step.log_proposal > -math.inf)
            alive = alive.index_copy(0, step.rows, possible)
            if side.num_open:
                side = side.close(alive[side.open])
            if side.num_open and side.steered.by_value and not (at + 1) % self.look_every:
                steered, _, _ = side.steered.look(side, side.open)
                side = replace(side, steered=steered)
            there = there.after(side, step)
        still_open = torch.zeros_like(alive)
        still_open[side.open] = True
        return side, alive & still_open, log_q, num_tokens, there

    @staticmethod
    def _log_target(run: TextRun, which: Tensor | None) -> Tensor:
        """log p(x≤t) ψ(x≤t) of some rows."""
        log_psi = run.steered.log_psi
        total = run.log_prior if log_psi is None else run.log_prior + log_psi
        return total if which is None else total[which]

    def _merged(
        self,
        run: TextRun,
        side: TextRun,
        trail: Trail,
        there: Trail,
        which: Tensor,
        accepted: Tensor,
    ) -> tuple[TextRun, Trail]:
        """The run and its trail with what was proposed in the rows that have taken it."""
        at = accepted.nonzero().squeeze(-1)
        rows = which[at]

        def put(old: Tensor | None, new: Tensor | None) -> Tensor | None:
            if new is None:
                return old
            if old is None:
                old = new.new_zeros((run.num_rows, *new.shape[1:]))
            return old.index_copy(0, rows, new[at])

        steered = replace(
            run.steered,
            states=tuple(
                old.index_copy(0, rows, new[at])
                for old, new in zip(run.steered.states, side.steered.states, strict=True)
            ),
            log_values=tuple(map(put, run.steered.log_values, side.steered.log_values)),
            # Where nothing but masks has spoken, nothing has been added up.
            log_tokens=run.steered.log_tokens
            if run.steered.log_tokens is None
            else put(run.steered.log_tokens, side.steered.log_tokens),
        )
        undefined = run.undefined
        if side.undefined is not None:
            undefined = side.undefined if undefined is None else undefined | side.undefined
        merged = replace(
            run,
            tokens=_some(put(run.tokens, side.tokens)),
            steered=steered,
            log_prior=_some(put(run.log_prior, side.log_prior)),
            token_log_prob=put(run.token_log_prob, side.token_log_prob),
            token_log_mass=put(run.token_log_mass, side.token_log_mass),
            undefined=undefined,
            growing=GrowingStrings(),
        )
        return merged, Trail(
            trail.origin,
            _some(put(trail.log_q, there.log_q)),
            _some(put(trail.log_tokens, there.log_tokens)),
            tuple(map(put, trail.log_values, there.log_values)),
        )

    def _recalled(
        self,
        merged: TextRun,
        run: TextRun,
        side: TextRun,
        which: Tensor,
        accepted: Tensor,
        archive: PrefixArchive | None,
        prompts: list[Prompt],
    ) -> TextRun:
        """The run with what language models know of its open texts, all but the last token."""
        at = run.position
        assert at is not None
        own = [prompts[row] for row in run.open.tolist()]
        tokens = merged.tokens[run.open]
        lengths = torch.full_like(run.open, at - 1)
        if archive is None:
            prefixes = resumed(self.stage, self.stage.lm, own, tokens, lengths)
        else:
            if side.num_open and side.prefixes is not None:
                archive.file(which[side.open], side.prefixes)
            taken = torch.zeros_like(run.finished)
            taken[which] = accepted
            archive.settle(taken)
            prefixes = archive.recall(run.open, own, tokens, lengths)
        return replace(merged, prefixes=prefixes, pending=tokens[:, at - 1])


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
