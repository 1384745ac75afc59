"""Redrawing a part of a value given the rest: what Metropolis–Hastings proposes at a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.completing import complete
from lmppl.density.stages.scoring import retrace
from lmppl.density.stages.strings import decode
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.steering.automaton import Automata
from lmppl.density.steering.ends import WithoutEnds
from lmppl.lm.protocol import PrefixArchive
from lmppl.rng import Stream

if TYPE_CHECKING:
    from lmppl.density.stages.text import TextStage


@dataclass(frozen=True, slots=True)
class Redraw:
    """How a part of a site is to be redrawn.

    `chains` `[rows]` names each row's random numbers in `stream`. Of a text, a block of
    `block_size` tokens in the middle where `in_block`, else a suffix. A block that is `resized`
    gives way to one of another size, both of at most `block_size` tokens.
    """

    stream: Stream
    chains: Tensor
    in_block: bool = False
    block_size: int = 1
    resized: bool = False


@dataclass(frozen=True, slots=True)
class Redrawn:
    """Values in which a part was drawn again.

    `log_ratio` `[rows]` is log p(new) q(old | new) − log p(old) q(new | old) with p the site's
    prior and q the proposal; −inf refuses. `log_prior` `[rows]` is that of the new values. `cut`
    `[rows]` in [0, 1) says which share of a text was kept, None where that is not the question;
    `from_start` `[rows]` which kept nothing. `settle` is told which rows took the new value.
    `num_tokens` were drawn, and `num_computed` read by a language model, drawn or not.
    """

    value: Any  # SiteValue
    log_prior: Tensor
    log_ratio: Tensor
    num_tokens: int
    num_computed: int = 0
    cut: Tensor | None = None
    from_start: Tensor | None = None
    settle: Callable[[Tensor], None] | None = None


def redraw_suffix(
    stage: TextStage,
    rows: SiteRows,
    automata: Automata,
    old: TextBatch,
    how: Redraw,
    archive: PrefixArchive | None,
) -> Redrawn:
    """Keeps a uniformly chosen prefix of each text and draws the rest from the (masked) prior.

    An `archive` has the kept prefixes of the rows already, and keeps what is drawn.
    """
    chains = how.chains
    share = how.stream.child("cut").uniforms(chains)
    cut = torch.minimum((share * old.lengths).long(), old.lengths - 1)
    run = stage.begin(
        rows.prompts, automata, kept=old, kept_lengths=cut, record=True, archive=archive
    )
    uniforms = how.stream.child("tokens")
    run, log_mass = complete(stage, run, lambda at, step: uniforms.uniforms(chains[at], step))
    dead = log_mass == -torch.inf
    num_tokens = int((run.positions - cut).sum())
    new = stage.finish(run)
    if bool(dead.any()):
        # An unfinished text must not be scored: such a proposal is the old text, and is refused.
        new = old.merge(new, ~dead)
    columns = torch.arange(stage.max_tokens, device=stage.device)
    after_cut = columns >= cut.unsqueeze(-1)
    # Where the prior proposes, its ratio and the proposals' leave the masses. A text of L tokens
    # offers L cuts.
    log_ratio = new.log_mass(after_cut) - old.log_mass(after_cut)
    log_ratio = log_ratio + (old.lengths.double().log() - new.lengths.double().log())
    return Redrawn(
        new,
        new.log_prob(),
        log_ratio.masked_fill(dead, -torch.inf),
        num_tokens,
        num_tokens,
        cut=share,
        from_start=cut == 0,
        settle=None if archive is None else archive.settle,
    )


def redraw_block(
    stage: TextStage,
    rows: SiteRows,
    automata: Automata,
    old: TextBatch,
    how: Redraw,
    archive: PrefixArchive | None,
) -> Redrawn:
    """Draws a block of tokens in the middle of each text again and keeps what follows.

    A final end token, or the token that completes a stop string, stays. Ends are excluded inside
    the block, so that the length and with it the choice of blocks stays the same.
    """
    num_rows, chains = rows.num_rows, how.chains
    every = torch.arange(num_rows, device=stage.device)
    inner = old.lengths - old.finished.long()
    size = inner.clamp(max=how.block_size)
    start = (how.stream.child("start").uniforms(chains) * (inner - size + 1)).long()
    possible = inner > 0
    # The ratio of proposals needs what the old block would have cost: the old texts and the new
    # ones are stepped side by side in one batch, and those of the first half are forced.
    twice = torch.cat([every, every])
    run = stage.begin(
        rows.prompts + rows.prompts,
        automata,
        WithoutEnds(stage.is_eos),
        rows=twice,
        kept=old.select(twice),
        kept_lengths=torch.cat([start, start]),
        record=True,
        archive=archive,
        archived=twice,
    )
    log_q = torch.zeros(2 * num_rows, dtype=torch.float64, device=stage.device)
    uniforms = how.stream.child("tokens")
    num_tokens = num_computed = 0
    for offset in range(how.block_size):
        inside = (offset < size) & possible
        run = run.close(torch.cat([inside, inside])[run.open])
        if not run.num_open:
            break
        position = (start + offset).clamp(max=stage.max_tokens - 1)
        own = old.tokens.gather(1, position.unsqueeze(-1)).squeeze(-1)
        run, step = stage.step(
            run,
            uniforms.uniforms(chains, offset).repeat(2),
            forced=torch.cat([own, torch.full_like(own, -1)]),
        )
        log_q = log_q.index_add(0, step.rows, step.log_proposal)
        possible = possible & (log_q[num_rows:] > -torch.inf)
        num_tokens += int((step.rows >= num_rows).sum())
        num_computed += step.rows.shape[0]
    log_q_old, log_q_new = log_q.chunk(2)
    columns = torch.arange(stage.max_tokens, device=stage.device)
    start, size = start.unsqueeze(-1), size.unsqueeze(-1)
    block = (columns >= start) & (columns < start + size)
    candidate = replace(old, tokens=torch.where(block, run.tokens[num_rows:], old.tokens))
    candidate = replace(candidate, strings=tuple(decode(stage, candidate, rows.prompts)))
    retraced, valid = retrace(stage, rows.prompts, automata, candidate)
    possible = possible & valid
    new = old.merge(retraced, possible)
    log_ratio = new.log_prob() - old.log_prob() + log_q_old - log_q_new
    log_ratio = torch.where(possible, log_ratio, -torch.inf)
    num_computed += int(old.lengths.sum())
    return Redrawn(new, new.log_prob(), log_ratio, num_tokens, num_computed)


def redraw_resized(
    stage: TextStage,
    rows: SiteRows,
    automata: Automata,
    old: TextBatch,
    how: Redraw,
    archive: PrefixArchive | None,
) -> Redrawn:
    """Draws a few tokens in the middle of each text in the place of more or fewer; both ends stay.

    A text that ended keeps what follows, its end included, and becomes longer or shorter. One that
    was cut off at `max_tokens` stays that long: what follows moves, and tokens at its end are
    pushed out, or drawn to fill it up. With i the tokens before the one that ends the text, the
    block begins after s of them, s uniform on 0 … i (of a text that was cut off: s < i); its size k
    is uniform on 0 … min(K, i − s), and the new size k' uniform on 0 … K' but k, with K' the most
    that there is room for, K at most. Of a text that was cut off the way back is as likely; of one
    that ended, with r of the i tokens kept after the block, it is

        (i + 1)(min(K, k + r) + 1) / ((i' + 1)(min(K, k' + r) + 1))

    times as likely, i' = i − k + k'. Tokens are drawn from the masked prior, ends included: a text
    that ends too soon is refused. So what the old tokens would have cost is on record, and only new
    ones are computed.
    """
    chains, largest = how.chains, how.block_size
    uniforms = how.stream.child("tokens")
    ends = old.finished.long()
    inner = old.lengths - ends

    def uniform_on(name: str, size: Tensor) -> Tensor:
        """A number below `size` `[rows]` for each row; 0 where there is none."""
        share = how.stream.child(name).uniforms(chains)
        return torch.minimum((share * size).long(), (size - 1).clamp(min=0))

    start = uniform_on("start", inner + ends)
    rest = inner - start
    old_size = uniform_on("old size", rest.clamp(max=largest) + 1)
    room = torch.where(old.finished, stage.max_tokens - old.lengths + old_size, rest)
    num_sizes = room.clamp(max=largest)
    new_size = uniform_on("new size", num_sizes)
    new_size = new_size + (new_size >= old_size).long()
    shift = new_size - old_size
    lengths = torch.where(old.finished, old.lengths + shift, old.lengths)

    run = stage.begin(
        rows.prompts, automata, kept=old, kept_lengths=start, record=True, archive=archive
    )
    alive = num_sizes > 0
    run = run.close(alive[run.open])
    log_q = torch.zeros(rows.num_rows, dtype=torch.float64, device=stage.device)
    num_tokens = num_computed = number = 0
    while run.num_open:
        source = run.positions - shift
        drawn = (run.positions < start + new_size) | (source >= old.lengths)
        kept = old.tokens.gather(1, source.clamp(0, stage.max_tokens - 1).unsqueeze(-1)).squeeze(-1)
        run, step = stage.step(
            run, uniforms.uniforms(chains, number), forced=torch.where(drawn, -1, kept)
        )
        at, log_proposal = step.rows, step.log_proposal
        log_q = log_q.index_add(0, at, log_proposal.masked_fill(~drawn[at], 0.0))
        alive = alive.index_copy(0, at, alive[at] & (log_proposal > -torch.inf))
        num_tokens += int(drawn[at].sum())
        num_computed += at.shape[0]
        number += 1
        if run.num_open:
            run = run.close(alive[run.open] & (run.positions < lengths)[run.open])
    alive &= (run.positions == lengths) & (run.finished == old.finished)
    new = stage.finish(run)
    if not bool(alive.all()):
        new = old.merge(new, alive)
    replaced = _replaced(old, start, old_size, shift)
    assert old.token_log_prob is not None and old.token_log_mass is not None
    log_q_old = torch.where(replaced, old.token_log_prob - old.token_log_mass, 0.0).sum(-1)
    tail = rest - old_size
    log_choices = _log_choices(inner, old_size + tail, largest)
    log_choices = log_choices - _log_choices(inner + shift, new_size + tail, largest)
    log_ratio = new.log_prob() - old.log_prob() + log_q_old - log_q
    log_ratio = log_ratio + torch.where(old.finished, log_choices, 0.0)
    return Redrawn(
        new,
        new.log_prob(),
        log_ratio.masked_fill(~alive, -torch.inf),
        num_tokens,
        num_computed,
        settle=None if archive is None else archive.settle,
    )


def _log_choices(inner: Tensor, after: Tensor, largest: int) -> Tensor:
    """The log of how many starts and sizes a block in the middle can have, `[rows]` float64.

    `inner` `[rows]` tokens come before the one that ends the text, of which `after` from where the
    block starts.
    """
    return ((inner + 1) * (after.clamp(max=largest) + 1)).double().log()


def _replaced(old: TextBatch, start: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """Which tokens are not in the new text, bool `[rows, max_tokens]`: the block, and what it
    pushes over the end of a text that was cut off as it grows by `shift` `[rows]`."""
    columns = torch.arange(old.tokens.shape[1], device=old.tokens.device)
    pushed_out = shift.clamp(min=0).masked_fill(old.finished, 0)
    first, end = start.unsqueeze(-1), old.lengths.unsqueeze(-1)
    block = (columns >= first) & (columns < first + size.unsqueeze(-1))
    return block | (columns >= end - pushed_out.unsqueeze(-1)) & (columns < end)
