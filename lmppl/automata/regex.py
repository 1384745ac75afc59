"""Python regular expressions as deterministic automata.

Patterns are parsed by the standard library, so their syntax is Python's own, and the automaton
accepts exactly the texts that `re.fullmatch` matches.  What is not regular, or would need memory
that a finite automaton does not have, is refused with a reason.
"""

from __future__ import annotations

import re
import re._compiler as sre_compiler
import re._constants as sre
import re._parser as sre_parser
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lmppl.automata.alphabet import ALL, Charset, charset, complement, difference, union
from lmppl.automata.characters import cased_characters, cased_set, category
from lmppl.automata.dfa import STATE_BUDGET, Dfa, TooManyStates, minimise
from lmppl.automata.nfa import MAX_NODES, NEWLINE, Assertion, Nfa, determinise
from lmppl.automata.occurrences import occurrences

REMEDY = "write it without backreferences, lookarounds, atomic groups and possessive repeats"


class NotRegular(ValueError):
    """A pattern that no finite automaton decides, or that is not a pattern at all.

    `reason` is a clause that continues "this pattern ...".
    """

    def __init__(self, pattern: str, reason: str, position: int | None = None) -> None:
        super().__init__(f"the pattern {pattern!r} {reason}")
        self.pattern = pattern
        self.reason = reason
        self.position = position


@lru_cache(maxsize=256)
def regex_dfa(pattern: str, ignore_case: bool = False, budget: int = STATE_BUDGET) -> Dfa:
    """The automaton that accepts the texts that `re.fullmatch(pattern, text)` matches.

    Raises:
        NotRegular: a syntax error, a backreference, a lookaround, a conditional, an atomic group
            or a possessive repeat.
        TooManyStates: more than `budget` states before minimisation.

    >>> regex_dfa("[a-c]+(, [a-c]+)*").accepts("ab, c")
    True
    """
    return determinise(*regex_nfa(pattern, ignore_case), budget)


def regex_nfa(pattern: str, ignore_case: bool = False) -> tuple[Nfa, int]:
    """The nondeterministic automaton of a pattern, and where it starts.

    Raises:
        NotRegular, TooManyStates: as `regex_dfa`.
    """
    tree = parsed(pattern, ignore_case)
    translation = Translation(pattern)
    try:
        start = translation.sequence(tree, tree.state.flags, Nfa.ACCEPT)
    except RecursionError as error:
        raise NotRegular(pattern, "is nested too deeply") from error
    return translation.nfa, start


def parsed(pattern: str, ignore_case: bool = False) -> Any:
    """The standard library's parse tree of a pattern.

    Raises:
        NotRegular: it is no pattern, or is nested too deeply.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sre_parser.parse(pattern, re.IGNORECASE if ignore_case else 0)
        except re.error as error:
            reason = f"is not a regular expression: {error.msg}"
            raise NotRegular(pattern, reason, error.pos) from error
        except (RecursionError, OverflowError) as error:
            raise NotRegular(pattern, "is nested too deeply") from error


@lru_cache(maxsize=256)
def words_dfa(
    words: tuple[str, ...],
    *,
    ignore_case: bool = False,
    whole_words: bool = False,
    at_start: bool = False,
    at_end: bool = False,
    budget: int = STATE_BUDGET,
) -> Dfa:
    """The automaton for the texts in which one of the words occurs.

    With `at_start` (`at_end`) only an occurrence at the start (the end) of the text counts.

    Raises:
        TooManyStates: more than `budget` states before minimisation.
    """
    if not (at_start or whole_words):
        letters = {char: _letter(char, ignore_case) for word in words for char in word}
        found = occurrences(words, letters, at_end=at_end, budget=budget)
        if found is not None:
            return minimise(found)
    return determinise(
        *words_nfa(
            words,
            ignore_case=ignore_case,
            whole_words=whole_words,
            at_start=at_start,
            at_end=at_end,
        ),
        budget,
    )


def words_nfa(
    words: tuple[str, ...],
    *,
    ignore_case: bool = False,
    whole_words: bool = False,
    at_start: bool = False,
    at_end: bool = False,
) -> tuple[Nfa, int]:
    """The nondeterministic automaton of `words_dfa`, and where it starts."""
    nfa = Nfa()
    accept = Nfa.ACCEPT if at_end else Nfa.ACCEPT_REST
    if whole_words:
        accept = nfa.assertion(Assertion.NO_WORD_AFTER, accept)
    start = _trie(nfa, words, ignore_case, accept)
    if whole_words:
        start = nfa.assertion(Assertion.NO_WORD_BEFORE, start)
    if not at_start:
        start = nfa.anything(start)
    return nfa, start


def _trie(nfa: Nfa, words: Iterable[str], ignore_case: bool, accept: int) -> int:
    """A node that reads any of the words; those with a common beginning share it."""
    children: list[dict[Charset, int]] = [{}]
    ends: set[int] = set()
    for word in words:
        node = 0
        for char in word:
            letter = _letter(char, ignore_case)
            following = children[node].get(letter)
            if following is None:
                if len(children) >= MAX_NODES:
                    raise TooManyStates(MAX_NODES)
                following = children[node][letter] = len(children)
                children.append({})
            node = following
        ends.add(node)
    # A child comes after its parent, so that from the last to the first all is built in time.
    built = [0] * len(children)
    for node in range(len(children) - 1, -1, -1):
        targets = [accept] if node in ends else []
        targets += [nfa.read(letter, built[child]) for letter, child in children[node].items()]
        built[node] = targets[0] if len(targets) == 1 else nfa.branch(tuple(targets))
    return built[0]


@lru_cache(maxsize=4096)
def _letter(char: str, ignore_case: bool) -> Charset:
    flags = re.UNICODE | (re.IGNORECASE if ignore_case else 0)
    return characters(sre.LITERAL, ord(char), flags)


_REFUSED = {
    sre.GROUPREF: "uses a backreference, which no finite automaton can follow",
    sre.GROUPREF_EXISTS: "uses a conditional group, which is not supported in constraints",
    sre.ASSERT: "uses a lookahead or lookbehind, which is not supported in constraints",
    sre.ASSERT_NOT: "uses a lookahead or lookbehind, which is not supported in constraints",
    sre.ATOMIC_GROUP: "uses an atomic group, which is not supported in constraints",
    sre.POSSESSIVE_REPEAT: "uses a possessive repeat, which is not supported in constraints",
}

_CATEGORIES = {
    sre.CATEGORY_DIGIT: (r"\d", False),
    sre.CATEGORY_NOT_DIGIT: (r"\d", True),
    sre.CATEGORY_SPACE: (r"\s", False),
    sre.CATEGORY_NOT_SPACE: (r"\s", True),
    sre.CATEGORY_WORD: (r"\w", False),
    sre.CATEGORY_NOT_WORD: (r"\w", True),
}

_SINGLE_CHARACTERS = {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}


class Translation:
    """The standard library's parse tree as a nondeterministic automaton, built from the end."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.nfa = Nfa(boundary_in_empty_text=re.fullmatch(r"\B", "") is not None)

    def sequence(self, items: Iterable[tuple[Any, Any]], flags: int, then: int) -> int:
        for op, argument in reversed(list(items)):
            then = self.item(op, argument, flags, then)
        return then

    def item(self, op: Any, argument: Any, flags: int, then: int) -> int:
        if op in _SINGLE_CHARACTERS:
            return self.nfa.read(characters(op, argument, flags), then)
        if op is sre.BRANCH:
            return self.nfa.branch(
                tuple(self.sequence(branch, flags, then) for branch in argument[1])
            )
        if op is sre.SUBPATTERN:
            _, added, removed, body = argument
            return self.sequence(body, combine_flags(flags, added, removed), then)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, body = argument
            return self.repeat(low, high, body, flags, then, lazy=op is sre.MIN_REPEAT)
        if op is sre.AT:
            return self.nfa.assertion(_assertion(argument, flags), then)
        if op is sre.FAILURE:
            return self.nfa.branch(())
        if op is sre.ASSERT_NOT and not len(argument[1]):
            return self.nfa.branch(())
        raise NotRegular(self.pattern, _REFUSED.get(op, f"uses {op}, which is not supported"))

    def repeat(self, low: int, high: int, body: Any, flags: int, then: int, *, lazy: bool) -> int:
        nfa = self.nfa
        if high is sre.MAXREPEAT or high == sre.MAXREPEAT:
            node = nfa.loop(lambda back: self.sequence(body, flags, back), then, lazy=lazy)
        else:
            # Nested, (x(x(x)?)?)?, so that the empty moves from one copy do not reach all others.
            node = then
            number: int | None = None
            for _ in range(high - low):
                once_more = self.sequence(body, flags, node)
                node = nfa.branch((then, once_more) if lazy else (once_more, then))
                number = node if number is None else number
                nfa.loops[node] = (then, number)
        for _ in range(low):
            node = self.sequence(body, flags, node)
        return node


def characters(op: Any, argument: Any, flags: int) -> Charset:
    plain = _plain_characters(op, argument, flags)
    if not flags & re.IGNORECASE or op is sre.ANY:
        return plain
    # Case folding is asked of the engine itself, which has its own tables and corner cases.
    cased = cased_characters()
    node = sre_parser.SubPattern(sre_parser.State(), [(op, argument)])
    engine = sre_compiler.compile(node, flags)
    matched = charset((ord(char), ord(char)) for char in engine.findall(cased))
    return union(difference(plain, cased_set()), matched)


def _plain_characters(op: Any, argument: Any, flags: int) -> Charset:
    if op is sre.LITERAL:
        return ((argument, argument),)
    if op is sre.NOT_LITERAL:
        return complement(((argument, argument),))
    if op is sre.ANY:
        return ALL if flags & re.DOTALL else complement(NEWLINE)
    negated = False
    parts: list[Charset] = []
    for kind, value in argument:
        if kind is sre.NEGATE:
            negated = True
        elif kind is sre.LITERAL:
            parts.append(((value, value),))
        elif kind is sre.RANGE:
            parts.append((value,))
        else:
            escape, inverted = _CATEGORIES[value]
            chars = category(escape, bool(flags & re.ASCII))
            parts.append(complement(chars) if inverted else chars)
    chars = union(*parts)
    return complement(chars) if negated else chars


def _assertion(where: Any, flags: int) -> Assertion:
    ascii_only = bool(flags & re.ASCII)
    multiline = bool(flags & re.MULTILINE)
    if where is sre.AT_BEGINNING:
        return Assertion.LINE_START if multiline else Assertion.TEXT_START
    if where is sre.AT_END:
        return Assertion.LINE_END if multiline else Assertion.FINAL_END
    if where is sre.AT_BOUNDARY:
        return Assertion.ASCII_WORD_BOUNDARY if ascii_only else Assertion.WORD_BOUNDARY
    if where is sre.AT_NON_BOUNDARY:
        return Assertion.NO_ASCII_WORD_BOUNDARY if ascii_only else Assertion.NO_WORD_BOUNDARY
    return Assertion.TEXT_START if where is sre.AT_BEGINNING_STRING else Assertion.TEXT_END


def combine_flags(flags: int, added: int, removed: int) -> int:
    # (?a:...) and (?u:...) exclude each other.
    if added & (re.ASCII | re.UNICODE | re.LOCALE):
        flags &= ~(re.ASCII | re.UNICODE | re.LOCALE)
    return (flags | added) & ~removed
