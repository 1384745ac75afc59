"""What automata follow of the potentials of a text site, for executions that ask for different
things."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.target import Target
from lmppl.evaluation.additive import NOTHING
from lmppl.evaluation.facts import texts_read
from lmppl.evaluation.text_weight import NotFollowed, TextWeight, text_weight
from lmppl.ir.model import Potential
from lmppl.lm.states import HasStates

# Different things that executions ask for; beyond them too much would have to be remembered.
_MOST = 64


@dataclass(frozen=True, slots=True)
class Followed:
    """What a text weighs by the potentials that automata follow.

    `labels` are those of factors, `kept` those of requirements and of factors that are the same for
    all texts, whose sum is `constant`. `in_part`: some of them look at other texts too, so
    that this is not all that they weigh.
    """

    weight: TextWeight = field(default_factory=TextWeight)
    labels: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    constant: float = 0.0
    in_part: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether all texts weigh the same."""
        return not self.weight.required and not self.labels

    @property
    def is_power(self) -> bool:
        """Whether texts differ by a power of their own probability alone."""
        form = self.weight.form
        return not (self.weight.required or form.linear or form.functions) and form.power != 0.0

    def without_factors(self) -> Followed:
        """The requirements alone."""
        return replace(self, weight=TextWeight(self.weight.required), labels=frozenset())


# A binding, what it asks of a text, and whether the text's first space is not part of it.
Asked = tuple[int, Followed, bool]


def weights_of(target: Target, rows: SiteRows) -> tuple[tuple[Asked, ...], Tensor]:
    """What executions ask of their texts, each once, and which of these is that of each row.

    Where that is too many different things, nothing is asked.
    """
    number, traces = rows.number, rows.traces
    stage = target.stages[number].text
    assert stage is not None
    potentials = tuple(
        p for p in target.potentials_at(number) if stage.name in _sites_of(target, p)
    )
    choices = _choices(target, number, potentials)
    strips = stage.lm.vocab.strips_leading_space
    columns = [traces.group.tolist()]
    columns += [traces.values[name].index.tolist() for name in choices]
    columns.append([strips and prompt == "" for prompt in rows.prompts])
    keys = list(zip(*columns, strict=True))
    first: dict[tuple[int, ...], int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    found: dict[Asked, int] = {}
    numbers: dict[tuple[int, ...], int] = {}
    for key, row in first.items():
        values = dict(target.bindings[key[0]])
        for name in choices:
            one = traces.select(torch.tensor([row], device=traces.group.device))
            values[name] = one.values[name].listed()[0]
        followed = Followed()
        if len(first) <= _MOST:
            for potential in potentials:
                followed = _with(target, stage.name, potential, values, followed)
        asked = (key[0], followed, bool(key[-1]))
        numbers[key] = found.setdefault(asked, len(found))
    which = torch.tensor([numbers[key] for key in keys], device=traces.group.device)
    return tuple(found), which


def log_range(target: Target, labels: frozenset[str], group: int) -> float:
    """The most that factors can be together under one binding, in nats."""
    return sum(
        target.number_range(potential.expr, group).upper
        for potential in target.model.potentials
        if potential.label in labels and potential.kind == "factor"
    )


def _choices(target: Target, number: int, potentials: tuple[Potential, ...]) -> list[str]:
    """The discrete sites before a text that its potentials look at."""
    names = {name for potential in potentials for name in _sites_of(target, potential)}
    before = target.stages[:number]
    return [s.name for s in before if s.support is not None and s.name in names]


def _sites_of(target: Target, potential: Potential) -> frozenset[str]:
    """The sites that a potential looks at."""
    found = frozenset(target.model.sites_of(potential.expr))
    if potential.when is None:
        return found
    return found | frozenset(target.model.sites_of(potential.when))


def _is_table(target: Target, site: str) -> bool:
    """Whether the language model has finitely many states.

    Automata of many words over the vocabulary of another take a minute to make, and scores of
    unfinished texts guide nearly as well.
    """
    text = next(stage.text for stage in target.stages if stage.name == site)
    return text is not None and isinstance(text.lm, HasStates)


def _with(
    target: Target,
    site: str,
    potential: Potential,
    values: dict[str, object],
    followed: Followed,
) -> Followed:
    """With one more potential, where an automaton follows it."""
    try:
        one = text_weight(
            target.model,
            site,
            [potential],
            values,
            ranges=target.text_ranges,
            with_sums=_is_table(target, site),
        )
    except NotFollowed:
        return followed
    weight = followed.weight
    texts = texts_read(target.model, potential)
    if texts != {site}:
        followed = replace(followed, in_part=True)
    if one.form in (NOTHING, replace(NOTHING, constant=one.form.constant)):
        required = tuple(dict.fromkeys((*weight.required, *one.required)))
        return replace(
            followed,
            weight=replace(weight, required=required),
            kept=followed.kept | {potential.label},
            constant=followed.constant + one.form.constant,
        )
    return replace(
        followed,
        weight=replace(weight, form=weight.form + one.form),
        labels=followed.labels | {potential.label},
    )
