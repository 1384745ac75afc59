"""Factors on one text as sums of what automata can follow while the text is written.

    log potential = constant + power · log p(text)
                    + Σ coefficient · count + Σ function(of a few counts and conditions)

A count (of matches, of words, of tokens) may grow without an end, for its part of the sum is known
as it goes. Of what goes into any other function only finitely many values are told apart: a
condition has two, a count as many as a text of so many tokens can have. So `if contains(t, "a")
then 2 else 0` is such a sum, `abs(length(t) - 10)` is one, and the score of a classifier is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set

from lmppl.automata.predicates import Arguments, Counting, Predicate
from lmppl.builtins.kinds import Countable
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.constraints import PredicateReader
from lmppl.evaluation.measures import counted, might_be_summed, summed_source
from lmppl.evaluation.powers import scored_site
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Expr,
    Reference,
    RewardCall,
    Unary,
    children,
    spine,
)
from lmppl.ir.model import Model
from lmppl.records import dataclass

# Values of a function that are told apart.
MOST_VALUES = 20_000


class NotAdditive(Exception):
    """An expression is no such sum: `expr` is the part that is at fault, `why` says what it is, and
    `remedy` what helps, where that is known."""

    def __init__(self, expr: Expr, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.expr = expr
        self.why = why
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Count:
    """A number of things in the text: a countable with its arguments."""

    counting: Counting
    arguments: Arguments

    @property
    def of_tokens(self) -> bool:
        return self.counting.reads(**dict(self.arguments)) == "tokens"


@dataclass(frozen=True, slots=True)
class Atom:
    """What a function looks at: a condition, whose values are 0 and 1, or a count up to `most`."""

    of: Predicate | Count
    most: int

    @property
    def size(self) -> int:
        return self.most + 1


@dataclass(frozen=True, slots=True)
class Function:
    """A function of some atoms: its values in the order of `itertools.product` of theirs."""

    atoms: tuple[Atom, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Additive:
    """A log potential as a sum, `power` times the log probability of the text in it.

    Equal sums are equal objects. −∞ rules a text out.
    """

    constant: float = 0.0
    power: float = 0.0
    linear: tuple[tuple[float, Count], ...] = ()
    functions: tuple[Function, ...] = ()

    def __add__(self, other: Additive) -> Additive:
        return Additive(
            self.constant + other.constant,
            self.power + other.power,
            _collected((*self.linear, *other.linear)),
            (*self.functions, *other.functions),
        )


NOTHING = Additive()

# What a reward is a sum of, by its name, as `rewards.scorer.Summed` says it; None: that is unknown.
Summands = Callable[[str], Sequence[tuple[float, Mapping[str, object]]] | None]


def additive_form(
    model: Model,
    expr: Expr,
    site: str,
    values: Mapping[str, object],
    most: Callable[[Expr], float],
    known: Callable[[Expr], object] | None = None,
    apart: frozenset[str] = frozenset(),
    has_constant: bool = True,
    summands: Summands | None = None,
) -> Additive:
    """A number on the text of a site as such a sum.

    `values` are the parameters, and the choices that are known; `most(expr)` is an upper bound of
    a count on the texts there are (∞: none is known). `known` gives the value of a part that does
    not look at the text where `values` do not say it, such as the reward of another string. Parts
    of the sum that look at the texts `apart` are left out, and so are those that look at no text
    where not `has_constant`: a sum over several texts has a form for each of them. `summands` says
    what a reward is a sum of.

    Raises:
        NotAdditive: it is none, or one that is too large.
        InferenceError: what `known` raises.
    """
    predicates = PredicateReader(model, site, values)
    return _Reader(
        model, site, values, most, known, apart, has_constant, predicates, summands
    ).form(expr)


@dataclass(frozen=True, slots=True)
class _Reader:
    model: Model
    site: str
    values: Mapping[str, object]
    most: Callable[[Expr], float]
    known: Callable[[Expr], object] | None
    apart: frozenset[str]
    has_constant: bool
    predicates: PredicateReader
    summands: Summands | None

    def form(self, expr: Expr) -> Additive:
        constant, power = 0.0, 0.0
        linear: list[tuple[float, Count]] = []
        functions: list[Function] = []
        root = self.model.resolve(expr)
        scales = {id(root): 1.0}
        # A part that is named many times is one part of the sum, with what its places come to:
        # lets that name the one before twice would else be gone through 2^n times.
        looking = self.model.nodes_on(root, self.site)
        for part, inner in self._parts(root, looking):
            scale = scales[id(part)]
            if inner is not None:
                for each, by in inner:
                    scales[id(each)] = scales.get(id(each), 0.0) + scale * by
                continue
            if id(part) not in looking:
                if self.has_constant and not self.model.sites_of(part) & self.apart:
                    constant += scale * self._number(part)
                continue
            if scored_site(self.model, part) == self.site:
                power += scale
                continue
            count = self._count(part)
            if count is not None:
                linear.append((scale, count))
                continue
            summed = self._summed(part)
            if summed is not None:
                linear += [(scale * score, each) for score, each in summed]
                continue
            functions.append(self._function(part, scale))
        return Additive(constant, power, _collected(tuple(linear)), tuple(functions))

    def _parts(
        self, root: Expr, looking: Set[int]
    ) -> list[tuple[Expr, list[tuple[Expr, float]] | None]]:
        """Every part once, after all that it is a part of; with its own parts, if it is a sum."""
        found: list[tuple[Expr, list[tuple[Expr, float]] | None]] = []
        inner_of: dict[int, list[tuple[Expr, float]] | None] = {}
        waiting = [(root, False)]
        while waiting:
            part, is_left = waiting.pop()
            if is_left:
                found.append((part, inner_of[id(part)]))
                continue
            if id(part) in inner_of:
                continue
            inner = None
            if id(part) in looking and scored_site(self.model, part) is None:
                inner = self._scaled(part)
            if inner is not None:
                inner = [(self.model.resolve(each), by) for each, by in inner]
            inner_of[id(part)] = inner
            waiting.append((part, True))
            waiting += [(each, False) for each, _ in inner or ()]
        return found[::-1]

    def _scaled(self, expr: Expr) -> list[tuple[Expr, float]] | None:
        """The parts that the expression is a sum of, each with what it is multiplied by."""
        if isinstance(expr, Unary) and expr.operator == "-":
            return [(expr.operand, -1.0)]
        if isinstance(expr, Conditional) and self.site not in self.model.sites_of(expr.condition):
            is_so = self._number(expr.condition)
            return [(expr.consequent if is_so else expr.alternative, 1.0)]
        if not isinstance(expr, Binary):
            return None
        if expr.operator in ("+", "-"):
            # A chain is gone through without recursion, however long it is.
            first, operators = spine(expr)
            found: list[tuple[Expr, float]] = [(first, 1.0)]
            for node in operators:
                if node.operator not in ("+", "-"):
                    first, found = node, [(node, 1.0)]
                    continue
                found.append((node.right, 1.0 if node.operator == "+" else -1.0))
            return found
        looks = [self.site in self.model.sites_of(each) for each in (expr.left, expr.right)]
        if expr.operator == "*" and looks == [True, False]:
            return [(expr.left, self._number(expr.right))]
        if expr.operator == "*" and looks == [False, True]:
            return [(expr.right, self._number(expr.left))]
        if expr.operator == "/" and looks == [True, False]:
            divisor = self._number(expr.right)
            if divisor != 0.0:
                return [(expr.left, 1.0 / divisor)]
        return None

    def _number(self, expr: Expr) -> float:
        if self.model.sites_of(expr) & self.apart:
            raise NotAdditive(expr, "it looks at two texts together", _APART)
        try:
            found = constant_value(expr, self.model, self.values)
        except NotConstant:
            if self.known is None:
                raise NotAdditive(expr, "its value is not known yet") from None
            found = self.known(expr)
        except (ArithmeticError, ValueError) as problem:
            raise NotAdditive(expr, str(problem)) from problem
        number = float(found)
        if math.isnan(number):
            raise NotAdditive(expr, "it is NaN")
        return number

    def _count(self, expr: Expr) -> Count | None:
        found = counted(self.model, expr, self.site)
        if found is None:
            return None
        return _required(expr, *found)

    def _summed(self, expr: Expr) -> list[tuple[float, Count]] | None:
        """The counts that a reward of the text is a sum of, each with its score."""
        source = summed_source(self.model, expr, self.site)
        if source is None or source.summed is None:
            return None
        found = None
        if isinstance(expr, RewardCall) and self.summands is not None:
            found = self.summands(expr.reward)
        if found is None:
            raise NotAdditive(expr, "what it adds up is not known yet")
        return [(score, _required(expr, source.summed, own)) for score, own in found]

    def _function(self, expr: Expr, scale: float) -> Function:
        """Any expression, tabulated over the values of what it looks at in the text."""
        if self.model.sites_of(expr) & self.apart:
            raise NotAdditive(expr, "it looks at two texts together", _APART)
        atoms: dict[Atom, list[Expr]] = {}
        self._gather(expr, atoms)
        size = math.prod(atom.size for atom in atoms)
        if size > MOST_VALUES:
            raise NotAdditive(
                expr, f"it is no sum of counts, and tells {size:,} values of them apart"
            )
        values = []
        for chosen in itertools.product(*(range(atom.size) for atom in atoms)):
            replaced = {
                id(node): bool(value) if node.type.kind == "bool" else value
                for nodes, value in zip(atoms.values(), chosen, strict=True)
                for node in nodes
            }
            values.append(self._value(expr, scale, replaced))
        return Function(tuple(atoms), tuple(values))

    def _value(self, expr: Expr, scale: float, replaced: Mapping[int, object]) -> float:
        try:
            value = constant_value(expr, self.model, self.values, replaced)
        except NotConstant as problem:
            raise NotAdditive(problem.expr or expr, "its value is not known yet") from None
        except RecursionError as problem:
            raise NotAdditive(expr, "it is nested too deeply") from problem
        except (ArithmeticError, ValueError):
            # Not every combination of values is one of a text, and this may be none.
            return math.nan
        return scale * float(value)

    def _gather(self, expr: Expr, atoms: dict[Atom, list[Expr]]) -> None:
        looking = self.model.nodes_on(expr, self.site)
        waiting, seen = [expr], set[int]()
        while waiting:
            node = self.model.resolve(waiting.pop())
            if id(node) in seen or id(node) not in looking:
                continue
            seen.add(id(node))
            atom = self._atom(node)
            if atom is not None:
                atoms.setdefault(atom, []).append(node)
                continue
            if scored_site(self.model, node) == self.site:
                raise NotAdditive(
                    node,
                    "how likely a text is can be multiplied by a number only",
                    "multiply log_prob by a known number and nothing else",
                )
            if summed_source(self.model, node, self.site) is not None:
                raise NotAdditive(
                    node,
                    "a sum of scores can be added and multiplied by numbers only",
                    "use the score itself, times a known number",
                )
            if might_be_summed(self.model, node):
                raise NotAdditive(
                    node,
                    "the mean of scores is no sum: the whole text is read for it",
                    "sum its scores (`reduce` of the source)",
                )
            if isinstance(node, (Reference, RewardCall)) or not children(node):
                raise NotAdditive(node, _WHY_NOT[isinstance(node, RewardCall)])
            if isinstance(node, Call) and node.type.kind == "bool":
                raise NotAdditive(node, "no automaton decides it")
            waiting.extend(reversed(children(node)))

    def _atom(self, expr: Expr) -> Atom | None:
        if expr.type.kind == "bool" and not expr.type.is_array:
            predicate = self.predicates.predicate(expr)
            return None if predicate is None else Atom(predicate, 1)
        count = self._count(expr)
        if count is None:
            return None
        most = self.most(expr)
        if not most <= MOST_VALUES:
            raise NotAdditive(expr, "it is no part of a sum, and nothing bounds it")
        return Atom(count, math.floor(most))


def _required(expr: Expr, countable: Countable, arguments: Mapping[str, object]) -> Count:
    try:
        countable.require(**arguments)
    except ValueError as problem:
        raise NotAdditive(expr, f"no automaton counts it: {problem}") from problem
    return Count(countable, tuple(arguments.items()))


_APART = "write a sum with a part for each text, or link them by a choice that both depend on"
_WHY_NOT = {
    True: "a score of this kind is read from the whole text",
    False: "more of the text is looked at than conditions and counts",
}


def _collected(linear: tuple[tuple[float, Count], ...]) -> tuple[tuple[float, Count], ...]:
    """Each count once, with the sum of its coefficients."""
    found: dict[Count, float] = {}
    for coefficient, count in linear:
        found[count] = found.get(count, 0.0) + coefficient
    return tuple((coefficient, count) for count, coefficient in found.items() if coefficient)
