"""The checked program: what a `.lmp` file denotes, free of syntax and of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Literal

from lmppl.errors import Span
from lmppl.ir.expr import Expr, Reference, children, resolved, walk, walk_through
from lmppl.ir.types import Interval, Type
from lmppl.records import dataclass

# What stands for the name of a built-in where the host program gives something instead.
EXTERN = "extern"
Noise = Literal["none", "unbiased"]
Decidable = Literal["constant", "safety", "automaton", "liveness", "end"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of the model, of a reward or of an extern."""

    name: str
    type: Type
    span: Span
    default: Expr | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """The right-hand side of `~`: a built-in by name with its arguments as expressions.

    `kind` is the name of the built-in, and `is_text` whether it is one of texts; of an `extern lm`
    the name is in `extern`. Arguments that were not written are absent.
    """

    kind: str
    arguments: Mapping[str, Expr]
    span: Span
    is_text: bool
    extern: str | None = None

    def argument(self, name: str) -> Expr | None:
        return self.arguments.get(name)


@dataclass(frozen=True, slots=True)
class Site:
    """A latent choice `name ~ distribution`; sites are drawn in program order."""

    name: str
    distribution: Distribution
    type: Type
    span: Span

    @property
    def is_text(self) -> bool:
        return self.distribution.is_text


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a potential before anything is run.

    `range` bounds the log potential in nats. `decidable` says when its value is known (see
    docs/reference, "Staged checks"); `constant` means that no text is involved: it is known once
    the choices before its stage are drawn. `noise` is `unbiased` where a reward says that its score
    is another one every time, and the exponential of the log potential right on average.
    """

    range: Interval
    decidable: Decidable
    noise: Noise = "none"
    cost: Literal["free", "cheap", "model"] = "cheap"


_LONGEST_TITLE = 60


@dataclass(frozen=True, slots=True)
class Potential:
    """A `factor` (log potential = the expression) or a `require` (0 where it holds, −∞ elsewhere).

    `when` restricts a `require`: where the condition is false, the potential is 0. `stage` is the
    index of the last site it depends on, −1 if it depends on none: the earliest point at which
    its inputs exist.
    """

    label: str
    kind: Literal["factor", "require"]
    expr: Expr
    facts: Facts
    stage: int
    span: Span
    when: Expr | None = None
    source: str = ""

    @property
    def title(self) -> str:
        """What messages call it: `factor tone` by its label, or its text where it has none."""
        if not self.source or re.fullmatch(rf"{self.kind}_\d+", self.label) is None:
            return f"{self.kind} {self.label}"
        text = " ".join(self.source.split())
        return f"`{text if len(text) <= _LONGEST_TITLE else text[:_LONGEST_TITLE] + '…'}`"


@dataclass(frozen=True, slots=True)
class RewardSource:
    """Where a declared reward comes from: the name of a built-in with its arguments.

    An ensemble has `members`. Where `is_extern`, the host program gives it.
    """

    kind: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    members: tuple[RewardSource, ...] = ()
    span: Span | None = None

    @property
    def is_extern(self) -> bool:
        return self.kind == EXTERN


@dataclass(frozen=True, slots=True)
class Reward:
    """A named score. An uncertain reward's `type.kind` is `uncertain`."""

    name: str
    parameters: tuple[Parameter, ...]
    type: Type
    source: RewardSource
    span: Span
    inputs: Literal["text", "tokens"] = "text"
    noise: Noise = "none"


@dataclass(frozen=True, slots=True)
class Extern:
    """An `extern function` or `extern lm` that the host program gives by name."""

    name: str
    kind: Literal["function", "lm"]
    parameters: tuple[Parameter, ...]
    type: Type | None
    span: Span

    @property
    def is_language_model(self) -> bool:
        return self.kind == "lm"


@dataclass(frozen=True, slots=True)
class Let:
    """A deterministic value `let name = expr` of a model; `stage` as in `Potential`."""

    name: str
    expr: Expr
    stage: int
    span: Span


@dataclass(frozen=True, slots=True)
class Output:
    """One returned value; `name` is the identifier, or the source text of an expression."""

    name: str
    expr: Expr


@dataclass(frozen=True, slots=True)
class Expectation:
    """`expect statistic(expr) op bound`: a claim about the posterior that does not change it."""

    label: str
    statistic: Literal["mean", "probability", "quantile", "std"]
    expr: Expr
    operator: Literal["<", "<=", ">", ">=", "=="]
    bound: Expr
    span: Span
    source: str
    q: Expr | None = None


@dataclass(frozen=True, slots=True)
class InferSpec:
    """An `infer method(options) [as name]` line."""

    method: str
    options: Mapping[str, object]
    span: Span
    name: str | None = None
    option_spans: Mapping[str, Span] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A checked model: sites in program order, potentials with facts, outputs and infer lines."""

    name: str
    parameters: tuple[Parameter, ...]
    sites: tuple[Site, ...]
    lets: tuple[Let, ...]
    potentials: tuple[Potential, ...]
    outputs: tuple[Output, ...]
    expectations: tuple[Expectation, ...]
    rewards: Mapping[str, Reward]
    externs: Mapping[str, Extern]
    infers: tuple[InferSpec, ...]
    source: str
    path: str | None
    base_dir: str
    digest: str
    span: Span
    # Real paths of folders beside `base_dir` in which the files that it names may lie.
    allow: tuple[str, ...] = ()
    # Lets by name, once somebody has looked.
    _lets: dict[str, Let] = field(default_factory=dict, init=False, compare=False, repr=False)
    # And the sites that these depend on: asked at every part of an expression, a long chain of
    # lets is else gone through again and again.
    _let_sites: dict[str, frozenset[str]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __repr__(self) -> str:
        counts = f"choices: {len(self.sites)}, terms: {len(self.potentials)}"
        return f"<Model {self.name} from {self.path or 'a text'}, {counts}>"

    @property
    def sources(self) -> Mapping[str | None, str]:
        """The text by its path, which errors are drawn on; nothing else is read from it."""
        return {self.path: self.source}

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def let(self, name: str) -> Let:
        if not self._lets:
            self._lets.update({let.name: let for let in self.lets})
        return self._lets[name]

    @property
    def text_sites(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.is_text)

    def nodes(self, *exprs: Expr | None) -> Iterator[Expr]:
        """Every node that the expressions depend on, through lets, each once."""
        return walk_through((expr for expr in exprs if expr is not None), self._value_of)

    def resolve(self, expr: Expr) -> Expr:
        """The expression that a chain of `let a = b` stands for."""
        return resolved(expr, self._value_of)

    def _value_of(self, name: str) -> Expr:
        return self.let(name).expr

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """The outermost expressions of the model, in no particular order."""
        found: list[Expr | None] = [let.expr for let in self.lets]
        for site in self.sites:
            found += site.distribution.arguments.values()
        for potential in self.potentials:
            found += (potential.expr, potential.when)
        found += (output.expr for output in self.outputs)
        for claim in self.expectations:
            found += (claim.expr, claim.bound, claim.q)
        return tuple(expr for expr in found if expr is not None)

    def sites_of(self, *exprs: Expr | None) -> frozenset[str]:
        """The names of the sites that the values of expressions depend on, through lets."""
        if not self._let_sites and self.lets:
            known: dict[str, frozenset[str]] = {}
            for let in self.lets:
                # It names none but those before it.
                known[let.name] = _sites_named(let.expr, known)
            self._let_sites.update(known)
        named = (_sites_named(expr, self._let_sites) for expr in exprs if expr is not None)
        return frozenset[str]().union(*named)

    def nodes_on(self, expr: Expr, site: str) -> frozenset[int]:
        """The ids of all nodes that an expression depends on whose values depend on a site."""
        found: set[int] = set()
        # What is below a node comes after it, so that one pass from the end knows its parts.
        for node in reversed(list(self.nodes(expr))):
            if isinstance(node, Reference):
                looks = site in self.sites_of(node)
            else:
                looks = any(id(each) in found for each in children(node))
            if looks:
                found.add(id(node))
        return frozenset(found)


def _sites_named(expr: Expr, of_let: Mapping[str, frozenset[str]]) -> frozenset[str]:
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Reference) and node.role == "site":
            found.add(node.name)
        elif isinstance(node, Reference) and node.role == "let":
            found |= of_let[node.name]
    return frozenset(found)
