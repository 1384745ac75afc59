"""`length(text, unit)`: how long a text is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import TEXT
from lmppl.builtins.kinds import Countable, Measure
from lmppl.builtins.signature import Argument
from lmppl.ir.types import Interval

if TYPE_CHECKING:
    from lmppl.automata.dfa import Dfa
    from lmppl.automata.predicates import Reads
    from lmppl.automata.reach import Reach
    from lmppl.automata.running import Running

_TOKENS, _WORDS, _CHARACTERS = UNITS = ("tokens", "words", "characters")


def count(read: Any, unit: str) -> Any:
    """The length of the text in a unit; words are maximal runs of what is not white space.

    Tokens are the tokens generated, without end-of-text tokens; those that complete a stop string
    count. Their number is given instead of the text, or a column of such numbers.
    """
    if unit == _TOKENS:
        return read
    return len(read.split()) if unit == _WORDS else len(read)


def reads(unit: str) -> Reads:
    return "tokens" if unit == _TOKENS else "text"


def automaton(admits: tuple[int, ...], budget: int, unit: str) -> Dfa:
    """Counts up to the last entry of `admits`, which are its outputs."""
    from lmppl.automata.alphabet import complement, partition
    from lmppl.automata.characters import category
    from lmppl.automata.dfa import Dfa, TooManyStates, minimise

    cap = len(admits) - 1
    if cap >= budget:
        raise TooManyStates(budget)
    rows: tuple[tuple[int, ...], ...]
    if unit == _CHARACTERS:
        alphabet, _ = partition([])
        rows = tuple((min(count + 1, cap),) for count in range(cap + 1))
        return Dfa(alphabet, rows, tuple(map(int, admits)))
    alphabet, members = partition([complement(category(r"\s"))])
    (letter,) = members[0]
    # State 2 * count, plus 1 inside a word (which is already counted).
    rows = tuple(
        tuple(
            2 * (count + (0 if inside else count < cap)) + 1 if cls == letter else 2 * count
            for cls in range(alphabet.num_classes)
        )
        for count in range(cap + 1)
        for inside in (False, True)
    )
    outputs = tuple(int(admitted) for admitted in admits for _ in range(2))
    return minimise(Dfa(alphabet, rows, outputs))


def running(budget: int, unit: str) -> Running:
    """Counts without an end, in one state or two: inside of a word and outside."""
    from lmppl.automata.alphabet import complement, partition
    from lmppl.automata.characters import category
    from lmppl.automata.running import Running

    if unit == _CHARACTERS:
        alphabet, _ = partition([])
        return Running(alphabet, ((0,),), ((1,),), (0,))
    alphabet, members = partition([complement(category(r"\s"))])
    (letter,) = members[0]
    classes = range(alphabet.num_classes)
    row = tuple(int(cls == letter) for cls in classes)
    return Running(alphabet, (row, row), (row, (0,) * len(classes)), (0, 0))


def _always_countable(unit: str) -> None:
    """Automata follow every unit."""


def reach(reach: Reach, unit: str) -> Interval:
    return reach.length(unit)


LENGTH = Measure(
    name="length",
    arguments=(
        TEXT,
        Argument(
            "unit",
            "string",
            "what is counted; words are runs of characters that are not white space",
            required=False,
            default=_TOKENS,
            known="file",
            choices=UNITS,
        ),
    ),
    doc="The length of the text in tokens, characters or words.",
    example='require brief: length(text, unit="words") <= 20',
    countable=Countable(
        name="length",
        count=count,
        reads=reads,
        automaton=automaton,
        running=running,
        require=_always_countable,
    ),
    reach=reach,
    not_generated=(
        "only the text of a choice has a length in tokens",
        'say what to count: `unit="characters"` or `unit="words"`',
    ),
)
