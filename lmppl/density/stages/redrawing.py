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
    `block_size` tokens in the middle where `in_block`, else a suffix.
    """

    stream: Stream
    chains: Tensor
    in_block: bool = False
    block_size: int = 1


@dataclass(frozen=True, slots=True)
class Redrawn:
    """Values in which a part was drawn again.

    `log_ratio` `[rows]` is log p(new) q(old | new) − log p(old) q(new | old) with p the site's
    prior and q the proposal; −inf refuses. `log_prior` `[rows]` is that of the new values. `cut`
    `[rows]` in [0, 1) says which share of a text was kept, None where that is not the question;
    `from_start` `[rows]` which kept nothing. `settle` is told which rows took the new value.
    """

    value: Any  # SiteValue
    log_prior: Tensor
    log_ratio: Tensor
    num_tokens: int
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
    num_tokens = 0
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
    return Redrawn(new, new.log_prob(), log_ratio, num_tokens)
