"""Requirements and patterns, checked in the file and again once parameters are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmppl.builtins import builtin, patterns_of, source_of
from lmppl.checker.typing_rules import literal
from lmppl.errors import Diagnostic, Span
from lmppl.ir.expr import Call
from lmppl.ir.model import Model


def check_constraints(
    model: Model, parameter_values: Mapping[str, object]
) -> tuple[Diagnostic, ...]:
    """What is wrong with the requirements of a model, given the parameters that are known.

    Parameters that are not in `parameter_values` have their default; those without one are not
    known yet, and what depends on them is left until they are. Conditions under `when` are looked
    at alone, not together.
    """
    found = list(_check_counted(model))
    if _needs_automata(model):
        # Most programs have no constraints, and need not wait for the automata to be imported.
        from lmppl.checker.contradictions import check_requirements

        found += check_requirements(model, parameter_values)
    return tuple(found)


def _needs_automata(model: Model) -> bool:
    if any(potential.kind == "require" for potential in model.potentials):
        return True
    if any(patterns_of(site.distribution) for site in model.text_sites):
        return True
    return any(
        isinstance(node, Call) and any(builtin(node.function).accepting("regex"))
        for node in model.nodes(*model.expressions)
    )


def _check_counted(model: Model) -> Iterator[Diagnostic]:
    """The patterns of rewards, which are regular like those of requirements."""
    for reward in model.rewards.values():
        for source in (reward.source, *reward.source.members):
            for argument in source_of(source).accepting("regex"):
                if source.span is not None:
                    yield from _check_regular(str(source.arguments[argument.name]), source.span)


def _check_regular(pattern: str, span: Span) -> Iterator[Diagnostic]:
    # Only programs that count wait for this to be imported.
    from lmppl.automata.dfa import TooManyStates
    from lmppl.automata.regex import REMEDY, NotRegular, regex_nfa

    try:
        regex_nfa(pattern)
    except NotRegular as problem:
        message = f"{literal(pattern)} {problem.reason}"
        help = None if "not a regular expression" in problem.reason else REMEDY
        yield Diagnostic("LMP301", "error", message, span, help=help)
    except TooManyStates:
        message = f"{literal(pattern)} is too large a pattern"
        yield Diagnostic("LMP301", "error", message, span)
