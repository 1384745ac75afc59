"""The kinds of built-in, and what each is made of: its meaning and its traits.

A built-in is one object of one of these classes, in a file of its own (or beside its like). Nobody
compares its name: what is special about it is a field here, with a default for those that are not
special. The checker reads these, so that whatever is heavy is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from lmppl.builtins.domains import within_domain
from lmppl.builtins.signature import Argument, Builtin, BuiltinKind, Ranges
from lmppl.ir.types import BOOL, INT, REAL, STRING, UNBOUNDED, Interval, Type
from lmppl.records import dataclass

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    import numpy as np
    from numpy.typing import NDArray

    from lmppl.automata.dfa import Dfa
    from lmppl.automata.predicates import Asked, Compared, Comparison, Reads
    from lmppl.automata.regular import Language
    from lmppl.automata.running import Running
    from lmppl.ir.expr import Call, Expr
    from lmppl.lm.protocol import LanguageModel, Prompt
    from lmppl.rewards.scorer import Source as ScoreSource
    from lmppl.rewards.uncertain import UncertainScores

    # A small random example for the tests: the arguments of a call but for the text, and the files
    # that they name, which are written into the folder.
    Instances: TypeAlias = Callable[[Random, Path], dict[str, object]]

Arguments: TypeAlias = Mapping[str, object]


def _never_quick(**arguments: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Predicate(Builtin):
    """A condition on a text, which is its first argument.

    `holds(text, **arguments)` is the definition, in plain Python on the finished text; everything
    else must agree with it. What reads the `ending` is given instead whether the text ended by
    itself, and what reads `tokens` their number, or a column of numbers.

    With `automaton(**arguments)` the condition is decided from prefixes: it masks the tokens that
    lead nowhere, and the checker finds contradictions. Without, it is judged on finished texts.
    `is_quick(**arguments)` says that `holds` takes no longer than an automaton would.
    """

    kind: ClassVar[BuiltinKind] = "predicate"

    result: Type = BOOL
    holds: Callable[..., bool]
    instances: Instances
    reads: Reads = "text"
    automaton: Callable[..., Language] | None = None
    is_quick: Callable[..., bool] = _never_quick

    def asked(self, **given: object) -> Asked:
        """The condition with these arguments, defaults for those not given."""
        from lmppl.automata.predicates import Asked

        return Asked(self, tuple(self.complete(given).items()))


@dataclass(frozen=True, slots=True)
class Extremes:
    """Numbers of which another one is the largest, or the smallest."""

    which: Literal["largest", "smallest"]
    of: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Function(Builtin):
    """A function of numbers.

    `plain` computes it on Python's numbers, `arrays` ("module:object") the same on whole batches;
    `result_range` holds every value that it can have on arguments in these ranges. It has a value
    on `domain`, and `remedy` is said where it has none; `may_be_zero_mass` allows a value of −∞.
    With `variadic` its two arguments may be more, taken two by two; with `keeps_ints` it gives an
    int where all arguments are. `extremes` says of a call what it is the largest or the smallest
    of, so that a comparison of it becomes one of each.
    """

    kind: ClassVar[BuiltinKind] = "function"

    result: Type = REAL
    plain: Callable[..., Any]
    arrays: str
    result_range: Callable[[Ranges], Interval]
    domain: Interval = UNBOUNDED
    remedy: str | None = None
    may_be_zero_mass: bool = False
    variadic: bool = False
    keeps_ints: bool = False
    extremes: Callable[[Call], Extremes] | None = None

    def range(self, ranges: Ranges) -> Interval:
        return self.result_range(ranges)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Countable:
    """A number of things in a text, from 0 up, that an automaton can follow.

    `count(text, **arguments)` is the definition (of the number of tokens, or a column of such
    numbers, where `reads` says `tokens`). `automaton(admits, budget, **arguments)` has the output
    `admits[count]`, booleans or labels, and counts beyond the last entry are as the last;
    `running(budget, **arguments)` counts without an end, as the text goes on (nothing asks it of
    tokens). `require` raises a ValueError where there are no such automata.
    """

    name: str
    count: Callable[..., int]
    automaton: Callable[..., Dfa]
    running: Callable[..., Running]
    reads: Callable[..., Reads]
    require: Callable[..., None]

    def compared(self, arguments: Arguments, op: Comparison, bound: float) -> Compared:
        """The condition that the count, with all its arguments, compares so to a bound."""
        from lmppl.automata.predicates import Compared

        return Compared(self, tuple(arguments.items()), op, bound)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Measure(Builtin):
    """A number on a text, which is its first argument, that automata can follow.

    `reach(reach, **arguments)` is how far it goes on the texts of a language model. `not_generated`
    is what is wrong, and what helps, where it counts tokens of a string that has none.
    """

    kind: ClassVar[BuiltinKind] = "function"

    result: Type = INT
    countable: Countable
    reach: Callable[..., Interval]
    not_generated: tuple[str, str]

    def range(self, ranges: Ranges) -> Interval:
        return Interval(0.0, math.inf)

    def compared(self, op: Comparison, bound: float, **given: object) -> Compared:
        """The condition that it compares so to a bound, with defaults for what is not given."""
        return self.countable.compared(self.complete(given), op, bound)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class PriorScore(Builtin):
    """How likely a choice, its one argument, was under its own distribution: a log probability.

    What the choice cost when it was drawn, so that nothing is computed for it.
    """

    kind: ClassVar[BuiltinKind] = "function"

    result: Type = REAL

    def range(self, ranges: Ranges) -> Interval:
        return Interval(-math.inf, 0.0)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class PromptMaker(Builtin):
    """What makes a prompt of a language model of strings: `make(**arguments)`."""

    kind: ClassVar[BuiltinKind] = "function"

    make: Callable[..., Prompt]


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Rule(Builtin):
    """A rule that turns an uncertain reward, its first argument, into a number.

    `compute` takes the scores, and the parameter by row where there is one.
    `bounds(members, spread, is_open, parameter)` is where the value lies: `members` bounds every
    member of an ensemble and the mean of a Gaussian, `spread` the standard deviation, and `is_open`
    says that the reward may be a Gaussian, which leaves any bounds.
    """

    kind: ClassVar[BuiltinKind] = "risk"

    result: Type = REAL
    compute: Callable[..., NDArray[np.float64]]
    bounds: Callable[[Interval, Interval, bool, Interval], Interval]
    may_be_zero_mass: bool = False

    @property
    def parameter(self) -> Argument | None:
        """The second argument, if it has one."""
        return self.arguments[1] if len(self.arguments) > 1 else None

    def range(self, ranges: Ranges, *, may_be_gaussian: bool = True) -> Interval:
        """The interval of the value, from those of the reward and of the parameter."""
        reward, argument = ranges[self.arguments[0].name], Interval()
        if self.parameter is not None:
            default = self.parameter.default
            given = ranges.get(self.parameter.name)
            if given is not None:
                argument = given
            elif isinstance(default, (int, float)):
                argument = Interval(float(default), float(default))
        # Popoviciu (1935): no distribution on an interval has a std above half its width.
        widest = math.inf if may_be_gaussian else (reward.upper - reward.lower) / 2.0
        return self.bounds(reward, Interval(0.0, widest), may_be_gaussian, argument)

    def apply(self, scores: UncertainScores, parameter: Any = None) -> NDArray[np.float64]:
        """The value of every row, `[batch]`; without `parameter` the default is used."""
        if self.parameter is None:
            return self.compute(scores)
        given = self.parameter.default if parameter is None else parameter
        if given is None:
            raise ValueError(f"{self.name}() needs its argument {self.parameter.name}")
        return self.compute(scores, within_domain(self.name, self.parameter, given, len(scores)))


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Statistic(Builtin):
    """A statistic of the posterior of a number or a condition, its first argument.

    `is_expectation`: it is the mean of its argument. `of_conditions` names the statistic that takes
    conditions in its place.
    """

    kind: ClassVar[BuiltinKind] = "statistic"

    result: Type = REAL
    is_expectation: bool = False
    of_conditions: str | None = None


def _any_score(arguments: Arguments) -> Interval:
    return Interval()


def _always(arguments: Arguments) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Source(Builtin):
    """Where a reward comes from.

    `load(place, **arguments)` gives what scores texts (`rewards.scorer.Source`), its files and
    models loaded. `score_range(arguments)` holds every score. It reads `max_texts` strings at most;
    `runs_a_model`: a batch of scores costs a pass of a model. `gives_members`: the scores are those
    of the members of an ensemble and never leave their range. `countable`: it counts what an
    automaton can follow. `summed`: where `is_sum(arguments)`, the score is a sum of such counts,
    each times a number, which the loaded source tells (`rewards.scorer.Summed`).
    """

    kind: ClassVar[BuiltinKind] = "source"

    load: Callable[..., ScoreSource]
    instances: Instances
    score_range: Callable[[Arguments], Interval] = _any_score
    max_texts: int = 1
    runs_a_model: bool = False
    gives_members: bool = False
    countable: Countable | None = None
    summed: Countable | None = None
    is_sum: Callable[[Arguments], bool] = _always


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Distribution(Builtin):
    """What a site can be drawn from. A kind of distribution is a subclass.

    `binder` is what makes the stage of a site ("module:function", called as `density.binding` calls
    it); `is_text` says that its values are texts of a language model.
    """

    kind: ClassVar[BuiltinKind] = "distribution"
    binder: ClassVar[str]
    is_text: ClassVar[bool] = False

    instances: Instances

    def type_of(self, types: Mapping[str, Type]) -> Type:
        """The type of its values, from the types of the arguments."""
        return self.result

    def listed(self, **known: object) -> tuple[object, ...] | None:
        """The values, from the arguments known before anything is drawn; None: not to be listed."""
        return None

    def log_masses(self, arguments: Arguments) -> Interval | None:
        """What the log probability of a value can be, from all arguments; None: any below 0."""
        return None


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class TextDistribution(Distribution):
    """A distribution of texts: a language model after a prompt.

    `load(place, **arguments)` gives the language model. `states` says whether it has finitely many,
    that are known from the tokens or hidden, so that sums over all its texts can be had.
    """

    binder: ClassVar[str] = "lmppl.density.sites:bind_text"
    is_text: ClassVar[bool] = True

    result: Type = STRING
    load: Callable[..., LanguageModel]
    states: Literal["none", "known", "hidden"] = "none"


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class ChoiceDistribution(Distribution):
    """A distribution of one of a few values.

    `support(**arguments)` gives the values, from those arguments that are known once parameters
    are; `weights(num_rows, size, **arguments)` their probabilities in each row, `[rows, values]`,
    from the others by row: `[rows]` for a number, `[rows, n]` for an array, None where it is not
    given. `value_type` is the type of the values, from the types of the arguments.
    `masses(**arguments)` gives the probabilities from plain values of all arguments, so that their
    logs have a range before anything is run; without it that is not known.
    """

    binder: ClassVar[str] = "lmppl.density.sites:bind_choice"

    support: Callable[..., tuple[object, ...]]
    weights: Callable[..., NDArray[np.float64]]
    value_type: Callable[[Mapping[str, Type]], Type]
    masses: Callable[..., Sequence[float]] | None = None

    def type_of(self, types: Mapping[str, Type]) -> Type:
        return self.value_type(types)

    def listed(self, **known: object) -> tuple[object, ...]:
        return self.support(**known)

    def log_masses(self, arguments: Arguments) -> Interval | None:
        """From that of the rarest value that can be drawn to that of the likeliest."""
        if self.masses is None:
            return None
        given = {each.name: arguments.get(each.name, each.default) for each in self.arguments}
        found = [float(mass) for mass in self.masses(**given) if mass > 0.0]
        total = math.fsum(found)
        if not 0.0 < total < math.inf:
            return None
        return Interval(math.log(min(found) / total), math.log(max(found) / total))
