"""What every text has gained on its way, by the steering of a run or by another one.

The weights that texts take from some token on say how wrong ψ was of them there: with the right ψ
nothing is gained or lost after the first token. Where all texts of a run have gained little from
some token on, and another text gains much there, ψ thought too little of it, so that resampling has
kept few such texts, or none. So a run keeps what its texts have gained, and of texts that were
drawn in another way it is counted what they would have gained under its ψ (see `scouting`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lmppl.density import Run, Stage, Target
from lmppl.density.stages.run import Step, TextRun
from lmppl.density.steering.steered import Steered
from lmppl.density.steering.surrogate import SurrogateLookahead

Stepped: TypeAlias = "tuple[Any, Step, Watch, Tensor | None]"


@dataclass(frozen=True, slots=True)
class Watch:
    """The log weight that every text has gained on its way, `columns` `[rows]` for every place.

    A place is one token of one site, and that of the last one has what comes when the text is
    whole. The last column is that of the present place, the first that of place `since`, before
    which nothing was kept; `num_places` are there in all, and texts of other runs that ended sooner
    have gained nothing in the others. Where `ahead`
    is given, tokens are drawn by something else, and what is gained is what `ahead` would have left
    in its place: `states` are its states, `log_tokens` `[rows]` what it, and all else that steers,
    has said of the tokens so far.
    """

    columns: tuple[Tensor, ...]
    num_places: int
    since: int = 0
    ahead: SurrogateLookahead | None = None
    states: Tensor | None = None
    log_tokens: Tensor | None = None

    @classmethod
    def begin(cls, target: Target, number: int) -> Watch:
        """Before anything of site `number` is drawn."""
        places = _first_place(target, len(target.stages))
        return cls((), places, _first_place(target, number))

    def at(self, target: Target, number: int, run: Run) -> Watch:
        """Before a token of site `number`."""
        place = _first_place(target, number) + (run.position or 0)
        # Single precision: these are compared, and never weigh anything.
        none = torch.zeros(run.num_rows, dtype=torch.float32, device=target.device)
        further = place + 1 - self.since - len(self.columns)
        return replace(self, columns=(*self.columns, *(none,) * further))

    @property
    def gained(self) -> Tensor:
        """`[rows, places]`; 0 where nothing was kept."""
        first = self.columns[0]
        none = torch.zeros_like(first)
        after = self.num_places - self.since - len(self.columns)
        return torch.stack((*(none,) * self.since, *self.columns, *(none,) * after), -1)

    def looking(self, ahead: SurrogateLookahead | None, rows: Tensor) -> Watch:
        """At the begin of a site whose texts, for the executions `rows`, something else draws."""
        if ahead is None or ahead.is_trivial:
            return replace(self, ahead=None, states=None, log_tokens=None)
        zeros = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        every = torch.arange(rows.shape[0], device=rows.device)
        return replace(self, ahead=ahead, states=ahead.begin(every), log_tokens=zeros)

    def with_gain(self, gain: Tensor) -> Watch:
        """With what every row `[rows]` has gained at the present place."""
        last = self.columns[-1] + gain.to(self.columns[-1].dtype)
        return replace(self, columns=(*self.columns[:-1], last))

    def select(self, indices: Tensor) -> Watch:
        return replace(
            self,
            columns=tuple(column[indices] for column in self.columns),
            states=None if self.states is None else self.states[indices],
            log_tokens=None if self.log_tokens is None else self.log_tokens[indices],
        )

    def stepped(self, stage: Stage, run: Run, uniforms: Tensor) -> Stepped:
        """The next token of every open text, what that costs, the watch after it, and what `ahead`
        would have left of every row's weight, `[rows]`; None: there is none."""
        if self.ahead is None or not isinstance(run, TextRun) or stage.text is None:
            run, step = stage.step(run, uniforms)
            return run, step, self, None
        assert self.states is not None and self.log_tokens is not None
        run = stage.text.extend(run)
        assert run.prefixes is not None
        log_probs = stage.text.warp(run.prefixes.row_logits()).double().log_softmax(-1)
        mask, factors = _without_surrogate(run.steered).log_next(run)
        mine = self.ahead.log_next(run, self.states[run.open])
        said = torch.zeros_like(log_probs) if mine is None else mine.double()
        said = said if factors is None else said + factors
        log_probs = log_probs + said
        log_probs = log_probs if mask is None else log_probs.masked_fill(~mask, -math.inf)
        log_mass = log_probs.logsumexp(-1)
        position = run.position or 0
        run, step = stage.step(run, uniforms)
        assert isinstance(run, TextRun)
        rows = step.rows
        tokens = run.tokens[rows, position]
        taken = said.gather(1, tokens.unsqueeze(-1)).squeeze(-1)
        watch = replace(
            self,
            states=self.states.index_copy(0, rows, self.ahead.advance(self.states[rows], tokens)),
            log_tokens=self.log_tokens.index_add(0, rows, _finite(taken)),
        )
        gain = torch.zeros_like(self.log_tokens).index_copy(0, rows, _finite(log_mass))
        return run, step, watch, gain

    def unsteered(self, run: Run, gain: Tensor) -> Tensor | None:
        """What texts that are whole gain at last, `[rows]`, of which the factors are `gain`; None:
        what they gain in the run that draws them."""
        if self.log_tokens is None or not isinstance(run, TextRun):
            return None
        scores = run.steered.log_scores
        gain = gain - self.log_tokens
        return gain if scores is None else gain - scores

    def to_come(self) -> Tensor:
        """`[rows, places]`: all that is gained from a place on."""
        return self.gained.double().flip(-1).cumsum(-1).flip(-1)


def _finite(values: Tensor) -> Tensor:
    """Of what another steering rules out nothing is known."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _first_place(target: Target, number: int) -> int:
    return sum(stage.num_steps for stage in target.stages[:number])


def _without_surrogate(steered: Steered) -> Steered:
    """All that steers beside a surrogate."""
    kept = [n for n, part in enumerate(steered.parts) if not isinstance(part, SurrogateLookahead)]
    return replace(
        steered,
        parts=tuple(steered.parts[n] for n in kept),
        states=tuple(steered.states[n] for n in kept),
        log_values=tuple(steered.log_values[n] for n in kept),
    )
