"""What can be required of the text of one LM site, and what it means.

A predicate is a small immutable tree.  `holds` is its definition: plain Python on the finished
text.  The automata built from predicates are accelerators and must agree with `holds` exactly.

The leaves know what they mean: `Asked` a built-in with its arguments, `Compared` a count with a
bound, `OneOf` a text with others. The rest of this room knows `And`, `Or` and `Not` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from lmppl.records import dataclass

if TYPE_CHECKING:
    from lmppl.automata.dfa import Dfa
    from lmppl.automata.regular import Language
    from lmppl.automata.running import Running

Comparison = Literal["<=", "<", ">=", ">", "==", "!="]
# What decides a condition: the text, the number of generated tokens without end-of-text tokens
# (those that complete a stop string count), or whether the text ended by itself, by an end-of-text
# token or a stop string.
Reads = Literal["text", "tokens", "ending"]

COMPARISONS: dict[Comparison, Callable[[float, float], bool]] = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}

Arguments = tuple[tuple[str, Any], ...]


class Asking(Protocol):
    """A condition on texts with its arguments left open: a built-in predicate is one."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> Reads: ...

    @property
    def holds(self) -> Callable[..., bool]:
        """`holds(text, **arguments)`; of the number of tokens or the ending, as `reads` says."""

    @property
    def automaton(self) -> Callable[..., Language] | None: ...

    @property
    def is_quick(self) -> Callable[..., bool]:
        """Whether `holds` takes no longer than an automaton would."""


class Counting(Protocol):
    """A number of things in a text with its arguments left open, that automata can follow."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> Callable[..., Reads]: ...

    @property
    def count(self) -> Callable[..., int]: ...

    @property
    def automaton(self) -> Callable[..., Dfa]: ...

    @property
    def running(self) -> Callable[..., Running]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A condition with its arguments, the text left out."""

    asking: Asking
    arguments: Arguments = ()

    @property
    def reads(self) -> Reads:
        return self.asking.reads

    def definition(self) -> Callable[[Any], bool]:
        """What says of what it reads whether it holds."""
        return partial(self.asking.holds, **dict(self.arguments))

    def holds(self, read: Any) -> bool:
        """Whether it holds of what it reads."""
        return self.definition()(read)

    @property
    def is_quick(self) -> bool:
        return self.asking.is_quick(**dict(self.arguments))

    def language(self) -> Language | None:
        """The texts that satisfy it; None where no automaton knows them."""
        if self.asking.automaton is None or self.reads != "text":
            return None
        return self.asking.automaton(**dict(self.arguments))

    def __repr__(self) -> str:
        return f"{self.asking.name}({_shown(self.arguments)})"


@dataclass(frozen=True, slots=True)
class Compared:
    """A count with its arguments, compared with a bound."""

    counting: Counting
    arguments: Arguments
    op: Comparison
    bound: float
    is_quick: ClassVar[bool] = False

    @property
    def reads(self) -> Reads:
        return self.counting.reads(**dict(self.arguments))

    def definition(self) -> Callable[[Any], bool]:
        """What says of what it reads whether it holds."""
        return self.holds

    def admits(self, count: int) -> bool:
        """Whether a text that counts so many passes."""
        return COMPARISONS[self.op](count, self.bound)

    def holds(self, read: Any) -> bool:
        """Whether it holds of what it reads."""
        return self.admits(self.counting.count(read, **dict(self.arguments)))

    def language(self) -> Language | None:
        """The texts that pass; None where the number of tokens decides."""
        if self.reads != "text":
            return None
        from lmppl.automata.counting import admitted
        from lmppl.automata.regular import Language

        def dfa(budget: int) -> Dfa:
            admits = admitted(self.admits, self.bound, budget)
            return self.counting.automaton(admits, budget, **dict(self.arguments))

        return Language(dfa)

    def __repr__(self) -> str:
        return f"{self.counting.name}({_shown(self.arguments)}) {self.op} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """The whole text is one of the words, letter by letter.  No words: false."""

    words: tuple[str, ...]
    reads: ClassVar[Reads] = "text"
    is_quick: ClassVar[bool] = True

    def definition(self) -> Callable[[Any], bool]:
        """What says of what it reads whether it holds."""
        return self.holds

    def holds(self, read: Any) -> bool:
        """Whether it holds of what it reads."""
        return read in self.words

    def language(self) -> Language:
        """The words."""
        from lmppl.automata.regular import texts_with

        return texts_with(self.words, at_start=True, at_end=True)

    def __repr__(self) -> str:
        return f"one_of({', '.join(map(repr, self.words))})"


def _shown(arguments: Arguments) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments)


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold; true without parts."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds; false without parts."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Predicate


@dataclass(frozen=True, slots=True)
class True_:
    """Holds of every text."""


@dataclass(frozen=True, slots=True)
class False_:
    """Holds of no text."""


Leaf = Asked | Compared | OneOf
Predicate = Leaf | And | Or | Not | True_ | False_


def holds(
    predicate: Predicate,
    text: str,
    *,
    num_tokens: int | None = None,
    finished: bool | None = None,
) -> bool:
    """Whether the predicate holds of a finished text: the definition of every predicate.

    `num_tokens` is the number of generated tokens without end-of-text tokens, `finished` whether
    the text ended by itself; both are needed by what reads them.

    Raises:
        ValueError: the predicate asks for `num_tokens` or `finished` and it was not given.
        re.error: a pattern is not a regular expression.
    """
    match predicate:
        case And(parts):
            return all(holds(p, text, num_tokens=num_tokens, finished=finished) for p in parts)
        case Or(parts):
            return any(holds(p, text, num_tokens=num_tokens, finished=finished) for p in parts)
        case Not(part):
            return not holds(part, text, num_tokens=num_tokens, finished=finished)
        case True_():
            return True
        case False_():
            return False
    read = {"text": text, "tokens": num_tokens, "ending": finished}[predicate.reads]
    if read is None:
        needed = "how the text ended" if predicate.reads == "ending" else "the number of tokens"
        raise ValueError(f"{predicate} needs to know {needed}")
    return predicate.holds(read)


def leaves(predicate: Predicate) -> Iterator[Leaf | True_ | False_]:
    """The predicates of the tree that are not `And`, `Or` or `Not`, from left to right."""
    match predicate:
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case _:
            yield predicate


def reads(predicate: Predicate, what: Reads) -> bool:
    """Whether some part of the predicate is decided by that."""
    return any(isinstance(each, Leaf) and each.reads == what for each in leaves(predicate))


def reads_only_text(predicate: Predicate) -> bool:
    """Whether the text alone decides the predicate: no `finished`, no length in tokens."""
    return not (reads(predicate, "tokens") or reads(predicate, "ending"))
