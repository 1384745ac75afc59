"""Moves that leave the posterior invariant: what a Markov chain over executions is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import ChoiceStage, SiteRows, Target, TextBatch, TextStage, Traces, draw_choices
from lmppl.density.stages.scoring import retrace
from lmppl.density.stages.strings import decode
from lmppl.density.steering.ends import WithoutEnds
from lmppl.density.walk import Chosen, walk
from lmppl.inference.proposing import propose
from lmppl.lm.protocol import PrefixArchive, Prompt
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Move:
    """The executions after a move, `[rows]`: which were accepted and which have changed.

    `cut` is the relative position of a suffix move's cut in [0, 1), None for other moves.
    `from_start` says which kept no token and drew the whole text, or everything anew; None for
    moves that never do.
    """

    traces: Traces
    accepted: Tensor
    moved: Tensor
    num_tokens: int
    cut: Tensor | None = None
    from_start: Tensor | None = None


def suffix_move(
    target: Target,
    traces: Traces,
    site: int,
    stream: Stream,
    archive: PrefixArchive | None = None,
) -> Move:
    """Keeps a uniformly chosen prefix of a text and draws the rest from the (masked) prior.

    An `archive` has the kept prefixes of the rows already, and keeps what is drawn.
    """
    stage = _text_stage(target, site)
    old = traces.values[stage.name]
    chains = _chains(target, traces)
    share = stream.child("cut").uniforms(chains)
    cut = torch.minimum((share * old.lengths).long(), old.lengths - 1)
    prompts = target.prompts(site, traces)
    automata = target.requirements.automata(site, traces, prompts)
    run = stage.begin(prompts, automata, kept=old, kept_lengths=cut, record=True, archive=archive)
    uniforms = stream.child("tokens")
    run, log_mass = stage.complete(run, lambda at, step: uniforms.uniforms(chains[at], step))
    dead = log_mass == -math.inf
    num_tokens = int((run.positions - cut).sum())
    if bool(dead.any()):
        # An unfinished text must not be scored: such a proposal is the old text, and is refused.
        new = old.merge(stage.finish(run), ~dead)
    else:
        new = stage.finish(run)
    columns = torch.arange(stage.max_tokens, device=stage.device)
    after_cut = columns >= cut.unsqueeze(-1)
    log_proposal_ratio = new.log_mass(after_cut) - old.log_mass(after_cut)
    log_lengths = old.lengths.double().log() - new.lengths.double().log()
    proposal = traces.with_value(stage.name, new, new.log_prob())
    proposal, log_rest = _rescore_later(target, traces, proposal, site)
    log_ratio = log_proposal_ratio + log_lengths + log_rest
    log_ratio = log_ratio.masked_fill(dead, -math.inf)
    move = _decide(chains, traces, proposal, log_ratio, stream, stage.name, num_tokens, share)
    if archive is not None:
        archive.settle(move.accepted)
    return replace(move, from_start=cut == 0)


def block_move(
    target: Target,
    traces: Traces,
    site: int,
    stream: Stream,
    block_size: int,
    archive: PrefixArchive | None = None,
) -> Move:
    """Draws a block of tokens in the middle of a text again and keeps what follows.

    A final end token, or the token that completes a stop string, stays. Ends are excluded inside
    the block, so that the length and with it the choice of blocks stays the same.
    """
    stage = _text_stage(target, site)
    old = traces.values[stage.name]
    num_rows = traces.num_rows
    rows = torch.arange(num_rows, device=stage.device)
    inner = old.lengths - old.finished.long()
    size = inner.clamp(max=block_size)
    chains = _chains(target, traces)
    start = (stream.child("start").uniforms(chains) * (inner - size + 1)).long()
    possible = inner > 0
    prompts = target.prompts(site, traces)
    automata = target.requirements.automata(site, traces, prompts)
    # The ratio of proposals needs what the old block would have cost: the old texts and the new
    # ones are stepped side by side in one batch, and those of the first half are forced.
    twice = torch.cat([rows, rows])
    run = stage.begin(
        prompts + prompts,
        automata,
        WithoutEnds(stage),
        rows=twice,
        kept=old.select(twice),
        kept_lengths=torch.cat([start, start]),
        record=True,
        archive=archive,
        archived=twice,
    )
    log_q = torch.zeros(2 * num_rows, dtype=torch.float64, device=stage.device)
    uniforms = stream.child("tokens")
    num_tokens = 0
    for offset in range(block_size):
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
        possible = possible & (log_q[num_rows:] > -math.inf)
        num_tokens += int((step.rows >= num_rows).sum())
    log_q_old, log_q_new = log_q.chunk(2)
    columns = torch.arange(stage.max_tokens, device=stage.device)
    start, size = start.unsqueeze(-1), size.unsqueeze(-1)
    block = (columns >= start) & (columns < start + size)
    tokens = torch.where(block, run.tokens[num_rows:], old.tokens)
    candidate = _with_tokens(stage, replace(old, tokens=tokens), prompts)
    retraced, valid = retrace(stage, prompts, automata, candidate)
    possible = possible & valid
    new = old.merge(retraced, possible)
    proposal = traces.with_value(stage.name, new, new.log_prob())
    proposal, log_rest = _rescore_later(target, traces, proposal, site)
    log_ratio = new.log_prob() - old.log_prob() + log_q_old - log_q_new + log_rest
    log_ratio = torch.where(possible, log_ratio, -math.inf)
    return _decide(chains, traces, proposal, log_ratio, stream, stage.name, num_tokens, None)


def gibbs_move(target: Target, traces: Traces, site: int, stream: Stream) -> Move:
    """Draws a discrete site from its full conditional, every value scored in one batch."""
    stage = target.stages[site]
    assert isinstance(stage, ChoiceStage)
    num_rows, size = traces.num_rows, stage.size
    rows = torch.arange(num_rows, device=traces.group.device)
    every = rows.repeat_interleave(size)
    value = torch.arange(size, device=rows.device).repeat(num_rows)
    many = traces.select(every)
    log_probs = stage.log_probs(target.rows(site, many))
    log_prob = log_probs.gather(1, value.unsqueeze(-1)).squeeze(-1)
    proposal = many.with_value(stage.name, stage.batch(value), log_prob)
    proposal, log_rest = _rescore_later(target, many, proposal, site)
    log_joint = (log_prob + log_rest).view(num_rows, size)
    drawn = draw_choices(
        log_joint.log_softmax(-1), stream.child("gibbs").uniforms(_chains(target, traces))
    )
    chosen = proposal.select(rows * size + drawn.clamp(max=size - 1))
    moved = chosen.values[stage.name].differs(traces.values[stage.name])
    return Move(chosen, torch.ones_like(moved), moved, 0)


def restart_move(target: Target, traces: Traces, stream: Stream) -> Move:
    """Draws everything anew from the (masked) prior, and takes it by its importance weight.

    Moves of one site keep the others, and so never lead from one value of linked sites to another:
    a topic and a text that must be about it. This one does.
    """
    chains = _chains(target, traces)
    drawn = propose(target, traces.group, chains, stream.child("restart"), record=True)
    accepted = torch.zeros_like(chains, dtype=torch.bool)
    everything = torch.ones_like(accepted)
    if drawn.rows.numel() == 0:
        return Move(traces, accepted, accepted, drawn.num_tokens, from_start=everything)
    slot = torch.zeros_like(chains).index_copy(
        0, drawn.rows, torch.arange(drawn.rows.shape[0], device=chains.device)
    )
    new = drawn.traces.select(slot)
    log_weight = torch.full_like(traces.total_log_potential(), -math.inf)
    log_weight = log_weight.index_copy(0, drawn.rows, drawn.log_weight)
    own = traces.total_log_potential()
    for value in traces.values.values():
        own = own + value.log_mass()
    accepted = stream.child("accept").uniforms(chains).log() < log_weight - own
    changed = traces.differs(new)
    merged = traces.merge(new, accepted)
    return Move(merged, accepted, accepted & changed, drawn.num_tokens, from_start=everything)


def _chains(target: Target, traces: Traces) -> Tensor:
    """The number of every row's chain within its binding, which names its random numbers."""
    rows = torch.arange(traces.num_rows, device=traces.group.device)
    return rows % (traces.num_rows // target.num_groups)


def _text_stage(target: Target, site: int) -> TextStage:
    stage = target.stages[site]
    assert isinstance(stage, TextStage)
    return stage


def _with_tokens(stage: TextStage, text: TextBatch, prompts: Sequence[Prompt]) -> TextBatch:
    """The batch with the strings of its tokens."""
    return replace(text, strings=tuple(decode(stage, text, prompts)))


def _rescore_later(target: Target, old: Traces, new: Traces, site: int) -> tuple[Traces, Tensor]:
    """What a new value of `site` changes after it: log prior of later sites, and potentials.

    Returns the new executions with everything recomputed, and the log ratio new / old, `[rows]`.
    """
    log_ratio = torch.zeros(new.num_rows, dtype=torch.float64, device=new.group.device)

    def choose(rows: SiteRows) -> Chosen:
        nonlocal log_ratio
        stage = target.stages[rows.number]
        value = new.values[stage.name]
        if not target.depends_on(rows.number, site):
            return Chosen(value)
        value, log_prior = stage.retraced(rows, target.steering(rows), value)
        log_ratio = log_ratio + log_prior - old.log_prior[stage.name]
        return Chosen(value, log_prior)

    new = walk(target, target.apply_potentials(new, site), choose, first=site + 1)
    return new, log_ratio + (new.total_log_potential() - old.total_log_potential())


def _decide(
    chains: Tensor,
    old: Traces,
    proposal: Traces,
    log_ratio: Tensor,
    stream: Stream,
    name: str,
    num_tokens: int,
    cut: Tensor | None,
) -> Move:
    accepted = stream.child("accept").uniforms(chains).log() < log_ratio
    changed = old.values[name].differs(proposal.values[name])
    return Move(old.merge(proposal, accepted), accepted, accepted & changed, num_tokens, cut)
