"""Text sites: one batched forward per token for the rows that still need one.

A `TextRun` is a batch of texts in the making. Each step extends the prefixes that are still open
by the token drawn last (lazily, so that rows dropped by resampling or by ending cost no forward),
steers the next-token distribution, and draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lmppl.automata.stopping import NO_STOPPING, Stopping
from lmppl.density.rows import SiteRows
from lmppl.density.stages.alternatives import Children
from lmppl.density.stages.beside import Beside, Proposed
from lmppl.density.stages.completing import finished, recovered, resumed
from lmppl.density.stages.mixing import mixed_step
from lmppl.density.stages.redrawing import (
    Redraw,
    Redrawn,
    redraw_block,
    redraw_resized,
    redraw_suffix,
)
from lmppl.density.stages.run import Step, TextRun
from lmppl.density.stages.scoring import (
    require_numbers,
    require_sums,
    rescore,
    retrace,
    weight_of,
)
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.automaton import Automata, stop_automata
from lmppl.density.steering.protocol import Steering
from lmppl.density.steering.steered import Steered
from lmppl.lm.protocol import LanguageModel, PrefixArchive, Prefixes, Prompt
from lmppl.records import brief
from lmppl.rng import Uniforms
from lmppl.sequences.drawing import IDENTITY_WARP, Warp, draw_tokens, log_mass_of
from lmppl.timing import timed


@dataclass(frozen=True, slots=True)
class TextStage:
    """A text site bound to its language model: how its texts are drawn and scored.

    `stopping` is what ends a text besides end tokens; `warp` is the site's temperature, top-k and
    top-p, part of the prior.
    """

    name: str
    lm: LanguageModel
    max_tokens: int
    warp: Warp = IDENTITY_WARP
    stopping: Stopping = NO_STOPPING
    is_eos: Tensor = field(init=False)  # bool [vocab]

    lowered: ClassVar[str] = "lmppl.lowering.texts:LoweredText"
    tokens_per_step: ClassVar[int] = 1
    support: ClassVar[None] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        flags = torch.zeros(self.lm.vocab.size, dtype=torch.bool)
        flags[list(self.lm.vocab.eos_ids)] = True
        object.__setattr__(self, "is_eos", flags.to(self.lm.device))

    @property
    def num_steps(self) -> int:
        """The most steps in which a text is drawn, a token each."""
        return self.max_tokens

    @property
    def text(self) -> TextStage:
        """This site."""
        return self

    @property
    def language_models(self) -> tuple[LanguageModel, ...]:
        """The one that texts are drawn from."""
        return (self.lm,)

    def start(self, rows: SiteRows, *steering: Steering, record: bool = False) -> TextRun:
        """Texts of no tokens."""
        return self.begin(rows.prompts, *steering, record=record)

    def unsteered(self, rows: SiteRows) -> tuple[Automata, ...]:
        """What watches for what ends texts."""
        return (stop_automata(self, rows.prompts),)

    def children(self, run: TextRun) -> tuple[TextRun, Children]:
        """Every token that may follow every open text."""
        run = self.extend(run)
        assert run.prefixes is not None
        log_probs = self.warp(run.prefixes.row_logits()).double().log_softmax(-1)
        require_numbers(self, log_probs)
        possible = log_probs > -math.inf
        mask = self.mask(run)
        if mask is not None:
            possible &= mask
        parent, token = possible.nonzero(as_tuple=True)
        is_open = torch.zeros(run.num_rows, dtype=torch.bool, device=run.tokens.device)
        is_open[run.open] = True
        closed = (~is_open).nonzero().squeeze(-1)
        rows = torch.cat([closed, run.open[parent]])
        return run, Children(rows, token, log_probs[parent, token])

    def grown(self, run: TextRun, children: Children) -> TextRun:
        """A row for each text that was closed, and for each token that may follow another."""
        return self.place(run.select(children.rows), children.drawn, children.log_prob)

    def log_prob(self, rows: SiteRows, value: TextBatch) -> Tensor:
        """log p(text | parents) of the text of every row, `[rows]` float64."""
        return rescore(self, rows.prompts, value)

    def retraced(
        self, rows: SiteRows, steering: tuple[Automata, ...], value: TextBatch
    ) -> tuple[TextBatch, Tensor]:
        """Given texts with what each token costs, and their log prior `[rows]`."""
        (automata,) = steering
        text, possible = retrace(self, rows.prompts, automata, value)
        return text, torch.where(possible, text.log_prob(), -math.inf)

    def log_ratio(self, rows: SiteRows, run: TextRun, value: TextBatch) -> Tensor:
        """log prior − log proposal of given texts, `[rows]` float64."""
        return weight_of(self, run, value)

    def memory(self, num_rows: int) -> PrefixArchive | None:
        """What the language model keeps of the texts."""
        return self.lm.archive(num_rows, self.max_tokens)

    def redraw(
        self,
        rows: SiteRows,
        steering: tuple[Automata, ...],
        value: TextBatch,
        how: Redraw,
        memory: PrefixArchive | None,
    ) -> Redrawn:
        """Every text with a part in its middle, or a suffix, drawn again."""
        (automata,) = steering
        in_block = redraw_resized if how.resized else redraw_block
        redraw = in_block if how.in_block else redraw_suffix
        return redraw(self, rows, automata, value, how, memory)

    def alternatives(self, rows: SiteRows) -> None:
        """None: texts are too many to be listed."""

    def given(self, values: Sequence[object]) -> TextBatch:
        """A text is more than its string: how it is written in tokens is not to be guessed."""
        raise ValueError(f"the texts of {self.name} must be given by their tokens")

    @property
    def truncates(self) -> bool:
        """Whether some tokens that the language model can draw are cut from the prior."""
        return self.warp.top_k is not None or self.warp.top_p is not None

    @property
    def cut_by(self) -> str:
        """What decides which texts have no probability, in words before the site's name."""
        return "top_k or top_p of" if self.truncates else "the prior of"

    def described(self) -> dict[str, Any]:
        """The language model, and how texts are drawn from it."""
        return {
            "kind": "text",
            "language_model": self.lm.name,
            "language_model_digest": self.lm.digest,
            "vocabulary_digest": self.lm.vocab.digest,
            "max_tokens": self.max_tokens,
            "temperature": self.warp.temperature,
            "top_k": self.warp.top_k,
            "top_p": self.warp.top_p,
            "stop": list(self.stopping.before),
            "stop_after": list(self.stopping.after),
            "until": self.stopping.until,
        }

    def with_language_models(self, change: Callable[[LanguageModel], LanguageModel]) -> Self:
        """The same site with another language model of the same vocabulary."""
        lm = change(self.lm)
        return self if lm is self.lm else replace(self, lm=lm)

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @timed("prompt")
    def begin(
        self,
        prompts: Sequence[Prompt],
        *steering: Steering,
        rows: Tensor | None = None,
        proposal: Proposed | None = None,
        kept: TextBatch | None = None,
        kept_lengths: Tensor | None = None,
        record: bool = False,
        archive: PrefixArchive | None = None,
        archived: Tensor | None = None,
    ) -> TextRun:
        """Texts of no tokens, one per prompt; or the first `kept_lengths` tokens of `kept`.

        Row i is row `rows[i]` of what the steerings were made for (by default i). Tokens are drawn
        from a `proposal` after the same prompts, where there is one.
        `kept_lengths` `[rows]` must leave out a final end token. `record` keeps what each token
        cost, which suffix moves need. What is kept is recalled from an `archive`: from its rows
        `archived` `[rows]`, or from those of the same number, and the texts are then filed there.
        """
        every = torch.arange(len(prompts), device=self.device)
        strip = None
        if self.lm.vocab.strips_leading_space:
            bare = [prompt == "" for prompt in prompts]
            strip = torch.tensor(bare, device=self.device) if any(bare) else None
        steered = Steered.begin(steering, every if rows is None else rows)
        run = TextRun.empty(every, self.max_tokens, steered, strip, record=record)

        def opened(lm: LanguageModel) -> Prefixes:
            if kept is None or kept_lengths is None:
                return lm.start(prompts, max_new_tokens=self.max_tokens)
            return resumed(self, lm, prompts, kept.tokens, kept_lengths)

        if proposal is not None:
            if proposal.looks_ahead:
                steered = replace(steered, log_tokens=torch.zeros_like(run.log_prior))
            beside = Beside.begin(proposal, opened(proposal.lm))
            run = replace(run, beside=beside, steered=steered)
        if kept is None or kept_lengths is None:
            return replace(run, prefixes=opened(self.lm))
        if archive is None:
            prefixes = opened(self.lm)
        else:
            at = every if archived is None else archived
            prefixes = archive.recall(at, prompts, kept.tokens, kept_lengths)
        run = replace(run, prefixes=prefixes, archive=archive if archived is None else None)
        return run.resumed(kept, kept_lengths)

    def step(
        self,
        run: TextRun,
        uniforms: Tensor | None,
        *,
        forced: Tensor | None = None,
        masked: bool = True,
    ) -> tuple[TextRun, Step]:
        """The next token of every open row: drawn, or `forced`, and what that costs.

        `uniforms` `[rows]` has a number for every row, open or not; None where none draws.
        `forced` `[rows]` has the tokens of rows that must take one, and −1 for those that draw.
        Not `masked`, tokens are proposed as if nothing were steered.
        """
        run = self.extend(run)
        prefixes = run.prefixes
        assert prefixes is not None
        rows = run.open
        mask, log_factors = run.steered.log_next(run) if masked else (None, None)
        beside = run.beside
        if beside is not None and beside.log_odds is not None:
            return mixed_step(
                self, run, _of_rows(uniforms, run), mask, log_factors, _of_rows(forced, run)
            )
        proposed = prefixes if beside is None else beside.prefixes
        warp = self.warp if beside is None else beside.proposal.warp
        logits = warp(proposed.logits)
        drawn = draw_tokens(
            logits,
            _of_rows(uniforms, run),
            index=None if proposed.identity else proposed.index,
            mask=mask,
            log_factors=log_factors,
            forced=_of_rows(forced, run),
        )
        log_prior, log_base = drawn.log_prob, None
        if beside is not None:
            log_base = log_prior
            log_probs = self.warp(prefixes.row_logits()).double().log_softmax(-1)
            log_prior = log_probs.gather(1, drawn.tokens.unsqueeze(-1)).squeeze(-1)
        log_ratio, kept = None, drawn.log_mass
        if log_factors is not None:
            log_ratio = drawn.log_ratio
            if run.token_log_mass is not None:
                # Moves that go on from the text draw by the masks alone.
                kept = log_mass_of(logits, mask, None if proposed.identity else proposed.index)
        new = self.place(run, drawn.tokens, log_prior, kept, log_ratio)
        if log_ratio is not None:
            require_sums(log_ratio, drawn.log_mass)
        return new, Step(rows, log_prior, drawn.log_mass, drawn.log_ratio, log_base)

    @timed("forward")
    def extend(self, run: TextRun) -> TextRun:
        """The run with the tokens drawn last computed: one forward for the open rows."""
        if run.pending is None:
            return run
        assert run.prefixes is not None
        return replace(
            run,
            prefixes=self.lm.extend(run.prefixes, run.pending),
            beside=None if run.beside is None else run.beside.extend(run.pending),
            pending=None,
        )

    def mask(self, run: TextRun) -> Tensor | None:
        """Tokens `[open, vocab]` after which the constraints can still be met; None: all."""
        return run.steered.log_next(run)[0]

    @timed("bookkeeping")
    def place(
        self,
        run: TextRun,
        tokens: Tensor,
        log_prob: Tensor,
        log_mass: Tensor | None = None,
        log_factors: Tensor | None = None,
    ) -> TextRun:
        """The run after every open row has taken its token; `[open]` each.

        `log_factors` is by how much ψ has grown with the token, without the masks; None: not.
        """
        rows = run.open
        if log_prob.device.type == "cpu":
            require_numbers(self, log_prob)
        else:
            # Looked at when the texts are finished: the host does not wait at every step.
            now = log_prob.isnan().any()
            run = replace(run, undefined=now if run.undefined is None else now | run.undefined)
        steered = run.steered.advance(rows, tokens, log_factors)
        ended = self.is_eos[tokens] if self.lm.vocab.eos_ids else None
        stopped = steered.ended(rows) if self.stopping else None
        if stopped is not None:
            ended = stopped if ended is None else ended | stopped
        return run.placed(tokens, log_prob, log_mass, steered, ended, stopped)

    def recovered(self, run: TextRun, rows: SiteRows) -> TextRun:
        """The run with what its open rows have in caches computed anew from their tokens."""
        return recovered(self, run, rows.prompts)

    def finish(self, run: TextRun) -> TextBatch:
        """The texts of a run in which no row is open any more."""
        return finished(self, run)

    def advance(
        self,
        run: TextRun,
        log_weight: Tensor,
        uniforms: Uniforms,
        number: int,
        *,
        masked: bool = True,
    ) -> tuple[TextRun, Tensor]:
        """One token more for every open row, the `number`-th since the run was begun or taken up.

        `log_weight` `[rows]` is what the tokens so far have cost, ψ included; rows that are dead
        are closed.
        """
        every = torch.arange(run.num_rows, device=self.device)
        run, step = self.step(run, uniforms(every, number), masked=masked)
        log_weight = log_weight.index_add(0, step.rows, step.log_weight)
        if not masked:
            # The prior walks into dead ends: an attempt that cannot succeed stops there. Whether a
            # stop string ended a dead text is not known, so that one which its last token killed
            # must not be judged by what it seems to say.
            left = run.max_tokens - run.positions[step.rows]
            dead = step.rows[run.steered.is_dead(step.rows, left)]
            log_weight = log_weight.index_fill(0, dead, -math.inf)
        if run.weighs_tokens and run.num_open:
            run = run.close(log_weight[run.open] > -math.inf)
        return run, log_weight


def _of_rows(values: Tensor | None, run: TextRun) -> Tensor | None:
    """What is given for all rows, `[rows]`, for those that are open."""
    return values if values is None or run.num_open == run.num_rows else values[run.open]
