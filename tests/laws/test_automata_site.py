"""A site's automaton against enumeration: every sequence of tokens, decoded and judged by `holds`.

The referee is plain Python: it decodes, cuts at stop strings and evaluates predicates on strings.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.automata import SiteAutomaton, compile_constraint
from lmppl.automata.predicates import And, False_, Not, Or, Predicate, True_, holds
from lmppl.automata.stopping import NO_STOPPING, Stopping
from tests.predicates import (
    contains,
    ends_with,
    finished,
    length,
    matches,
    never,
    predicates,
    starts_with,
)

torch.set_num_threads(1)


@dataclass(frozen=True)
class Vocab:
    token_bytes: tuple[bytes, ...]
    eos_ids: frozenset[int]

    @property
    def size(self) -> int:
        return len(self.token_bytes)

    @property
    def digest(self) -> str:
        return repr((self.token_bytes, sorted(self.eos_ids)))


LETTERS = Vocab((b"a", b"b", b" ", b"ab", b""), frozenset({4}))
PIECES = Vocab((b"a", b"\xe2\x82", b"\xac", b"\xc3", b"\xa9.", b"<eos>"), frozenset({5}))
ENDLESS = Vocab((b"a", b"b.", b"A", b""), frozenset())
TWO_ENDS = Vocab((b"a", b".\n", b"\n", b"", b""), frozenset({3, 4}))
EMOJI = Vocab((b"\xf0\x9f", b"\x98\x80", b"\xed\xa0", b"a", b"</s>"), frozenset({4}))

Tokens = tuple[int, ...]
Judge = Callable[[Tokens], bool | None]


@functools.cache
def undecided(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character."""
    for count in (3, 2, 1):
        tail = data[len(data) - count :] if count <= len(data) else b""
        for more in (1, 2, 3):
            for rest in itertools.product((0x80, 0x90, 0xA0), repeat=more):
                try:
                    if tail and len((tail + bytes(rest)).decode()) == 1:
                        return count
                except UnicodeDecodeError:
                    continue
    return 0


def judge_of(
    predicates: tuple[Predicate, ...],
    vocab: Vocab,
    stopping: Stopping,
    max_tokens: int,
    strip: bool = False,
) -> Judge:
    """None for a sequence that goes on, else whether the finished text satisfies everything."""

    def judge(tokens: Tokens) -> bool | None:
        by_eos = bool(tokens) and tokens[-1] in vocab.eos_ids
        text_tokens = tokens[:-1] if by_eos else tokens
        joined = b"".join(vocab.token_bytes[token] for token in text_tokens)
        # What is not a whole character yet ends nothing.
        read = len(joined) - undecided(joined)
        text = joined[:read].decode("utf-8", errors="replace")
        text = text.removeprefix(" ") if strip else text
        text, stopped = stopping.cut(text)
        if not stopped:
            text += joined[read:].decode("utf-8", errors="replace")
        finished = by_eos or stopped
        if not finished and len(tokens) < max_tokens:
            return None
        return all(
            holds(p, text, num_tokens=len(text_tokens), finished=finished) for p in predicates
        )

    return judge


def tree(judge: Judge, vocab: Vocab, max_tokens: int) -> Iterator[tuple[Tokens, bool | None, bool]]:
    """Every sequence that can occur: (tokens, verdict if it is finished, can it be completed)."""

    def visit(tokens: Tokens) -> tuple[bool, list[tuple[Tokens, bool | None, bool]]]:
        verdict = judge(tokens)
        if verdict is not None:
            return verdict, [(tokens, verdict, verdict)]
        found: list[tuple[Tokens, bool | None, bool]] = []
        possible = False
        for token in range(vocab.size):
            alive, below = visit((*tokens, token))
            possible |= alive
            found.extend(below)
        found.append((tokens, None, possible))
        return possible, found

    return iter(visit(())[1])


def violations(
    automaton: SiteAutomaton, judge: Judge, vocab: Vocab, max_tokens: int, exact: bool = True
) -> list[str]:
    """What the automaton gets wrong about any sequence that can occur."""
    nodes = list(tree(judge, vocab, max_tokens))
    alive = {tokens: possible for tokens, _, possible in nodes}
    wrong = []
    by_length: dict[int, list[tuple[Tokens, bool | None, bool]]] = {}
    for node in nodes:
        by_length.setdefault(len(node[0]), []).append(node)
    for depth, group in by_length.items():
        states = automaton.initial(len(group))
        for position in range(depth):
            states = automaton.advance(
                states, torch.tensor([tokens[position] for tokens, _, _ in group])
            )
        remaining = max_tokens - depth
        dead = automaton.is_dead(states, remaining).tolist()
        ended = automaton.ended(states).tolist()
        by_eos = torch.tensor(
            [bool(tokens) and tokens[-1] in vocab.eos_ids for tokens, _, _ in group]
        )
        finished = automaton.ended(states)
        accepted = automaton.accepts(states, finished, depth - by_eos.long()).tolist()
        masks = automaton.mask(states, remaining) if remaining else None
        if masks is not None:
            ragged = automaton.mask(states, torch.full((len(group),), remaining))
            if not torch.equal(masks, ragged):
                wrong.append(f"masks of rows at {remaining} differ from the mask at {remaining}")
        for row, (tokens, verdict, possible) in enumerate(group):
            if exact and dead[row] == possible:
                wrong.append(f"{tokens}: dead {dead[row]}, can be completed {possible}")
            if dead[row] and possible:
                wrong.append(f"{tokens}: taken for dead")
            if verdict is not None:
                if accepted[row] != verdict:
                    wrong.append(f"{tokens}: accepts {accepted[row]}, holds {verdict}")
                if verdict and ended[row] != (remaining > 0 or ended[row]):
                    wrong.append(f"{tokens}: ended {ended[row]}")
                continue
            if ended[row]:
                wrong.append(f"{tokens}: ended too early")
            assert masks is not None
            for token, allowed in enumerate(masks[row].tolist()):
                should = alive[(*tokens, token)]
                if should and not allowed:
                    wrong.append(f"{tokens} then {token}: refused wrongly")
                if exact and allowed and not should:
                    wrong.append(f"{tokens} then {token}: allowed wrongly")
                if not allowed and not automaton.masks_at(remaining):
                    wrong.append(f"{tokens}: masks_at({remaining}) says nothing is refused")
    return wrong


CASES: list[tuple[Vocab, tuple[Predicate, ...], Stopping, int]] = [
    (LETTERS, (), NO_STOPPING, 3),
    (LETTERS, (matches("(ab)*"),), NO_STOPPING, 4),
    (LETTERS, (matches("(aa)*"), finished()), NO_STOPPING, 4),
    (LETTERS, (never(("ba",)), contains(("bb",))), NO_STOPPING, 4),
    (LETTERS, (contains(("ab",), whole_words=True),), NO_STOPPING, 4),
    (LETTERS, (length("words", "==", 2),), NO_STOPPING, 4),
    (LETTERS, (length("characters", ">=", 5), length("tokens", "<=", 3)), NO_STOPPING, 4),
    (LETTERS, (length("tokens", ">=", 2), finished()), NO_STOPPING, 4),
    (LETTERS, (Or((length("tokens", "<", 2), contains(("bb",)))),), NO_STOPPING, 4),
    (LETTERS, (Or((finished(), matches("a+"))),), NO_STOPPING, 4),
    (LETTERS, (Not(finished()), length("characters", "<=", 3)), NO_STOPPING, 3),
    (LETTERS, (Not(And((finished(), length("tokens", "==", 2)))), never((" ",))), NO_STOPPING, 4),
    (LETTERS, (False_(),), NO_STOPPING, 2),
    (LETTERS, (starts_with(("a",)), ends_with(("b", "ba"))), NO_STOPPING, 4),
    (LETTERS, (), Stopping(("ba",)), 4),
    (LETTERS, (matches("a*"),), Stopping(("b ", "ab")), 4),
    (LETTERS, (matches("[ab]*"), finished()), Stopping(("  ", "b ")), 4),
    (LETTERS, (length("tokens", "==", 2),), Stopping(("b",)), 4),
    (LETTERS, (ends_with(("a",)),), Stopping(("aab", "ab")), 4),
    (ENDLESS, (matches("(aa)*"),), NO_STOPPING, 5),
    (ENDLESS, (matches("(aa)*"),), NO_STOPPING, 4),
    (ENDLESS, (never(("a",), ignore_case=True),), NO_STOPPING, 4),
    (ENDLESS, (finished(), contains(("A",))), Stopping((".",)), 4),
    (ENDLESS, (finished(),), NO_STOPPING, 3),
    (TWO_ENDS, (matches(r"a*$"),), NO_STOPPING, 4),
    (TWO_ENDS, (matches(r"(?m)(^a+\.$\n?)+"),), NO_STOPPING, 4),
    (TWO_ENDS, (never((".",)),), Stopping(("\n",)), 4),
    (PIECES, (contains(("€",)),), NO_STOPPING, 4),
    (PIECES, (matches("[^\ufffd]*"),), NO_STOPPING, 4),
    (PIECES, (matches("(\ufffd|a)*"), finished()), NO_STOPPING, 4),
    (PIECES, (length("characters", "==", 3),), NO_STOPPING, 4),
    (PIECES, (never(("a",)),), Stopping(("é",)), 4),
    (PIECES, (matches(r"\w*"),), Stopping(("€", ".")), 4),
    (EMOJI, (matches("\U0001f600+"),), NO_STOPPING, 4),
    (EMOJI, (length("characters", "<=", 2),), NO_STOPPING, 4),
    (EMOJI, (ends_with(("\ufffd",)), Not(contains(("a\ufffd",)))), NO_STOPPING, 4),
    (LETTERS, (), Stopping(after=("ba",)), 4),
    (LETTERS, (matches("(ab)*"),), Stopping(after=("bb", "b ")), 4),
    (LETTERS, (finished(), length("characters", ">=", 2)), Stopping(("b ",), ("b",)), 4),
    (LETTERS, (), Stopping(until="a+b"), 4),
    (LETTERS, (ends_with(("b",)),), Stopping(("ba",), (" ",), "(a|b)*bb"), 4),
    (LETTERS, (contains(("ab",)),), Stopping(("aba",), (), "a*b"), 4),
    (ENDLESS, (finished(),), Stopping(until=r"[^.]*\."), 4),
    (TWO_ENDS, (length("characters", "==", 2),), Stopping(until=r"a*\.?$\n"), 4),
    (PIECES, (never(("a",)),), Stopping(after=("é",)), 4),
    (PIECES, (), Stopping(until="a."), 4),
    (PIECES, (finished(),), Stopping(until="(€|\ufffd)+a"), 4),
    (EMOJI, (), Stopping(until=".."), 4),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_masks_are_sound_and_complete_and_accepting_is_holding(
    case: tuple[Vocab, tuple[Predicate, ...], Stopping, int],
) -> None:
    vocab, predicates, stopping, max_tokens = case
    automaton = compile_constraint(predicates, vocab, stopping, max_tokens)
    assert automaton.is_exact and automaton.kind == "table"
    judge = judge_of(predicates, vocab, stopping, max_tokens)
    assert violations(automaton, judge, vocab, max_tokens) == []


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_automata_on_demand_and_side_by_side_never_refuse_wrongly(
    case: tuple[Vocab, tuple[Predicate, ...], Stopping, int],
) -> None:
    vocab, predicates, stopping, max_tokens = case
    automaton = compile_constraint(predicates, vocab, stopping, max_tokens, table_budget=16)
    judge = judge_of(predicates, vocab, stopping, max_tokens)
    assert not automaton.is_exact or automaton.num_bytes < 1000
    assert violations(automaton, judge, vocab, max_tokens, exact=automaton.is_exact) == []


@pytest.mark.parametrize(
    "stopping", [NO_STOPPING, Stopping(("b ",)), Stopping(after=("b ",)), Stopping(until="a*b ")]
)
def test_a_constraint_too_large_for_any_automaton_is_left_out(stopping: Stopping) -> None:
    """The others are followed as if it were not there."""
    large, small = contains(("abab", "aabb")), never(("bb",))
    automaton = compile_constraint((large, small), LETTERS, stopping, 4, state_budget=4)
    assert automaton.left_out == (large,) and not automaton.is_exact
    judge = judge_of((small,), LETTERS, stopping, 4)
    assert violations(automaton, judge, LETTERS, 4) == []
    alone = compile_constraint((large,), LETTERS, stopping, 4, state_budget=4)
    assert alone.left_out == (large,) and alone.to("cpu").left_out == (large,)
    assert violations(alone, judge_of((), LETTERS, stopping, 4), LETTERS, 4) == []
    assert compile_constraint((large, small), LETTERS, stopping, 4).left_out == ()


def test_a_leading_space_is_stripped_once_where_the_vocabulary_does() -> None:
    predicates = (matches(" ?a*b?"),)
    automaton = compile_constraint(
        predicates, LETTERS, Stopping(("ab",)), 4, strip_leading_space=True
    )
    judge = judge_of(predicates, LETTERS, Stopping(("ab",)), 4, strip=True)
    assert violations(automaton, judge, LETTERS, 4) == []
    unstripped = judge_of(predicates, LETTERS, Stopping(("ab",)), 4)
    assert violations(automaton, unstripped, LETTERS, 4) != []


PREDICATES = predicates(
    alphabet="ab .é\ufffd€",
    patterns=[
        "a*",
        "(ab)*",
        "[^.]*",
        ".*b",
        r"\w+( \w+)*",
        "a{2,3}",
        r"\S*",
        "(a|é)*.?",
        r"\ba.*",
        "a$",
    ],
    units=["characters", "words", "tokens"],
    bounds=[-1, 0, 1, 1.5, 2, 3],
    others=[finished(), True_()],
)


STRINGS = st.lists(st.text("ab .é", min_size=1, max_size=3), max_size=2).map(tuple)
STOPPINGS = st.builds(
    Stopping,
    STRINGS,
    STRINGS,
    st.none() | st.sampled_from(["a+b", r"[^.]*\.", r"(ab| )+", ".*é.", r"\w+\b.", "..", "a$|b"]),
)


def vocabularies() -> st.SearchStrategy[Vocab]:
    token = st.one_of(
        st.sampled_from([b"a", b"b", b" ", b".", b"ab", b"a.", b"\n", "é".encode(), b""]),
        st.binary(max_size=2),
        st.sampled_from([b"\xe2", b"\x82\xac", b"\xc3", b"\xa9", b"\xed\xa0", b"\xf4\x90"]),
    )
    return st.tuples(st.lists(token, min_size=2, max_size=4), st.booleans()).map(
        lambda pair: Vocab(
            (*pair[0], b"</s>") if pair[1] else tuple(pair[0]),
            frozenset({len(pair[0])}) if pair[1] else frozenset(),
        )
    )


@settings(max_examples=120, deadline=None)
@given(
    vocabularies(),
    st.lists(PREDICATES, max_size=2).map(tuple),
    STOPPINGS,
    st.integers(0, 4),
    st.booleans(),
)
def test_random_constraints_on_random_vocabularies(
    vocab: Vocab,
    chosen: tuple[Predicate, ...],
    stopping: Stopping,
    max_tokens: int,
    strip: bool,
) -> None:
    automaton = compile_constraint(chosen, vocab, stopping, max_tokens, strip)
    judge = judge_of(chosen, vocab, stopping, max_tokens, strip)
    assert violations(automaton, judge, vocab, max_tokens) == []
    small = compile_constraint(chosen, vocab, stopping, max_tokens, strip, table_budget=8)
    assert violations(small, judge, vocab, max_tokens, exact=small.is_exact) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=3), max_size=5), st.sampled_from(["\ufffd", "é", "€", "\\w"]))
def test_bytes_are_decoded_as_python_decodes_them(tokens: list[bytes], target: str) -> None:
    vocab = Vocab((*tokens, b"a"), frozenset())
    pattern = f"(?s)(?:{target}|[^{target}]{{2}})*"
    automaton = compile_constraint([matches(pattern)], vocab, NO_STOPPING, len(tokens))
    states = automaton.initial(1)
    for token in range(len(tokens)):
        states = automaton.advance(states, torch.tensor([token]))
    text = b"".join(tokens).decode("utf-8", errors="replace")
    assert automaton.accepts(states, False).item() == (re.fullmatch(pattern, text) is not None)


# --- wrong automata that these laws reject --------------------------------------------------------


class IgnoresBudget(SiteAutomaton):
    """Masks as if there were always as many tokens left as at the start."""

    def mask(self, states: torch.Tensor, remaining: int | torch.Tensor) -> torch.Tensor:
        return super().mask(states, self.max_tokens)


class RefusesOpenPrefixes(SiteAutomaton):
    """Takes a text that does not hold yet for dead."""

    def is_dead(self, states: torch.Tensor, remaining: int | torch.Tensor) -> torch.Tensor:
        return ~self.accepts(states, False)


class ForgetsTheEnd(SiteAutomaton):
    """Goes on counting after the text has ended."""

    def accepts(
        self,
        states: torch.Tensor,
        finished: torch.Tensor | bool,
        num_tokens: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        return super().accepts(states, False, num_tokens)


@pytest.mark.parametrize(
    ("wrong", "chosen"),
    [
        (IgnoresBudget, (contains(("bb",)),)),
        (RefusesOpenPrefixes, (matches("(ab)*"),)),
        (ForgetsTheEnd, (finished(),)),
    ],
)
def test_wrong_automata_are_rejected(
    wrong: type[SiteAutomaton], chosen: tuple[Predicate, ...]
) -> None:
    right = compile_constraint(chosen, LETTERS, NO_STOPPING, 3)
    broken = wrong(right.max_tokens, right.parts, right.is_exact)
    assert violations(broken, judge_of(chosen, LETTERS, NO_STOPPING, 3), LETTERS, 3) != []


def test_a_stop_string_kept_in_the_text_is_rejected() -> None:
    chosen = (never(("b",)), finished())
    automaton = compile_constraint(chosen, LETTERS, Stopping(("b",)), 3)

    def keeps_the_stop(tokens: Tokens) -> bool | None:
        verdict = judge_of((), LETTERS, Stopping(("b",)), 3)(tokens)
        if verdict is None:
            return None
        text = b"".join(LETTERS.token_bytes[token] for token in tokens).decode()
        return "b" not in text and verdict and tokens[-1] in LETTERS.eos_ids

    assert violations(automaton, judge_of(chosen, LETTERS, Stopping(("b",)), 3), LETTERS, 3) == []
    assert violations(automaton, keeps_the_stop, LETTERS, 3) != []


def test_decoding_token_by_token_is_rejected() -> None:
    chosen = (contains(("€",)),)
    automaton = compile_constraint(chosen, PIECES, NO_STOPPING, 3)

    def decodes_token_by_token(tokens: Tokens) -> bool | None:
        if judge_of(chosen, PIECES, NO_STOPPING, 3)(tokens) is None:
            return None
        return "€" in "".join(PIECES.token_bytes[t].decode(errors="replace") for t in tokens)

    assert violations(automaton, decodes_token_by_token, PIECES, 3) != []


# --- what else an engine relies on ----------------------------------------------------------------


def test_a_dead_prefix_stays_dead_and_allows_nothing() -> None:
    automaton = compile_constraint([never(("ab",))], LETTERS, NO_STOPPING, 4)
    states = automaton.advance(automaton.initial(2), torch.tensor([3, 0]))
    assert states.tolist()[0] == -1 and states.tolist()[1] >= 0
    states = automaton.advance(states, torch.tensor([2, 1]))
    assert states.tolist() == [-1, -1]
    assert automaton.is_dead(states, 2).all()
    assert not automaton.mask(states, 2).any()
    assert not automaton.accepts(states, True).any()


def test_ended_rows_keep_their_state() -> None:
    automaton = compile_constraint([matches("a*")], LETTERS, Stopping(("b",)), 4)
    states = automaton.advance(automaton.initial(2), torch.tensor([4, 1]))
    assert automaton.ended(states).all() and automaton.accepts(states, True).all()
    for token in range(LETTERS.size):
        moved = automaton.advance(states, torch.tensor([token, token]))
        assert torch.equal(moved, states)


def test_impossible_constraints_and_budgets_are_known_before_anything_is_drawn() -> None:
    assert compile_constraint([length("characters", ">", 8)], LETTERS, NO_STOPPING, 4).is_impossible
    assert not compile_constraint(
        [length("characters", ">", 7)], LETTERS, NO_STOPPING, 4
    ).is_impossible
    automaton = compile_constraint(
        [length("characters", "==", 3), finished()], LETTERS, NO_STOPPING, 5
    )
    assert automaton.min_tokens == 3
    assert compile_constraint([False_()], LETTERS, NO_STOPPING, 5).min_tokens is None


def test_without_constraints_no_mask_is_needed() -> None:
    automaton = compile_constraint([], LETTERS, Stopping(("b",)), 3)
    assert not any(automaton.masks_at(remaining) for remaining in (1, 2, 3))
    automaton = compile_constraint([contains(("b",))], LETTERS, NO_STOPPING, 9)
    assert automaton.masks_at(1)


def test_bad_stop_strings_are_refused() -> None:
    for stop in ("", "a\ufffd"):
        with pytest.raises(ValueError, match="stop string"):
            compile_constraint([], LETTERS, Stopping((stop,)), 3)


def test_masks_that_are_kept_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmppl.automata import tokens as lookups

    chosen = (length("characters", "<=", 40), contains(("b",)), finished())
    tokens = torch.tensor([[0, 1, 3, 2], [1, 1, 4, 0], [3, 3, 3, 3], [0, 0, 0, 0]])
    found = []
    for budget in (1 << 20, 0):
        monkeypatch.setattr(lookups, "_MASK_BUDGET", budget)
        # A budget of its own keeps the automaton out of reach of the one made before.
        automaton = compile_constraint(
            chosen, LETTERS, NO_STOPPING, 60, table_budget=(1 << 20) + budget
        )
        states = [automaton.initial(4)]
        for column in tokens.T:
            states.append(automaton.advance(states[-1], column))
        found.append([automaton.mask(each, 50 - i) for i, each in enumerate(states)])
        ragged = [torch.full((4,), 50 - i) for i in range(5)]
        found.append([automaton.mask(*each) for each in zip(states, ragged, strict=True)])
    for masks in found[1:]:
        for left, right in zip(found[0], masks, strict=True):
            assert torch.equal(left, right)
