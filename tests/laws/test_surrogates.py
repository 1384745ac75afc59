"""Surrogates: sparse n-gram models against their definition in plain Python, and what they learn.

The referee counts with dictionaries and knows nothing of tables.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import TablesTooLarge, backward
from lmppl.finite.columns import column_levels
from lmppl.lm.histories import plain_vocabulary
from lmppl.lm.markov import MarkovLM
from lmppl.surrogates import Budget, Sampling, make_surrogate
from lmppl.surrogates.backoff import BackoffLM
from lmppl.surrogates.counting import count_contexts
from lmppl.surrogates.counts import NOTHING, ContextCounts, Corpus
from lmppl.surrogates.drawing import draw_sample
from lmppl.surrogates.fitting import nats_per_token
from lmppl.surrogates.smoothing import Smoothed, smoothed
from tests.laws.test_finite import any_automaton, texts

EXACT = 1e-11
VOCAB = 4
MARK = VOCAB
DISCOUNTS = (0.7, 0.4, 0.9)

Context = tuple[int, ...]


def corpus(random: Random, lead: int, num: int = 60) -> Corpus:
    """Texts of up to 6 tokens of no simple law after three prompts; token 3 ends a text."""
    prompts: list[Context] = [(), (1,), (2, 0, 1)]
    found = []
    for prompt in prompts:
        rows = np.full((num // 3, 6), NOTHING, np.int64)
        for row in rows:
            older, last = 0, prompt[-1] if prompt else 0
            for column in range(6):
                choices = [(older + last) % 3, last, random.randrange(3), 3 if column else 0]
                older, last = last, random.choice(choices)
                row[column] = last
                if last == 3:
                    break
        found.append(rows)
    return Corpus.of(VOCAB, prompts, found, lead)


class Referee:
    """Interpolated Kneser–Ney for a given set of contexts, by its definition, with dictionaries."""

    def __init__(self, texts_: Corpus, contexts: set[Context], discounts: tuple[float, ...]):
        self.contexts = contexts
        self.discounts = discounts
        self.visits: list[tuple[Context, int]] = []
        for row in texts_.rows.tolist():
            for place in range(texts_.lead, len(row)):
                if row[place] == NOTHING:
                    break
                before = [token for token in row[:place] if token != NOTHING]
                self.visits.append((self.longest(tuple(before)), row[place]))
        self.counts: dict[Context, Counter[int]] = defaultdict(Counter)
        for context, token in self.visits:
            self.counts[context][token] += 1
        # What a longer context gives up comes to the one without its oldest token.
        for context in sorted(contexts, key=len, reverse=True):
            if context:
                for token, count in self.counts[context].items():
                    given = min(count, discounts[len(context) - 1])
                    self.counts[context[1:]][token] += given  # type: ignore[assignment]

    def longest(self, tokens: Context) -> Context:
        return next(tokens[i:] for i in range(len(tokens) + 1) if tokens[i:] in self.contexts)

    def prob(self, context: Context, token: int) -> float:
        counts = self.counts[context]
        total = sum(counts.values())
        if not context:
            distinct = sum(count > 0 for count in counts.values())
            return (counts[token] + distinct / VOCAB) / (total + distinct)
        discount = self.discounts[len(context) - 1]
        kept = {each: max(count - discount, 0.0) for each, count in counts.items()}
        rest = 1.0 - sum(kept.values()) / total
        return kept.get(token, 0.0) / total + rest * self.prob(context[1:], token)


def contexts_of(counts: ContextCounts) -> list[Context]:
    """Every context as its tokens, in the order of their numbers."""
    found: list[Context] = [()]
    for parent, oldest in zip(counts.parent[1:], counts.oldest[1:], strict=True):
        found.append((int(oldest), *found[parent]))
    return found


def model_of(
    seed: int, order: int, states: int = 10**6
) -> tuple[BackoffLM, Referee, list[Context], ContextCounts, Smoothed]:
    texts_ = corpus(Random(seed), order - 1)
    counts = count_contexts(texts_, order, Budget(states, 10**6))
    smooth = smoothed(counts, DISCOUNTS[: order - 1])
    contexts = contexts_of(counts)
    referee = Referee(texts_, set(contexts), DISCOUNTS)
    return BackoffLM.of(counts, smooth), referee, contexts, counts, smooth


CASES = [(1, 2, 10**6), (2, 3, 10**6), (3, 3, 9), (4, 4, 10**6), (5, 4, 20), (6, 3, 1), (7, 1, 9)]


@pytest.mark.parametrize(("seed", "order", "states"), CASES)
def test_probabilities_are_those_of_the_definition(seed: int, order: int, states: int) -> None:
    model, referee, contexts, _, _ = model_of(seed, order, states)
    assert 1 <= len(contexts) <= states
    everywhere = torch.arange(model.num_states)
    log_probs = model.log_probs(everywhere)
    assert bool(torch.isfinite(log_probs).all())
    torch.testing.assert_close(
        log_probs.logsumexp(-1), torch.zeros(len(contexts)).double(), rtol=0, atol=EXACT
    )
    for state, context in enumerate(contexts):
        for token in range(VOCAB):
            expected = math.log(referee.prob(context, token))
            assert float(log_probs[state, token]) == pytest.approx(expected, abs=EXACT)
    tokens = torch.arange(VOCAB).repeat(len(contexts))
    single = model.log_prob_of(everywhere.repeat_interleave(VOCAB), tokens)
    torch.testing.assert_close(single, log_probs.flatten(), rtol=0, atol=EXACT)


@pytest.mark.parametrize(("seed", "order", "states"), CASES)
def test_the_state_is_the_longest_context_that_is_kept(seed: int, order: int, states: int) -> None:
    model, referee, contexts, _, _ = model_of(seed, order, states)
    random = Random(seed)
    for prompt in [(), (1,), (2, 0, 1), (3, 3), (0, 1, 2, 0)]:
        belief = model.begin([prompt])
        told: Context = (MARK, *prompt)
        assert contexts[int(belief)] == referee.longest(told)
        for _ in range(8):
            # What never followed a context leads to where a shorter one leads.
            token = random.randrange(VOCAB)
            followed = token in referee.counts[contexts[int(belief)]]
            belief = model.advance(belief, torch.tensor([token]))
            told = (*told, token)
            if followed:
                assert contexts[int(belief)] == referee.longest(told)
            assert contexts[int(belief)] == told[len(told) - len(contexts[int(belief)]) :]


@pytest.mark.parametrize("seed", range(8))
def test_backward_sums_all_texts(seed: int) -> None:
    random = Random(seed)
    model, _, _, _, _ = model_of(seed, 2 + seed % 3, 12 if seed % 2 else 10**6)
    max_tokens = 3
    automaton = any_automaton(random, VOCAB, max_tokens)
    tables = backward(model, automaton, max_tokens)
    prompts: list[Context] = [(), (2, 0, 1), (3, 3)]
    for prompt, found in zip(prompts, tables.log_evidence(prompts).tolist(), strict=True):
        assert found == pytest.approx(evidence(model, automaton, max_tokens, prompt), abs=1e-9)


@pytest.mark.parametrize("exponent", [0.5, 2.0, 4.0])
def test_powers_of_texts_sum_to_those_of_all_texts(exponent: float) -> None:
    for seed in range(3):
        model, _, _, _, _ = model_of(seed, 3, 12 if seed % 2 else 10**6)
        automaton = any_automaton(Random(seed), VOCAB, 3)
        (found,) = backward(model.powered(exponent), automaton, 3).log_evidence([(2, 0)]).tolist()
        assert found == pytest.approx(evidence(model, automaton, 3, (2, 0), exponent), abs=1e-9)
        # The power of a sum is not the sum of powers.
        careless = replace(model.powered(exponent), own=model.own**exponent)
        (wrong,) = backward(careless, automaton, 3).log_evidence([(2, 0)]).tolist()
        assert found == -math.inf or abs(wrong - found) > 1e-6
    with pytest.raises(ValueError, match="negative"):
        model.powered(-1.0)


def evidence(
    model: BackoffLM,
    automaton: WeightedAutomaton,
    max_tokens: int,
    prompt: Context,
    exponent: float = 1.0,
) -> float:
    """Over all texts, a token at a time, their probabilities to a power."""
    states = torch.arange(model.num_states).repeat_interleave(VOCAB)
    after = model.advance(states, torch.arange(VOCAB).repeat(model.num_states)).view(-1, VOCAB)
    leads, log_probs = after.tolist(), model.log_probs(torch.arange(model.num_states)).tolist()
    terms = []
    for text in texts(automaton, max_tokens):
        state, total = int(model.begin([prompt])), 0.0
        for token in text:
            total += exponent * log_probs[state][token]
            state = leads[state][token]
        terms.append(total + automaton.log_weight_of(torch.tensor(text)))
    return float(torch.logsumexp(torch.tensor(terms, dtype=torch.float64), 0))


@pytest.mark.parametrize("fault", ["taken", "after", "rest"])
def test_a_wrong_step_is_noticed(fault: str) -> None:
    """That what a shorter context has too much is taken away, and where tokens lead, matters."""
    model, _, _, _, _ = model_of(3, 3)
    random = Random(3)
    automaton = any_automaton(random, VOCAB, 3)
    while bool(automaton.ended.any()) or evidence(model, automaton, 3, ()) == -math.inf:
        automaton = any_automaton(random, VOCAB, 3)
    truth = evidence(model, automaton, 3, ())
    wrong = {
        "taken": replace(model, shorter=torch.zeros_like(model.shorter)),
        "after": replace(model, after=model.after_shorter),
        "rest": replace(model, rest=model.rest * 0.9),
    }[fault]
    (found,) = backward(wrong, automaton, 3).log_evidence([()]).tolist()
    assert abs(found - truth) > 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_a_token_ahead_is_the_table_before(seed: int) -> None:
    random = Random(100 + seed)
    model, _, _, _, _ = model_of(seed, 2 + seed % 3)
    automaton = any_automaton(random, VOCAB, 3)
    tables = backward(model, automaton, 3)
    open_states = (~automaton.ended).nonzero().squeeze(-1)
    states = open_states.repeat(model.num_states)
    beliefs = torch.arange(model.num_states).repeat_interleave(len(open_states))
    for remaining in range(1, 4):
        ahead = tables.log_ahead(beliefs, states, remaining)
        found = torch.logsumexp(model.log_probs(beliefs) + ahead, -1)
        expected = model.log_expected(beliefs, tables.log_value[remaining], states)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        # A row says the same alone as among others, in any order.
        chosen = torch.tensor(random.sample(range(len(states)), 5))
        alone = [tables.log_ahead(beliefs[i : i + 1], states[i : i + 1], remaining) for i in chosen]
        torch.testing.assert_close(torch.cat(alone), ahead[chosen], rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_columns_are_those_of_whole_tables(seed: int) -> None:
    """Where nothing is left out tables of some states say what those of all say, of powers too."""
    random = Random(200 + seed)
    model, _, _, _, _ = model_of(seed, 2 + seed % 3)
    model = model.powered((1.0, 2.5, 0.5)[seed % 3])
    automaton = any_automaton(random, VOCAB, 3)
    whole = backward(model, automaton, 3).log_value
    log_probs = torch.full((VOCAB,), -math.log(VOCAB)).double()
    found = column_levels(model, automaton, 3, log_probs, budget=10**6, left_out=0.0)
    assert len(found) == 4
    reached = torch.zeros(automaton.num_states, dtype=torch.bool)
    reached[0] = True
    for remaining in (3, 2, 1, 0):
        # What no text is in may be said anything of.
        torch.testing.assert_close(
            found[remaining][:, reached].double(), whole[remaining][:, reached], rtol=0, atol=1e-5
        )
        assert found.highest()[remaining] == float(found[remaining].amax())
        after = automaton.step[reached & ~automaton.ended][:, automaton.token_class]
        reached = torch.zeros_like(reached)
        reached[after[after >= 0]] = True


def test_columns_that_are_left_out_are_guessed_from_shares() -> None:
    """They say something of every state, and what they say depends on what is left out."""
    random = Random(7)
    model, _, _, _, _ = model_of(1, 3)
    log_probs = torch.full((VOCAB,), -math.log(VOCAB)).double()
    errors = []
    for _ in range(10):
        automaton = any_automaton(random, VOCAB, 3)
        whole = backward(model, automaton, 3).log_value[3][:, 0]
        if bool(automaton.ended[0]) or float(whole.amax()) == -math.inf:
            continue
        for left_out in (0.0, 0.5):
            found = column_levels(model, automaton, 3, log_probs, budget=10**6, left_out=left_out)
            assert not bool(torch.isnan(found[2]).any())
            errors.append(float((found[3][:, 0] - whole).abs().amax()))
    exact, guessed = errors[::2], errors[1::2]
    assert len(exact) > 3 and max(exact) < 1e-5 < 1e-2 < max(guessed) < 5.0


def test_tables_of_columns_have_a_budget() -> None:
    model, _, _, _, _ = model_of(1, 3)
    automaton = any_automaton(Random(3), VOCAB, 3)
    log_probs = torch.full((VOCAB,), -math.log(VOCAB)).double()
    with pytest.raises(TablesTooLarge):
        column_levels(model, automaton, 3, log_probs, budget=1)


@pytest.mark.parametrize("longest", [0, 1, 2])
def test_a_shorter_model_is_that_of_counts_after_shorter_contexts(longest: int) -> None:
    _, _, _, counts, _ = model_of(2, 3)
    whole = corpus(Random(2), 2)
    direct = count_contexts(whole, longest + 1, Budget(10**6, 10**6))
    cut = counts.shorter(longest)
    for name in ("parent", "oldest", "first", "token", "count"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(direct, name))
    assert BackoffLM.of(cut, smoothed(cut, DISCOUNTS[:longest])).num_states == cut.num_contexts


@pytest.mark.parametrize("states", [10**6, 14, 6])
def test_tokens_come_as_often_as_they_did(states: int) -> None:
    """What is expected of each token, summed over the corpus, is its count, whatever was pruned;
    but for the little that the empty context gives to all tokens."""
    _, referee, _, counts, smooth = model_of(2, 3, states)
    expected = np.zeros(VOCAB)
    for context, _ in referee.visits:
        expected += [referee.prob(context, token) for token in range(VOCAB)]
    found = np.bincount([token for _, token in referee.visits], minlength=VOCAB)
    returned = np.array([referee.counts[()][token] for token in range(VOCAB)])
    levelled = returned.sum() * smooth.root - returned
    np.testing.assert_allclose(expected, found + levelled, atol=1e-9)
    # Counting anew in the empty context, as plain back-off does, would not give that.
    plain = counts.count[: counts.first[1]] / counts.count[: counts.first[1]].sum()
    assert np.abs(returned.sum() * (plain - smooth.root)).max() > 0.5


def chain(random: Random, size: int) -> MarkovLM:
    weights = torch.tensor([[random.random() ** 2 + 0.02 for _ in range(size)] for _ in "x" * 8])
    weights = weights.double()
    table = (weights / weights.sum(-1, keepdim=True)).log()
    vocab = plain_vocabulary([chr(97 + i) for i in range(size)], size - 1)
    return MarkovLM("chain", vocab, table[-1], table[:size])


def test_the_surrogate_of_a_markov_chain_comes_to_it() -> None:
    """Each probability within 5 standard errors and what the discount moves: 42 comparisons, so
    a right surrogate fails once in 40,000 seeds; and this seed is fixed."""
    size = 6
    lm = chain(Random(8), size)
    made = make_surrogate(lm, [""], Sampling(12_000, 12))
    learned = made.model
    sample = draw_sample(lm, [""], Sampling(12_000, 12))
    seen = Counter(int(v) for row in sample.texts[0] for v in row[:-1] if 0 <= v < size - 1)
    start = learned.begin([()])
    for token in (None, *range(size - 1)):
        belief = start if token is None else torch.tensor([learned.state_after([token])])
        truth = lm._table[-1 if token is None else token].exp()
        found = learned.log_probs(belief)[0].exp()
        visits = 12_000 if token is None else seen[token]
        error = 5 * (truth * (1 - truth) / visits).sqrt() + 2 * size / visits
        assert bool(((found - truth).abs() < error).all()), token
    assert int(learned.level.max()) == 1
    # It is as good as the chain itself, within what 1,200 texts held out can tell.
    assert abs(made.report.held_out - made.report.entropy) < 0.05
    wrong = chain(Random(9), size)._table[0].exp()
    assert not bool(((wrong - lm._table[0].exp()).abs() < 0.02).all())


def test_texts_are_those_of_the_language_model() -> None:
    """First tokens within 5 standard errors; an end token ends a text, and nothing else does."""
    size = 4
    lm = chain(Random(4), size)
    sample = draw_sample(lm, [""], Sampling(4_000, 5, seed=1))
    (rows,) = sample.texts
    truth = lm._table[-1].exp().numpy()
    found = np.bincount(rows[:, 0], minlength=size) / len(rows)
    assert (np.abs(found - truth) < 5 * np.sqrt(truth * (1 - truth) / len(rows))).all()
    for row in rows[:200].tolist():
        length = sum(token != NOTHING for token in row)
        assert all(token == NOTHING for token in row[length:])
        assert size - 1 not in row[: length - 1]
        assert length == 5 or row[length - 1] == size - 1
    lengths = torch.tensor((rows != NOTHING).sum(1))
    scored = lm.token_log_probs([""] * len(rows), torch.tensor(rows).clamp_min(0), lengths)
    assert sample.log_prob == pytest.approx(float(scored.sum()), rel=1e-9)
    assert sample.num_tokens == int(lengths.sum())


def test_a_budget_bounds_the_tables_and_costs_the_best_contexts_last() -> None:
    texts_ = corpus(Random(1), 2)
    held = corpus(Random(2), 2)
    losses = []
    for states in (1, 5, 10, 30):
        counts = count_contexts(texts_, 3, Budget(states, 10**6))
        assert counts.num_contexts <= states
        assert counts.is_closed
        model = BackoffLM.of(counts, smoothed(counts, (0.7, 0.7)))
        losses.append(nats_per_token(model, held))
    assert losses[-1] < losses[0]
    small = count_contexts(texts_, 3, Budget(10**6, 20))
    assert small.num_arcs <= 20


def everything(random: Random) -> tuple[WeightedAutomaton, torch.Tensor]:
    """An automaton that takes every text, and corrections of its moves, which are no small ones."""
    step = torch.tensor([[random.randrange(3) for _ in range(VOCAB)] for _ in range(3)])
    automaton = WeightedAutomaton(
        step=step,
        log_weight=None,
        token_class=torch.arange(VOCAB),
        ended=torch.zeros(3, dtype=torch.bool),
        log_final=torch.zeros(1, 3, dtype=torch.float64),
        log_token=None,
    )
    correction = torch.tensor([[random.gauss(0.0, 3.0) for _ in range(VOCAB)] for _ in range(3)])
    return automaton, correction.double()


def test_corrected_tokens_are_as_likely_together_as_they_were() -> None:
    """What takes every text is believed to be met, and a state is reached as by definition."""
    model, _, contexts, _, _ = model_of(2, 3)
    automaton, correction = everything(Random(4))
    log_probs = model.root.log()
    whole = backward(model, automaton, 5, correction=correction)
    assert float(whole.log_value.abs().max()) < EXACT
    some = column_levels(
        model, automaton, 5, log_probs, budget=1 << 20, left_out=0.0, correction=correction
    )
    assert max(float(values.abs().max()) for values in some.values) < 1e-5
    heavier = replace(automaton, log_weight=correction)
    assert float(backward(model, heavier, 5).log_value.abs().max()) > 1.0
    # One token to go, and only state 0 is wanted.
    final = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64)
    wanted = backward(model, replace(automaton, log_final=final), 1, correction=correction)
    for state in range(len(contexts)):
        tilted = model.log_probs(torch.tensor([state])).exp() * correction.exp()
        there = (tilted * (automaton.step == 0)).sum(1) / tilted.sum(1)
        torch.testing.assert_close(wanted.log_value[1, state].exp(), there, rtol=0, atol=EXACT)
