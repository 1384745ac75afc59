"""Weighted automata and the backward pass against enumeration in plain Python.

The referee adds up texts one by one, with dictionaries and fractions of its own.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from scipy import stats

from lmppl.automata import compile_constraint
from lmppl.automata.compiling import compile_labels
from lmppl.automata.counting import running_count
from lmppl.automata.dfa import TooManyStates
from lmppl.automata.predicates import Predicate
from lmppl.automata.stopping import NO_STOPPING, Stopping
from lmppl.automata.words import running_words
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import TablesTooLarge, backward
from lmppl.finite.building import AutomatonTooLarge, merged, product, weighted_constraints
from lmppl.finite.hidden import HiddenStates
from lmppl.finite.known import KnownStates
from lmppl.finite.labels import counted
from lmppl.finite.posterior import draw, summary
from lmppl.finite.prior import FiniteStateLM
from lmppl.rewards.texts import LexiconSource
from lmppl.rng import Stream
from lmppl.sequences.log_space import log_matmul, log_sum_groups
from tests.laws.test_automata_site import LETTERS, TWO_ENDS, Vocab, judge_of
from tests.predicates import contains, ends_with, finished, length, never

EXACT = 1e-11


def texts(automaton: WeightedAutomaton, max_tokens: int) -> Iterator[tuple[int, ...]]:
    """Every text: until the automaton says that it ended, or `max_tokens`."""
    waiting: list[tuple[tuple[int, ...], int]] = [((), 0)]
    while waiting:
        text, state = waiting.pop()
        if len(text) == max_tokens or (state >= 0 and bool(automaton.ended[state])):
            yield text
            continue
        for token in range(automaton.vocab_size):
            to = int(automaton.step[state, automaton.token_class[token]]) if state >= 0 else -1
            waiting.append(((*text, token), to))


def log_prior(prior: FiniteStateLM, text: tuple[int, ...]) -> float:
    """A token at a time, by the definition of each kind of model."""
    if isinstance(prior, KnownStates):
        state, total = prior.initial, 0.0
        for token in text:
            total += float(prior.log_emission[state, token])
            state = int(prior.successor[prior.family[state], token])
        return total
    assert isinstance(prior, HiddenStates)
    reach = {s: math.exp(p) for s, p in enumerate(prior.log_initial.tolist())}
    total = 0.0
    for number, token in enumerate(text):
        emission = prior.log_emission[:, token].exp().tolist()
        seen = {s: p * emission[s] for s, p in reach.items()}
        if number == len(text) - 1:
            return math.log(sum(seen.values())) if sum(seen.values()) > 0 else -math.inf
        reach = dict.fromkeys(reach, 0.0)
        for s, p in seen.items():
            for to, q in enumerate(prior.log_transition[s].exp().tolist()):
                reach[to] += p * q
    return total


def rows(random: Random, num: int, size: int, zeros: float = 0.2) -> torch.Tensor:
    """Random log probabilities `[num, size]`, some of them −∞."""
    weights = [
        [0.0 if random.random() < zeros else random.random() + 0.01 for _ in range(size)]
        for _ in range(num)
    ]
    for row in weights:
        row[random.randrange(size)] += 0.5
    table = torch.tensor(weights, dtype=torch.float64)
    return (table / table.sum(-1, keepdim=True)).log()


def priors(random: Random, vocab: int) -> list[FiniteStateLM]:
    """A Markov chain, a model with families of states of several sizes, and a hidden one."""
    markov = KnownStates.of(rows(random, vocab + 1, vocab), torch.arange(vocab), vocab)
    num = 5
    kinds = [[random.randrange(num) for _ in range(vocab)] for _ in range(3)]
    leads = torch.tensor([kinds[k] for k in (0, 1, 1, 2, 1)])
    families = KnownStates.of(rows(random, num, vocab), leads, 0)
    hidden = HiddenStates(rows(random, 1, 3, 0.0)[0], rows(random, 3, 3), rows(random, 3, vocab))
    return [markov, families, hidden]


def any_automaton(random: Random, vocab: int, max_tokens: int) -> WeightedAutomaton:
    """A random weighted automaton in which some states have ended and some moves are dead."""
    num, classes = random.randint(2, 6), random.randint(1, vocab)
    step = torch.tensor([[random.randrange(-1, num) for _ in range(classes)] for _ in range(num)])
    ended = torch.tensor([i > 0 and random.random() < 0.3 for i in range(num)])
    counts = random.choice([1, max_tokens + 1])
    final = torch.tensor(
        [
            [-math.inf if random.random() < 0.2 else random.gauss(0, 2) for _ in range(num)]
            for _ in range(counts)
        ],
        dtype=torch.float64,
    )
    weight = torch.tensor(
        [[random.choice([0.0, 1.5, -0.5, -math.inf]) for _ in range(classes)] for _ in range(num)],
        dtype=torch.float64,
    )
    return WeightedAutomaton(
        step,
        random.choice([None, weight]),
        torch.tensor([random.randrange(classes) for _ in range(vocab)]),
        random.choice([None, torch.tensor([random.gauss(0, 1) for _ in range(vocab)]).double()]),
        ended,
        final,
    )


def evidence(prior: FiniteStateLM, automaton: WeightedAutomaton, max_tokens: int) -> float:
    terms = [
        log_prior(prior, text) + automaton.log_weight_of(torch.tensor(text))
        for text in texts(automaton, max_tokens)
    ]
    return float(torch.logsumexp(torch.tensor(terms, dtype=torch.float64), 0))


@pytest.mark.parametrize("seed", range(12))
def test_backward_sums_all_texts(seed: int) -> None:
    random = Random(seed)
    vocab, max_tokens = random.randint(2, 4), random.randint(1, 4)
    automaton = any_automaton(random, vocab, max_tokens)
    for prior in priors(random, vocab):
        expected = evidence(prior, automaton, max_tokens)
        tables = backward(prior, automaton, max_tokens)
        (found,) = tables.log_evidence([()]).tolist()
        assert found == pytest.approx(expected, abs=EXACT), type(prior)


@pytest.mark.parametrize("seed", range(6))
def test_a_token_ahead_is_the_table_before(seed: int) -> None:
    random = Random(100 + seed)
    vocab, max_tokens = 4, 3
    automaton = any_automaton(random, vocab, max_tokens)
    open_states = (~automaton.ended).nonzero().squeeze(-1)
    for prior in priors(random, vocab):
        tables = backward(prior, automaton, max_tokens)
        beliefs = prior.begin([(), (1,), (2, 0)])[torch.tensor([0, 1, 2] * len(open_states))]
        states = open_states.repeat_interleave(3)
        for remaining in range(1, max_tokens + 1):
            ahead = tables.log_ahead(beliefs, states, remaining)
            found = torch.logsumexp(prior.log_probs(beliefs) + ahead, -1)
            expected = prior.log_expected(beliefs, tables.log_value[remaining], states)
            torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("seed", range(12))
def test_merging_and_products_keep_every_weight(seed: int) -> None:
    random = Random(200 + seed)
    vocab, max_tokens = 3, 3
    one, other = (any_automaton(random, vocab, max_tokens) for _ in range(2))
    # Both have to agree on where a text has ended.
    other = replace(other, ended=torch.zeros_like(other.ended))
    small, both = merged(one), product([one, other])
    assert small.num_states <= one.num_states
    for text in texts(one, max_tokens):
        tokens = torch.tensor(text)
        weight = one.log_weight_of(tokens)
        assert small.log_weight_of(tokens) == pytest.approx(weight, abs=EXACT)
        expected = weight + other.log_weight_of(tokens)
        assert both.log_weight_of(tokens) == pytest.approx(expected, abs=EXACT)


CONSTRAINTS: list[tuple[Vocab, tuple[Predicate, ...], tuple[str, ...]]] = [
    (LETTERS, (contains("ab"), never("bb")), ()),
    (LETTERS, (length("tokens", "<=", 2), contains("a")), ()),
    (LETTERS, (finished(), ends_with("b")), ()),
    (TWO_ENDS, (contains("a"),), ("\n",)),
    (TWO_ENDS, (length("tokens", "==", 1),), ("\n",)),
]


@pytest.mark.parametrize("case", CONSTRAINTS, ids=lambda case: repr(case[1]))
def test_constraints_weigh_what_satisfies_them(
    case: tuple[Vocab, tuple[Predicate, ...], tuple[str, ...]],
) -> None:
    vocab, predicates, stop = case
    max_tokens = 4
    site = compile_constraint(predicates, vocab, Stopping(stop), max_tokens)
    automaton = weighted_constraints(site)
    judge = judge_of(predicates, vocab, Stopping(stop), max_tokens)
    seen = 0
    for length_ in range(1, max_tokens + 1):
        for text in itertools.product(range(vocab.size), repeat=length_):
            if any(judge(text[:i]) is not None for i in range(1, length_)):
                continue
            verdict = judge(text)
            if verdict is None:
                continue
            seen += verdict
            expected = 0.0 if verdict else -math.inf
            assert automaton.log_weight_of(torch.tensor(text)) == expected, text
    assert seen


def test_several_automata_of_a_site_are_one() -> None:
    predicates = (contains("abab"), never("bb"))
    whole = weighted_constraints(compile_constraint(predicates, LETTERS, NO_STOPPING, 4))
    parts = compile_constraint(predicates, LETTERS, NO_STOPPING, 4, table_budget=56)
    assert [part.steps.kind for part in parts.parts] == ["table", "table"]
    apart = weighted_constraints(parts)
    for text in texts(whole, 4):
        tokens = torch.tensor(text)
        assert apart.log_weight_of(tokens) == whole.log_weight_of(tokens)
    on_demand = compile_constraint(predicates, LETTERS, NO_STOPPING, 4, table_budget=40)
    with pytest.raises(AutomatonTooLarge, match="no table"):
        weighted_constraints(on_demand)


def test_sums_of_logs_lose_nothing_to_underflow() -> None:
    random = Random(1)
    left = torch.tensor([[random.gauss(0, 900) for _ in range(7)] for _ in range(5)]).double()
    right = torch.tensor([[random.gauss(0, 900) for _ in range(6)] for _ in range(7)]).double()
    left[0, :6], left[1] = -math.inf, -math.inf
    right[6, 0] = -math.inf
    expected = torch.logsumexp(left[:, :, None] + right[None], 1)
    torch.testing.assert_close(log_matmul(left, right), expected, rtol=1e-14, atol=0)
    group = torch.tensor([0, 2, 2, 0, 2, 0, 0])
    found = log_sum_groups(left, group, 4)
    assert bool((found[:, [1, 3]] == -math.inf).all())
    torch.testing.assert_close(found[:, 2], torch.logsumexp(left[:, group == 2], 1))


def test_tables_that_do_not_fit_are_refused() -> None:
    random = Random(3)
    prior, automaton = priors(random, 4)[0], any_automaton(random, 4, 3)
    size = 8 * 4 * prior.num_states * automaton.num_states
    backward(prior, automaton, 3, budget=size)
    with pytest.raises(TablesTooLarge) as refused:
        backward(prior, automaton, 3, budget=size - 1)
    assert refused.value.num_bytes == size
    halved = backward(prior, automaton, 3, budget=size // 2, keep=torch.float32)
    assert halved.log_value.dtype == torch.float32
    with pytest.raises(AutomatonTooLarge):
        product([automaton, automaton], most_entries=0)


@pytest.mark.parametrize("seed", range(10))
def test_the_summary_is_that_of_all_texts(seed: int) -> None:
    random = Random(300 + seed)
    vocab, max_tokens = random.randint(2, 4), random.randint(1, 4)
    automaton = any_automaton(random, vocab, max_tokens)
    for prior in priors(random, vocab):
        tables = backward(prior, automaton, max_tokens)
        every = list(texts(automaton, max_tokens))
        weights = [automaton.log_weight_of(torch.tensor(text)) for text in every]
        log_priors = [log_prior(prior, text) for text in every]
        weigh = torch.tensor(weights, dtype=torch.float64)
        joint = weigh + torch.tensor(log_priors, dtype=torch.float64)
        total = torch.logsumexp(joint, 0)
        if total == -math.inf:
            continue
        probs = (joint - total).exp()
        tokens = torch.zeros(max_tokens, vocab, dtype=torch.float64)
        for text, prob in zip(every, probs.tolist(), strict=True):
            for place, token in enumerate(text):
                tokens[place, token] += prob
        found = summary(tables)
        torch.testing.assert_close(found.tokens, tokens, rtol=0, atol=EXACT)
        alive = probs > 0
        mean = float((probs[alive] * weigh[alive]).sum())
        assert found.log_weight == pytest.approx(mean, abs=EXACT)
        assert found.kl_to_prior == pytest.approx(mean - float(total), abs=EXACT)
        if isinstance(prior, KnownStates):
            entropy = -float((probs[alive] * probs[alive].log()).sum())
            assert found.entropy == pytest.approx(entropy, abs=EXACT)
        else:
            assert found.entropy is None


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_those_of_the_posterior(seed: int) -> None:
    """Every text that is drawn has its own probability, and as often as that says.

    A chi-square test at 1e-4 for each of nine priors: false alarms in 1 of 1,000 runs of the file.
    """
    random = Random(400 + seed)
    vocab, max_tokens, size = 3, 3, 4000
    automaton = any_automaton(random, vocab, max_tokens)
    while evidence(priors(random, vocab)[0], automaton, max_tokens) == -math.inf:
        automaton = any_automaton(random, vocab, max_tokens)
    for prior in priors(random, vocab):
        tables = backward(prior, automaton, max_tokens)
        total = evidence(prior, automaton, max_tokens)
        if total == -math.inf:
            continue
        stream = Stream.from_seed(seed)
        drawn = draw(tables, size, lambda rows, step, s=stream: s.uniforms(rows, step))
        counts: dict[tuple[int, ...], int] = {}
        for row, length_, log_prob in zip(
            drawn.tokens.tolist(), drawn.lengths.tolist(), drawn.log_prob.tolist(), strict=True
        ):
            text = tuple(row[:length_])
            weight = automaton.log_weight_of(torch.tensor(text))
            expected = log_prior(prior, text) + weight - total
            assert log_prob == pytest.approx(expected, abs=EXACT)
            counts[text] = counts.get(text, 0) + 1
        expected_counts = {text: 0.0 for text in texts(automaton, max_tokens)}
        for text in expected_counts:
            weight = automaton.log_weight_of(torch.tensor(text))
            expected_counts[text] = size * math.exp(log_prior(prior, text) + weight - total)
        common = {text for text, count in expected_counts.items() if count >= 5}
        rest = size - sum(expected_counts[text] for text in common)
        cells = [(counts.get(text, 0), expected_counts[text]) for text in common]
        if rest > 5:
            cells.append((sum(n for text, n in counts.items() if text not in common), rest))
        if len(cells) > 1:
            statistic = sum((n - e) ** 2 / e for n, e in cells)
            assert stats.chi2.sf(statistic, len(cells) - 1) > 1e-4


RUNNING = ["a", "ab|b", "aa", r"\bab", "a+", "(?:ab)+b?", r"a\b", "aba|b"]


@pytest.mark.parametrize("pattern", RUNNING)
def test_what_counts_as_it_goes_counts_as_findall(pattern: str) -> None:
    running = running_count(pattern, False)
    for size in range(7):
        for chars in itertools.product("ab ", repeat=size):
            text = "".join(chars)
            assert running.count(text) == len(re.findall(pattern, text)), text


WORDS = ["good", "a-b", "don't", "ab", "i", "x_y", "_q", "q_", "straße", "kå", "it"]
PIECES = [*"godabxyq ixy.7-_'’é", "good", "don't", "Good", "İ", "I", "K", "Å", "ß", "ẞ", "Σ", "kå"]


def test_words_of_a_lexicon_are_counted_as_they_come() -> None:
    """By the definition of the source, on texts of pieces of words and of what joins them."""
    random = Random(3)
    for _ in range(70):
        words = tuple(random.sample(WORDS, 5))
        ignore_case = random.random() < 0.6
        counted = LexiconSource(dict.fromkeys(words, 1.0), "sum", ignore_case)
        running = running_words(words, ignore_case, 1000)
        capped = running.capped((0, 1, 2), 1000)
        for _ in range(8):
            text = "".join(random.choices(PIECES, k=random.randint(0, 9)))
            (score,) = counted.scores([[text]], None)
            assert running.count(text) == score, (words, text, ignore_case)
            state = 0
            for char in text:
                state = capped.step(state, char)
            assert capped.outputs[state] == min(score, 2)
    with pytest.raises(ValueError, match="sigma"):
        running_words(("σοφός",), True, 1000)
    with pytest.raises(TooManyStates):
        running_words(WORDS, True, 10)


def test_a_count_that_may_be_taken_back_is_refused() -> None:
    with pytest.raises(TooManyStates):
        running_count("a[ab]*c|a", False, budget=200)


@pytest.mark.parametrize("pattern", ["a", "ab|b", r"\bab", "a+"])
@pytest.mark.parametrize("stop", [(), ("b ",)])
def test_a_count_is_weighed_token_by_token(pattern: str, stop: tuple[str, ...]) -> None:
    running = running_count(pattern, False)
    modulus = 2 * running.most_change(2 + 4) + 1
    steps = compile_labels(running.cyclic(modulus), LETTERS, Stopping(stop))
    plain = weighted_constraints(compile_constraint((), LETTERS, Stopping(stop or ("\0",)), 4))
    automaton = product([counted(steps, modulus, 0.7), plain])
    # States that differ in the count alone are one.
    assert automaton.num_states < 20
    for text in texts(automaton, 4):
        tokens = [token for token in text if token not in LETTERS.eos_ids]
        joined = b"".join(LETTERS.token_bytes[token] for token in tokens).decode()
        cut, _ = Stopping(stop).cut(joined)
        expected = 0.7 * len(re.findall(pattern, cut))
        assert automaton.log_weight_of(torch.tensor(text)) == pytest.approx(expected, abs=EXACT)
