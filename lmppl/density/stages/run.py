"""Texts in the making: what is known of every row between two tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lmppl.density.stages.beside import Beside
from lmppl.density.stages.growing import GrowingStrings
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.steered import Steered
from lmppl.errors import InternalError
from lmppl.lm.protocol import PrefixArchive, Prefixes


@dataclass(frozen=True, slots=True)
class TextRun:
    """Texts in the making, `rows` of them.

    `tokens` `[rows, max_tokens]` is written in place; `positions` `[rows]` counts the tokens so
    far (the same int for all open rows where `position` is not None). `open` `[open rows]` lists
    the rows whose text goes on; `prefixes` has a logical row for each, *without* the last token,
    which waits in `pending` `[open rows]` until the next step. `finished` `[rows]`: ended by an end
    token or a stop string. `log_prior` `[rows]`: log probability of the tokens so far, float64.
    `steered` is where each row is under what guides the drawing; `beside` proposes tokens, where
    that is not the prior.
    Rows that close are filed in the `archive`, if there is one, under their own numbers.
    `growing` remembers what tokens were decoded before; it is filled in place, as `tokens` is.
    `undefined` `[]`, where the device is not the host: some log probability so far was NaN, also
    of a row that is no more.
    """

    tokens: Tensor
    positions: Tensor
    position: int | None
    finished: Tensor
    stopped: Tensor
    steered: Steered
    open: Tensor
    prefixes: Prefixes | None
    pending: Tensor | None
    log_prior: Tensor
    token_log_prob: Tensor | None
    token_log_mass: Tensor | None
    strip: Tensor | None
    beside: Beside | None = None
    archive: PrefixArchive | None = None
    undefined: Tensor | None = None
    growing: GrowingStrings = field(default_factory=GrowingStrings, compare=False)

    @classmethod
    def empty(
        cls,
        rows: Tensor,
        max_tokens: int,
        steered: Steered,
        strip: Tensor | None,
        *,
        record: bool,
    ) -> TextRun:
        """Texts of no tokens, before a language model has read their prompts.

        `rows` is 0 … n-1; `record` keeps what each token cost.
        """
        shape = (rows.shape[0], max_tokens)
        zeros = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        none = torch.zeros_like(rows, dtype=torch.bool)
        return cls(
            tokens=rows.new_zeros(shape),
            positions=torch.zeros_like(rows),
            position=0,
            finished=none,
            stopped=none,
            steered=steered,
            open=rows,
            prefixes=None,
            pending=None,
            log_prior=zeros,
            token_log_prob=zeros.new_zeros(shape) if record else None,
            token_log_mass=zeros.new_zeros(shape) if record else None,
            strip=strip,
        )

    @property
    def num_rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_open(self) -> int:
        return self.open.shape[0]

    @property
    def max_tokens(self) -> int:
        """The most tokens that a text may have."""
        return self.tokens.shape[1]

    @property
    def remaining(self) -> Tensor | int:
        """How many tokens may still be drawn, the next one included; a Tensor is `[open]`."""
        if self.position is not None:
            return self.max_tokens - self.position
        return self.max_tokens - self.positions[self.open]

    @property
    def weighs_tokens(self) -> bool:
        """Whether a row's weight changes with its tokens, and may become zero."""
        return self.steered.by_token or self.beside is not None

    def unsteered(self, log_weight: Tensor) -> Tensor:
        """Log weights `[rows]` with ψ of the rows' texts divided out."""
        log_psi = self.steered.log_psi
        return log_weight if log_psi is None else log_weight - log_psi

    def is_whole(self) -> Tensor:
        """Which texts have come to an end, bool `[rows]`: others were given up before."""
        return self.finished | (self.positions >= self.max_tokens)

    def most_steps_left(self) -> int:
        """How many tokens all open texts together may still take."""
        return int((self.max_tokens - self.positions[self.open]).sum())

    def select(self, indices: Tensor) -> TextRun:
        """The rows `indices` `[new rows]`, in that order, with repeats."""
        slot = torch.full((self.num_rows,), -1, dtype=torch.long, device=self.tokens.device)
        slot[self.open] = torch.arange(self.num_open, device=self.tokens.device)
        slots = slot[indices]
        still = (slots >= 0).nonzero().squeeze(-1)
        chosen = slots[still]
        tokens = self.tokens[indices]
        return replace(
            self,
            tokens=tokens,
            positions=self.positions[indices],
            finished=self.finished[indices],
            stopped=self.stopped[indices],
            steered=self.steered.select(indices),
            open=still,
            prefixes=None if self.prefixes is None else self.prefixes.select(chosen),
            pending=None if self.pending is None else self.pending[chosen],
            beside=None if self.beside is None else self.beside.select(chosen),
            log_prior=self.log_prior[indices],
            token_log_prob=None if self.token_log_prob is None else self.token_log_prob[indices],
            token_log_mass=None if self.token_log_mass is None else self.token_log_mass[indices],
            strip=None if self.strip is None else self.strip[indices],
            archive=None,
            growing=self.growing.select(indices, tokens),
        )

    def close(self, keep: Tensor) -> TextRun:
        """The same rows, with the open ones restricted to where `keep` `[open rows]` is true."""
        at = keep.nonzero().squeeze(-1)
        if self.archive is not None and self.prefixes is not None:
            ended = (~keep).nonzero().squeeze(-1)
            self.archive.file(self.open[ended], self.prefixes.select(ended))
        return replace(
            self,
            open=self.open[at],
            prefixes=None if self.prefixes is None or not at.numel() else self.prefixes.select(at),
            beside=None if self.beside is None or not at.numel() else self.beside.select(at),
            pending=None if self.pending is None else self.pending[at],
        )

    def resumed(self, kept: TextBatch, lengths: Tensor) -> TextRun:
        """The run of no tokens yet with the first `lengths` `[rows]` tokens of `kept`."""
        columns = torch.arange(self.max_tokens, device=self.tokens.device)
        inside = columns < lengths.unsqueeze(-1)
        tokens = torch.where(inside, kept.tokens, 0)
        if kept.token_log_prob is None or kept.token_log_mass is None:
            raise InternalError("a suffix move needs the recorded cost of every token")
        log_prob = torch.where(inside, kept.token_log_prob, 0.0)
        log_mass = torch.where(inside, kept.token_log_mass, 0.0)
        return replace(
            self,
            tokens=tokens,
            positions=lengths.clone(),
            position=None,
            steered=self.steered.replay(tokens, lengths),
            log_prior=log_prob.sum(-1),
            token_log_prob=log_prob,
            token_log_mass=log_mass,
        )

    def placed(
        self,
        tokens: Tensor,
        log_prob: Tensor,
        log_mass: Tensor | None,
        steered: Steered,
        ended: Tensor | None,
        stopped: Tensor | None,
    ) -> TextRun:
        """The run after every open row has taken its token; `[open]` each.

        `ended` says whose text that was the end of, `stopped` whose by a stop string; None: nobody.
        """
        self._write(tokens, log_prob, log_mass)
        rows = self.open
        finished, stops = self.finished, self.stopped
        if ended is not None:
            finished = finished.index_copy(0, rows, ended)
        if stopped is not None:
            stops = stops.index_copy(0, rows, stopped)
        position = None if self.position is None else self.position + 1
        positions = self.positions.index_add(0, rows, torch.ones_like(rows))
        new = replace(
            self,
            positions=positions,
            position=position,
            finished=finished,
            stopped=stops,
            steered=steered,
            pending=tokens,
            log_prior=self.log_prior.index_add(0, rows, log_prob),
        )
        if position is not None and position >= self.max_tokens:
            return new.close(torch.zeros_like(rows, dtype=torch.bool))
        going = None if ended is None else ~ended
        if position is None:
            below = positions[rows] < self.max_tokens
            going = below if going is None else going & below
        if going is None or bool(going.all()):
            return new
        return new.close(going)

    def _write(self, tokens: Tensor, log_prob: Tensor, log_mass: Tensor | None) -> None:
        rows = self.open
        positions = None if self.position is not None else self.positions[rows]
        for column, values in (
            (self.tokens, tokens),
            (self.token_log_prob, log_prob),
            (self.token_log_mass, log_mass),
        ):
            if column is None or values is None:
                continue
            if self.position is not None:
                column[:, self.position].index_copy_(0, rows, values)
            else:
                assert positions is not None
                column[rows, positions] = values


@dataclass(frozen=True, slots=True)
class Step:
    """What one token cost the rows that were open: `rows` `[open]` and, aligned with it, logs of

    `log_prior`: the probability of the token under the prior; `log_mass`: Σ_v q(v) ψ(x<t v)/ψ(x<t)
    with the q that tokens are proposed from (−inf: no token is possible, and the row is dead);
    `log_ratio`: ψ(x≤t)/ψ(x<t) of the token, None where that is 1; `log_base`: the q of the token,
    None where that is the prior. `is_floored`: that q is a mixture with the masked prior, so that
    the weights have a bound. `is_deferred`: its ratio to the prior is a part of ψ.
    """

    rows: Tensor
    log_prior: Tensor
    log_mass: Tensor
    log_ratio: Tensor | None = None
    log_base: Tensor | None = None
    is_floored: bool = False
    is_deferred: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether tokens were drawn from the prior, some of them excluded at most, or from a
        mixture with it."""
        return self.log_ratio is None and (self.log_base is None or self.is_floored)

    @property
    def log_proposal(self) -> Tensor:
        """log q(v) ψ(x<t v)/ψ(x<t) / mass: how likely the token was to be drawn, `[open]`."""
        log_q = self.log_prior if self.log_base is None else self.log_base
        if self.log_ratio is not None:
            log_q = log_q + self.log_ratio
        impossible = (log_q == -math.inf) | (self.log_mass == -math.inf)
        return torch.where(impossible, -math.inf, log_q - self.log_mass)

    @property
    def log_weight(self) -> Tensor:
        """What the weight of the row takes: log p(v) ψ(x≤t)/ψ(x<t) over the proposal, `[open]`.

        −inf where the token was forced and ψ is zero with it.
        """
        gain = self.log_mass
        if self.log_base is not None:
            ratio = self.log_mass.new_zeros(())
            if not self.is_deferred:
                ratio = self.log_prior - self.log_base
            gain = (gain + ratio).masked_fill(self.log_prior == -math.inf, -math.inf)
        if self.log_ratio is not None:
            gain = gain.masked_fill(self.log_ratio == -math.inf, -math.inf)
        return gain
