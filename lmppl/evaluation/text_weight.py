"""What potentials weigh on the text of one site, as far as automata can follow it.

The analysis needs the values of everything else that they look at: parameters, and choices. Who
wants the automaton goes on to `lmppl.density.text_automaton`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lmppl.automata.predicates import Predicate
from lmppl.evaluation.additive import NOTHING, Additive, NotAdditive, additive_form
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.constraints import asks_of_text, hindrance, required_predicate
from lmppl.evaluation.facts import texts_read
from lmppl.evaluation.powers import floors
from lmppl.evaluation.ranges import TextRanges, expr_range
from lmppl.ir.expr import Expr
from lmppl.ir.model import Model, Potential
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True)
class TextWeight:
    """Requirements and a sum: a text weighs e^sum where it satisfies them all, else nothing.

    Equal weights are equal objects, so that automata can be looked up by them.
    """

    required: tuple[Predicate, ...] = ()
    form: Additive = NOTHING


class NotFollowed(Exception):
    """No automaton follows a potential: `expr` (None: all of it) is at fault, `why` says how, and
    `remedy` what helps, where that is known."""

    def __init__(self, potential: Potential, expr: Expr | None, why: str, remedy: str = "") -> None:
        super().__init__(f"{potential.title}: {why}")
        self.potential = potential
        self.expr = expr
        self.why = why
        self.remedy = remedy


def text_weight(
    model: Model,
    site: str,
    potentials: Sequence[Potential],
    values: Mapping[str, object],
    *,
    ranges: TextRanges | None = None,
    known: Callable[[Expr], object] | None = None,
    with_sums: bool = True,
) -> TextWeight:
    """What the potentials weigh on the text of a site, all else being as in `values`.

    Each looks at the text. Of a factor that looks at others too, this is the part of the sum that
    is about this one.

    `ranges` bounds counts by what the language model can write. `known` gives the value of a part
    that does not look at the text where `values` do not say it. Not `with_sums`, rewards that are
    sums of counts are not read as such.

    Raises:
        NotFollowed: one that no automaton follows.
    """
    required: dict[Predicate, None] = {}
    form = NOTHING
    for potential in potentials:
        if potential.kind == "factor":

            def most(expr: Expr) -> float:
                return expr_range(expr, model, values, ranges).upper

            texts = texts_read(model, potential)
            try:
                form += additive_form(
                    model,
                    potential.expr,
                    site,
                    values,
                    most,
                    known,
                    texts - {site},
                    # What looks at none of several texts counts with the first of them.
                    site == min(texts),
                    ranges.summands if ranges is not None and with_sums else None,
                )
            except NotAdditive as problem:
                raise NotFollowed(potential, problem.expr, problem.why, problem.remedy) from problem
            continue
        if _is_lifted(model, potential, site, values, known):
            continue
        predicate = required_predicate(model, potential, site, values)
        if predicate is None:
            part = hindrance(model, potential, site, values)
            if floors(model, potential.expr, site):
                why = "no automaton tells all probabilities of texts apart"
                raise NotFollowed(potential, part, why, "leave it out")
            raise NotFollowed(potential, part, "no automaton decides it")
        required[predicate] = None
    return TextWeight(tuple(required), form)


def _is_lifted(
    model: Model,
    potential: Potential,
    site: str,
    values: Mapping[str, object],
    known: Callable[[Expr], object] | None,
) -> bool:
    """Whether the condition after `when` is known and false, so that nothing is required."""
    if potential.when is None or asks_of_text(model, potential, site):
        return False
    try:
        return not constant_value(potential.when, model, values)
    except NotConstant as problem:
        if known is None:
            raise NotFollowed(potential, problem.expr, "its value is not known yet") from problem
        return not known(potential.when)
