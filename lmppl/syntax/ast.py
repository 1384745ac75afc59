"""What was written: one frozen class per grammar rule, each with its span, and no meaning.

Spans index `Program.source`, which is the text with CRLF read as LF and a byte order mark removed.
The span of an expression in parentheses leaves the parentheses out.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from lmppl.errors import Span
from lmppl.records import dataclass

# ---------------------------------------------------------------------------------------------
# Expressions


@dataclass(frozen=True, slots=True)
class Int:
    """`64` or `20_000`; `text` is the literal as written."""

    value: int
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Real:
    """`0.5` or `1e-3`; `text` is the literal as written."""

    value: float
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Bool:
    """`true` or `false`."""

    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class String:
    """A string without interpolation: plain, raw (`r"…"`) or long (triple quotes).

    `value` is the decoded string; `text` the literal as written, with prefix and quotes.
    """

    value: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an f-string between two interpolations, decoded."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Interpolation:
    """`{name}` in an f-string; `name_span` is the name inside the literal, without braces."""

    name: str
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class FString:
    """`f"…{name}…"`; `text` is the literal as written, with prefix and quotes."""

    parts: tuple[Segment | Interpolation, ...]
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    """A name that stands for a value, a reward, a distribution or a function."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """`q.f`: a name qualified by an import."""

    value: Name | Attribute
    name: str
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class List:
    """`[a, b, c]`."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Argument:
    """`value` or `name=value` in a call, `infer` or `extern`; a positional one has no name."""

    name: str | None
    name_span: Span | None
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`; positional arguments come before named ones, no name comes twice."""

    function: Name | Attribute
    arguments: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Index:
    """`value[index]`."""

    value: Expr
    index: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not p`."""

    operator: Literal["-", "not"]
    operand: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic on two operands; `^` is the power and binds to the right."""

    operator: Literal["+", "-", "*", "/", "^"]
    left: Expr
    right: Expr
    operator_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison; comparisons do not chain."""

    operator: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
    left: Expr
    right: Expr
    operator_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Logical:
    """`p and q and …` or `p or q or …`, two operands or more, in one node."""

    operator: Literal["and", "or"]
    operands: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """`if condition then positive else negative`."""

    condition: Expr
    positive: Expr
    negative: Expr
    span: Span


Expr: TypeAlias = (
    Int
    | Real
    | Bool
    | String
    | FString
    | Name
    | Attribute
    | List
    | Call
    | Index
    | Unary
    | Binary
    | Compare
    | Logical
    | Conditional
)

# ---------------------------------------------------------------------------------------------
# Types and declarations


@dataclass(frozen=True, slots=True)
class Bound:
    """`lower=0` in `real<lower=0>`."""

    name: str
    name_span: Span
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class TypeExpr:
    """`real<lower=0>` or `string[]`; `dimensions` counts the `[]`. The name may be unknown."""

    name: str
    name_span: Span
    bounds: tuple[Bound, ...]
    dimensions: int
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name: type = default` of a model, a reward or an extern; the default may be absent."""

    name: str
    name_span: Span
    type: TypeExpr
    default: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class TermLabel:
    """`tone:` after `factor`, `require`, `moment` or `expect`; the span leaves the colon out."""

    name: str
    span: Span


# ---------------------------------------------------------------------------------------------
# Statements of a model


@dataclass(frozen=True, slots=True)
class Sample:
    """`name ~ distribution`."""

    name: str
    name_span: Span
    distribution: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Factor:
    """`factor [label:] value`."""

    label: TermLabel | None
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Require:
    """`require [label:] condition [when guard]`."""

    label: TermLabel | None
    condition: Expr
    guard: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Observe:
    """`observe value ~ distribution`."""

    value: Expr
    distribution: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Moment:
    """`moment [label:] statistic = target`."""

    label: TermLabel | None
    statistic: Expr
    target: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Expect:
    """`expect [label:] claim`."""

    label: TermLabel | None
    claim: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Let:
    """`let name [: type] = value`, in a model or at the top of a file."""

    name: str
    name_span: Span
    type: TypeExpr | None
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    """`return a, b`; one value at least."""

    values: tuple[Expr, ...]
    span: Span


Statement: TypeAlias = Sample | Factor | Require | Observe | Moment | Expect | Let | Return

# ---------------------------------------------------------------------------------------------
# The top of a file


@dataclass(frozen=True, slots=True)
class Import:
    """`import "x.lmp" as q`."""

    file: String
    name: str
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Reward:
    """`reward name(parameters) [: type] = source`."""

    name: str
    name_span: Span
    parameters: tuple[Parameter, ...]
    type: TypeExpr | None
    source: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Extern:
    """`extern reward f(..) [: type]`, `extern function f(..): type` or `extern lm name`.

    `options` are the `name=value` that follow the parameters inside the parentheses, such as
    `inputs="tokens"`. An `lm` has neither parameters, options nor type; a `function` has a type.
    """

    kind: Literal["reward", "function", "lm"]
    name: str
    name_span: Span
    parameters: tuple[Parameter, ...]
    options: tuple[Argument, ...]
    type: TypeExpr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Model:
    """`model name(parameters) { statements }`; `head_span` ends before the opening brace."""

    name: str
    name_span: Span
    parameters: tuple[Parameter, ...]
    statements: tuple[Statement, ...]
    head_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Infer:
    """`infer method(options) [as name]`."""

    method: str
    method_span: Span
    options: tuple[Argument, ...]
    name: str | None
    name_span: Span | None
    span: Span


Item: TypeAlias = Import | Let | Reward | Extern | Model | Infer


@dataclass(frozen=True, slots=True)
class Program:
    """A whole file.

    `allowances` pairs a line with the codes that `# lmp: allow …` silences there: the comment's own
    line, or the next line with code when the comment stands alone.
    """

    path: str | None
    source: str
    items: tuple[Item, ...]
    allowances: tuple[tuple[int, tuple[str, ...]], ...]
    span: Span

    @property
    def imports(self) -> tuple[Import, ...]:
        """The imports, in order."""
        return tuple(item for item in self.items if isinstance(item, Import))

    @property
    def lets(self) -> tuple[Let, ...]:
        """The `let` at the top of the file, in order."""
        return tuple(item for item in self.items if isinstance(item, Let))

    @property
    def rewards(self) -> tuple[Reward, ...]:
        """The rewards that the file defines, in order."""
        return tuple(item for item in self.items if isinstance(item, Reward))

    @property
    def externs(self) -> tuple[Extern, ...]:
        """What the host must give, in order."""
        return tuple(item for item in self.items if isinstance(item, Extern))

    @property
    def models(self) -> tuple[Model, ...]:
        """The models, in order."""
        return tuple(item for item in self.items if isinstance(item, Model))

    @property
    def infers(self) -> tuple[Infer, ...]:
        """The `infer` lines, in order."""
        return tuple(item for item in self.items if isinstance(item, Infer))


Node: TypeAlias = (
    Expr
    | Statement
    | Item
    | Program
    | Segment
    | Interpolation
    | Argument
    | Bound
    | TypeExpr
    | Parameter
    | TermLabel
)
