"""Requirements that no text can meet, found by automata before anything is run (301 to 305)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lmppl.automata.dfa import TooManyStates, Work
from lmppl.automata.language import (
    COMPARING,
    contradiction,
    is_always_true,
    is_never_true,
    lengths_of_few,
    predicate_dfa,
)
from lmppl.automata.predicates import (
    And,
    Compared,
    False_,
    Predicate,
    True_,
    reads_only_text,
)
from lmppl.automata.regex import REMEDY, NotRegular, regex_dfa
from lmppl.builtins import builtin, distribution_of, patterns_of
from lmppl.builtins.arguments import IGNORE_CASE
from lmppl.builtins.predicates.never import NEVER
from lmppl.errors import Diagnostic, Label, Span
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.constraints import asks_of_text, required_predicate
from lmppl.ir.expr import Call, Constant, Expr
from lmppl.ir.model import Model, Potential, Site
from lmppl.records import dataclass

_ZERO_MASS = "the posterior would have zero mass"


@dataclass(frozen=True, slots=True)
class _Required:
    """One requirement on a text as a predicate; `span` is what asks for it."""

    predicate: Predicate
    span: Span
    remark: str


def check_requirements(model: Model, parameter_values: Mapping[str, object]) -> list[Diagnostic]:
    """What is wrong with the patterns and requirements of a model, as `check_constraints` says."""
    values = _known_values(model, parameter_values)
    found = list(_check_patterns(model, values))
    bad = {id(expr) for _, expr in found}
    diagnostics = [diagnostic for diagnostic, _ in found]
    endless = [
        problem
        for site in model.text_sites
        for pattern in patterns_of(site.distribution)
        for problem in _check_until(model, pattern, values)
    ]
    if endless:
        return [*diagnostics, *endless]
    for site in model.text_sites:
        diagnostics += _check_site(model, site, values, bad)
    return diagnostics


def _known_values(model: Model, given: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for parameter in model.parameters:
        if parameter.name in given:
            values[parameter.name] = given[parameter.name]
        elif isinstance(parameter.default, Constant):
            values[parameter.name] = parameter.default.value
    return values


def _check_patterns(
    model: Model, values: Mapping[str, object]
) -> Iterator[tuple[Diagnostic, Expr]]:
    """Patterns that are no regular expressions, wherever they stand."""
    for node in model.nodes(*model.expressions):
        if not isinstance(node, Call):
            continue
        for argument in builtin(node.function).accepting("regex"):
            pattern = node.argument(argument.name)
            assert pattern is not None
            try:
                value = constant_value(pattern, model, values)
                flag = node.argument(IGNORE_CASE.name)
                ignore_case = flag is not None and bool(constant_value(flag, model, values))
            except (NotConstant, ArithmeticError, ValueError):
                continue
            try:
                regex_dfa(value, ignore_case)
            except NotRegular as problem:
                yield _not_regular(problem, value, pattern.span), node
            except TooManyStates:
                yield _too_many_states(pattern.span), node


def _check_until(model: Model, pattern: Expr, values: Mapping[str, object]) -> Iterator[Diagnostic]:
    """A pattern that ends texts: regular, and not met before there is anything."""
    try:
        value = constant_value(pattern, model, values)
        is_met_at_once = regex_dfa(value).accepts("")
    except (NotConstant, ArithmeticError):
        return
    except NotRegular as problem:
        yield _not_regular(problem, value, pattern.span)
    except TooManyStates:
        yield _too_many_states(pattern.span)
    else:
        if is_met_at_once:
            yield Diagnostic(
                "LMP106",
                "error",
                "this matches the empty text: no text would have a token",
                pattern.span,
                help="write what must be there before a text may end, as `.+` for `.*`",
            )


def _not_regular(problem: NotRegular, pattern: str, span: Span) -> Diagnostic:
    return Diagnostic(
        "LMP301",
        "error",
        f"this pattern {problem.reason}",
        span,
        notes=() if problem.position is None else (f"at character {problem.position} of it",),
        help=None if "not a regular expression" in problem.reason else REMEDY,
    )


def _too_many_states(span: Span) -> Diagnostic:
    return Diagnostic(
        "LMP301",
        "error",
        "this pattern needs too many states to be decided while a text grows",
        span,
        help="bound fewer repeats, or split it into several requirements",
    )


def _check_site(
    model: Model, site: Site, values: Mapping[str, object], bad: set[int]
) -> list[Diagnostic]:
    """Requirements on one text: each alone, against its budget, then together."""
    diagnostics: list[Diagnostic] = []
    together: list[_Required] = []
    for potential in model.potentials:
        if potential.kind != "require" or model.sites_of(potential.expr) - {site.name}:
            continue
        if any(id(node) in bad for node in model.nodes(potential.expr)):
            continue
        asked = asks_of_text(model, potential, site.name)
        if not asked and site.name not in model.sites_of(potential.expr):
            continue
        predicate = required_predicate(model, potential, site.name, values)
        is_certain = potential.when is None or asked
        if predicate is None or isinstance(predicate, (True_, False_)):
            continue
        problem = _check_alone(predicate, potential, is_certain)
        if problem is None and is_certain:
            problem = _check_budget(predicate, potential, site, model, values)
        if problem is not None:
            diagnostics.append(problem)
            if problem.severity == "error":
                continue
        if is_certain:
            together.append(_Required(predicate, potential.span, ""))
    stops = _stops(model, site, values)
    if stops is not None:
        together.append(stops)
    contradictions = _check_together(together)
    if not contradictions and stops is None and not _ends_as_it_is(site):
        diagnostics += _check_endings(model, site, together, values)
    return [*diagnostics, *contradictions]


# A set of more texts than this is no list of answers.
_MOST_ANSWERS = 1000


def _check_endings(
    model: Model, site: Site, required: Sequence[_Required], values: Mapping[str, object]
) -> Iterator[Diagnostic]:
    """Answers of unequal lengths, the shorter of which only an end token can end."""
    # A table of probabilities ends texts as its file says; a model that was trained on others does
    # what nobody wrote down.
    is_trained_elsewhere = any(distribution_of(site.distribution).accepting("model"))
    if not is_trained_elsewhere or not required:
        return
    budget = site.distribution.argument("max_tokens")
    whole = And(tuple(each.predicate for each in required))
    if budget is None or not reads_only_text(whole):
        return
    try:
        lengths = lengths_of_few(predicate_dfa(whole), _MOST_ANSWERS)
        most = constant_value(budget, model, values)
    except (TooManyStates, NotConstant, ArithmeticError, ValueError):
        return
    if lengths is None or len(lengths) < 2 or most < 2:
        return
    yield Diagnostic(
        "LMP311",
        "warning",
        f"only an end token ends the shorter of these texts before {most} tokens",
        required[0].span,
        (Label(budget.span, "a text of fewer tokens must end by itself"),),
        (
            f"the texts have {min(lengths)} to {max(lengths)} characters; each weighs what the text"
            " and the end token after it weigh, not how likely the model goes on with it",
        ),
        'for the share of each as a continuation, write `starts_with(text, ["…", "…"])`, or give'
        " the text a stop string",
    )


def _check_alone(predicate: Predicate, potential: Potential, is_certain: bool) -> Diagnostic | None:
    try:
        if is_never_true(predicate):
            return Diagnostic(
                "LMP302",
                "error" if is_certain else "warning",
                "no text satisfies this",
                potential.span,
                notes=(_ZERO_MASS,)
                if is_certain
                else ("the posterior has no mass where the condition after `when` holds",),
            )
        if is_always_true(predicate):
            return Diagnostic(
                "LMP304",
                "warning",
                "every text satisfies this, so it requires nothing",
                potential.span,
            )
    except TooManyStates:
        # That it is judged on finished texts only is said elsewhere (LMP310).
        return None
    return None


def _check_budget(
    predicate: Predicate,
    potential: Potential,
    site: Site,
    model: Model,
    values: Mapping[str, object],
) -> Diagnostic | None:
    """A length in tokens that `max_tokens` cannot reach."""
    budget = site.distribution.argument("max_tokens")
    if budget is None:
        return None
    try:
        most = constant_value(budget, model, values)
    except (NotConstant, ArithmeticError, ValueError):
        return None
    parts = predicate.parts if isinstance(predicate, And) else (predicate,)
    for part in parts:
        if not isinstance(part, Compared) or part.reads != "tokens":
            continue
        if not any(part.admits(count) for count in range(int(most) + 1)):
            return Diagnostic(
                "LMP305",
                "error",
                f"`{site.name}` has at most {most} tokens, so this can never hold",
                potential.span,
                labels=(Label(budget.span, f"at most {most} tokens"),),
                notes=(_ZERO_MASS,),
                help="raise `max_tokens`, or ask for less",
            )
    return None


def _stops(model: Model, site: Site, values: Mapping[str, object]) -> _Required | None:
    """A text ends before its first stop string, so none is ever part of it."""
    stop = site.distribution.argument("stop")
    if stop is None:
        return None
    try:
        value = constant_value(stop, model, values)
    except (NotConstant, ArithmeticError, ValueError):
        return None
    words = (value,) if isinstance(value, str) else tuple(value)
    remark = "a text never contains its stop strings"
    return _Required(NEVER.asked(words=words), stop.span, remark) if words else None


def _ends_as_it_is(site: Site) -> bool:
    """Whether a text may end at what is part of it."""
    given = site.distribution
    return given.argument("stop_after") is not None or bool(patterns_of(given))


def _check_together(required: Sequence[_Required]) -> list[Diagnostic]:
    """Every contradiction among the requirements; each is blamed at most once."""
    found: list[Diagnostic] = []
    remaining = list(required)
    work = Work(COMPARING)
    while (core := contradiction([each.predicate for each in remaining], work=work)) and len(
        core
    ) > 1:
        parts = sorted((remaining[index] for index in core), key=lambda each: each.span.start)
        # The last is blamed; a stop string never is, because it requires nothing itself.
        blamed = next(each for each in reversed(parts) if not each.remark)
        found.append(_contradiction(parts, blamed))
        remaining.remove(blamed)
    return found


def _contradiction(parts: Sequence[_Required], blamed: _Required) -> Diagnostic:
    others = [each for each in parts if each is not blamed]
    if any(each.remark for each in parts):
        message = "this constraint contradicts the stop strings of its text: no text satisfies it"
    else:
        count = {2: "two", 3: "three"}.get(len(parts), str(len(parts)))
        together = "both" if len(parts) == 2 else "all of them"
        message = f"these {count} constraints contradict each other: no text satisfies {together}"
    where = "the one above" if len(parts) == 2 else "those above"
    return Diagnostic(
        "LMP303",
        "error",
        message,
        blamed.span,
        (
            Label(blamed.span, f"cannot hold together with {where}"),
            *(Label(each.span, each.remark) for each in others),
        ),
        (_ZERO_MASS,),
    )
