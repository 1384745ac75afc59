"""Requirements that no text of a language model can meet, found once its vocabulary is known."""

from __future__ import annotations

import itertools
import json
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lmppl.automata.dfa import TooManyStates
from lmppl.automata.language import few_texts, predicate_dfa, shortest_text
from lmppl.automata.predicates import (
    And,
    Predicate,
    reads,
    reads_only_text,
)
from lmppl.density.stages.choice import ChoiceBatch
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import automaton_of
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.errors import Diagnostic, Label
from lmppl.ir.model import Potential

# Budgets of tokens that are tried to say how many would do.
_LARGEST_BUDGET = 1024
# A set of more texts than this is no list of answers.
_MOST_ANSWERS = 200
# Values of choices that are named one by one.
_MOST_NAMED = 5

_Required = list[tuple[Potential, Predicate]]


@dataclass(frozen=True, slots=True)
class Impossible:
    """What no text can meet: LMP305 by binding, and a sentence for each value of a choice, or of
    several together, that is ruled out because no text can meet what it asks for."""

    bindings: Mapping[int, list[Diagnostic]]
    choices: Mapping[int, list[str]]


def impossibilities(target: Target) -> Impossible:
    """Bindings, and values of choices, with which some text can meet nothing that is required.

    Only what automata follow is looked at. That a binding is left out is no promise: choices may
    have no probability, and what is judged on finished texts may fail on all of them.
    """
    found: dict[int, list[Diagnostic]] = {}
    ruled_out: dict[int, list[str]] = {}
    for number, site in enumerate(target.stages):
        stage = site.text
        if stage is None:
            continue
        watched = target.requirements.watched(number)
        if not watched:
            continue
        for group in range(target.num_groups):
            lost: list[tuple[Traces, _Required]] = []
            num_rows = 0
            for row in _rows_of(target, number, watched, group):
                required = target.requirements.required(number, watched, row)
                core = _impossible(stage, required) if required else None
                num_rows += 1
                if core is not None:
                    lost.append((row, core))
            if lost and len(lost) == num_rows:
                _, core = lost[-1]
                found.setdefault(group, []).append(_diagnostic(target, stage, core))
            elif lost:
                ruled_out.setdefault(group, []).extend(_ruled_out(target, stage, lost))
    return Impossible(found, ruled_out)


def _ruled_out(
    target: Target, stage: TextStage, lost: Sequence[tuple[Traces, _Required]]
) -> Iterator[str]:
    for row, core in lost[:_MOST_NAMED]:
        values = " and ".join(
            f"{name} = {json.dumps(value.listed()[0], ensure_ascii=False)}"
            for name, value in row.values.items()
        )
        labels = " and ".join(f"`{potential.label}`" for potential, _ in core)
        cause = _cause(target, stage, [predicate for _, predicate in core])
        yield (
            f"{values} has no posterior probability: no text of `{stage.name}` can meet {labels}"
            f" then ({cause.message})"
        )
    if len(lost) > _MOST_NAMED:
        yield f"so it is with {len(lost) - _MOST_NAMED} more combinations of choices"


def unequal_endings(target: Target, group: int) -> list[str]:
    """A sentence for each text of a few answers of unequal lengths in tokens, the shorter of which
    only an end token can end; what LMP311 says of characters, before a tokenizer is known."""
    found = []
    for number, site in enumerate(target.stages):
        stage = site.text
        tokenizer = None if stage is None else getattr(stage.lm, "tokenizer", None)
        if stage is None or tokenizer is None or stage.stopping:
            continue
        watched = target.requirements.watched(number)
        for row in _rows_of(target, number, watched, group) if watched else ():
            whole = And(
                tuple(each for _, each in target.requirements.required(number, watched, row))
            )
            counts = _tokens_of_answers(whole, tokenizer)
            if len(counts) > 1 and min(counts) < stage.max_tokens:
                found.append(
                    f"the texts that `{stage.name}` may be have {min(counts)} to {max(counts)}"
                    f" tokens, and only an end token ends one before {stage.max_tokens}: each"
                    " weighs what it and the end token after it weigh, not how likely the model"
                    " goes on with it; for that write `starts_with`, or a stop string"
                )
                break
    return found


def _tokens_of_answers(predicate: And, tokenizer: Any) -> set[int]:
    """In how many tokens the texts are written that meet a predicate, where they are few."""
    if not predicate.parts or not reads_only_text(predicate):
        return set()
    try:
        texts = few_texts(predicate_dfa(predicate), _MOST_ANSWERS)
    except TooManyStates:
        return set()
    return {len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts or ()}


def _rows_of(
    target: Target, stage: int, watched: Sequence[Potential], group: int
) -> Iterator[Traces]:
    """One execution for every combination of the earlier choices that requirements look at."""
    names = target.requirements.earlier_choices(stage, watched)
    supports = {s.name: s.support for s in target.stages[:stage] if s.support is not None}
    for indices in itertools.product(*(range(len(supports[name])) for name in names)):
        yield Traces(
            group=torch.tensor([group], device=target.device),
            values={
                name: ChoiceBatch(supports[name], torch.tensor([index], device=target.device))
                for name, index in zip(names, indices, strict=True)
            },
        )


def _is_impossible(stage: TextStage, predicates: Sequence[Predicate]) -> bool:
    # Where a leading space is stripped hangs on the prompt: both cases must be impossible.
    strips = (False, True) if stage.lm.vocab.strips_leading_space else (False,)
    return all(automaton_of(stage, predicates, strip).is_impossible for strip in strips)


def _impossible(stage: TextStage, required: _Required) -> _Required | None:
    """The few requirements that no text meets together; None where some text may meet all."""
    if not _is_impossible(stage, [predicate for _, predicate in required]):
        return None
    core = list(required)
    for each in required:
        rest = [other for other in core if other is not each]
        if rest and _is_impossible(stage, [predicate for _, predicate in rest]):
            core = rest
    return core


@dataclass(frozen=True, slots=True)
class _Cause:
    message: str
    help: str | None = None


def _diagnostic(target: Target, stage: TextStage, lost: _Required) -> Diagnostic:
    cause = _cause(target, stage, [predicate for _, predicate in lost])
    (first, _), *others = lost
    return Diagnostic(
        "LMP305",
        "error",
        f"no text of `{stage.name}` can meet "
        + (f"`{first.label}`" if not others else "these requirements together")
        + f": {cause.message}",
        first.span,
        tuple(Label(potential.span, "and this") for potential, _ in others),
        ("the posterior would have zero mass: no probability is left (LMP901)",),
        cause.help,
    )


def _cause(target: Target, stage: TextStage, predicates: list[Predicate]) -> _Cause:
    vocab = stage.lm.vocab
    can_end = bool(vocab.eos_ids or stage.stopping)
    missing = _missing_characters(stage, predicates)
    if missing:
        shown = ", ".join(f'"{character}"' for character in missing[:5])
        return _Cause(
            f"no token of its language model has {shown}",
            "ask for what the model's vocabulary can spell, or take another model",
        )
    if not can_end and reads(And(tuple(predicates)), "ending"):
        return _Cause(
            "the language model has no end token and the site no stop string, so no text is ever"
            " finished",
            'give it a stop string: `stop=["."]`',
        )
    fewest = _fewest_tokens(stage, predicates)
    if fewest is not None and fewest > stage.max_tokens:
        return _Cause(
            f"it would take at least {fewest} tokens, and `max_tokens` is {stage.max_tokens}",
            f"write `max_tokens={fewest}` or more",
        )
    if fewest is not None and not can_end:
        return _Cause(
            f"nothing ends a text before {stage.max_tokens} tokens: the language model has no end"
            " token and the site no stop string",
            f"write `max_tokens={fewest}`, or give it a stop string",
        )
    textual = [each for each in predicates if not reads(each, "ending")]
    if stage.stopping and not _is_impossible(_without_stop(stage), textual):
        return _Cause("every such text would be ended before, by its stop strings or `until`")
    return _Cause(f"the {vocab.size:,} tokens of its language model spell no such text")


def _without_stop(stage: TextStage) -> TextStage:
    return TextStage(stage.name, stage.lm, stage.max_tokens, stage.warp)


def _missing_characters(stage: TextStage, predicates: list[Predicate]) -> list[str]:
    """Characters of a shortest text that meets the requirements, which no token can be part of."""
    try:
        text = shortest_text(And(tuple(predicates)))
    except TooManyStates:
        return []
    vocab = stage.lm.vocab
    known = frozenset(
        byte
        for token, spelled in enumerate(vocab.token_bytes)
        if token not in vocab.eos_ids
        for byte in spelled
    )
    characters = dict.fromkeys(text or "")
    return [each for each in characters if not known.issuperset(each.encode("utf-8", "replace"))]


def _fewest_tokens(stage: TextStage, predicates: list[Predicate]) -> int | None:
    """The smallest budget of tokens with which the requirements can be met; None for none found."""
    if not (stage.lm.vocab.eos_ids or stage.stopping):
        # Every text has exactly as many tokens as the budget.
        budgets: Sequence[int] = range(1, min(2 * stage.max_tokens + 8, 64))
    else:
        largest = max(_LARGEST_BUDGET, 4 * stage.max_tokens)
        for budget in (8 * stage.max_tokens, largest):
            fewest = automaton_of(stage, predicates, max_tokens=budget).min_tokens
            if fewest is not None:
                break
        else:
            return None
        if reads(And(tuple(predicates)), "tokens"):
            # Lengths in tokens are counted down from the budget, so each is tried; where texts can
            # end, a larger budget allows what a smaller one does.
            tried = range(stage.max_tokens + 1, budget)
            index = bisect(tried, False, key=lambda b: _is_met(stage, predicates, b))
            budgets = (*tried[index : index + 1], budget)
        else:
            budgets = (fewest, budget)
    return next((b for b in budgets if _is_met(stage, predicates, b)), None)


def _is_met(stage: TextStage, predicates: list[Predicate], max_tokens: int) -> bool:
    return not automaton_of(stage, predicates, max_tokens=max_tokens).is_impossible
