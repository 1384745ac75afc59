"""Text sites as Pyro distributions, and the corrections that guides of tables train."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch

import lmppl
from lmppl.automata.stopping import Stopping
from lmppl.density import TextStage
from lmppl.lowering import TokenSequences
from lmppl.lowering.corrections import RecurrentCorrection, TableCorrection, make_correction


def _language_model() -> lmppl.FunctionLM:
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]]).log()

    def next_log_probs(prefixes: torch.Tensor) -> torch.Tensor:
        return rows[prefixes[:, -1]] if prefixes.shape[1] else rows[:1].expand(len(prefixes), -1)

    return lmppl.FunctionLM(tokens=["a", "b", "<eos>"], eos="<eos>", next_log_probs=next_log_probs)


def _stage(**options: object) -> TextStage:
    return TextStage("text", _language_model(), 4, **options)  # type: ignore[arg-type]


def _every_sequence(vocab: int, length: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(vocab), repeat=length)))


@pytest.mark.parametrize(
    "stopping",
    [
        Stopping(),
        Stopping(("ba",)),
        Stopping(("b", "aa")),
        Stopping(after=("ba",)),
        Stopping(("b",), ("aa",), "(ab)+"),
    ],
)
def test_a_text_distribution_sums_to_one_over_all_token_sequences(stopping: Stopping) -> None:
    every = _every_sequence(3, 4)
    log_prob = TokenSequences(_stage(stopping=stopping), [""]).log_prob(every)
    assert log_prob.logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


def test_a_sequence_with_something_after_its_end_has_no_probability() -> None:
    texts = TokenSequences(_stage(), [""])
    well, badly = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])
    assert texts.log_prob(badly).item() == -torch.inf
    expected = torch.tensor([0.5, 0.3, 0.3]).double().log().sum()
    assert texts.log_prob(well).item() == pytest.approx(expected.item(), rel=1e-6)


def test_draws_are_padded_after_their_end() -> None:
    pyro.set_rng_seed(0)
    draws = TokenSequences(_stage(), [""] * 50).sample()
    assert draws.shape == (50, 4)
    after_end = (draws == 2).cumsum(-1) > 0
    assert bool((draws[after_end] == 2).all())
    assert bool(after_end.any()) and not bool(after_end.all())


def test_draws_follow_the_seed_of_pyro_and_take_one_number_of_it() -> None:
    texts = TokenSequences(_stage(), [""] * 20)
    pyro.set_rng_seed(3)
    first = texts.sample()
    after = torch.rand(())
    pyro.set_rng_seed(3)
    second = texts.sample()
    pyro.set_rng_seed(3)
    torch.randint(1 << 62, ())
    assert torch.equal(first, second)
    assert torch.rand(()) == after
    assert not torch.equal(first, texts.sample())


def test_elements_of_an_expanded_batch_are_drawn_independently() -> None:
    pyro.set_rng_seed(1)
    texts = TokenSequences(_stage(), [""]).expand([30, 1])
    draws = texts.sample(torch.Size([2]))
    assert draws.shape == (2, 30, 1, 4)
    assert len({tuple(row) for row in draws.reshape(60, 4).tolist()}) > 10
    assert texts.log_prob(draws).shape == (2, 30, 1)


def test_drawn_texts_have_the_frequencies_that_their_log_prob_says() -> None:
    pyro.set_rng_seed(2)
    num_draws = 20_000
    texts = TokenSequences(_stage(stopping=Stopping(("ba",))), [""])
    draws = texts.expand([num_draws]).sample()
    every = _every_sequence(3, 4)
    probs = texts.log_prob(every).exp()
    powers = 3 ** torch.arange(3, -1, -1)
    counts = torch.bincount((draws * powers).sum(-1), minlength=81)
    likely = probs * num_draws >= 10
    deviation = (counts - num_draws * probs)[likely] / (num_draws * probs * (1 - probs)).sqrt()[
        likely
    ]
    assert bool((counts[probs == 0] == 0).all())
    # About 40 cells: a false alarm once in 20,000 runs.
    assert deviation.abs().max().item() < 5.0


def test_a_table_has_a_logit_for_every_prefix() -> None:
    table = TableCorrection(2, 3, 3)
    with torch.no_grad():
        table.logits.copy_(torch.arange(table.logits.numel()).reshape_as(table.logits))
    seen = set()
    for context in range(2):
        for length in range(3):
            for prefix in itertools.product(range(3), repeat=length):
                state = table.initial(torch.tensor([context]))
                for token in prefix:
                    state = table.advance(state, torch.tensor([token]))
                seen.add(tuple(table(state)[0].tolist()))
    assert len(seen) == 2 * (1 + 3 + 9)


def test_corrections_start_at_zero_and_are_tables_only_where_these_are_small() -> None:
    small, large = make_correction(1, 3, 5), make_correction(1, 50, 40)
    assert isinstance(small, TableCorrection)
    assert isinstance(large, RecurrentCorrection)
    for correction, vocab in ((small, 3), (large, 50)):
        state = correction.initial(torch.zeros(2, dtype=torch.long))
        state = correction.advance(state, torch.tensor([1, 2]))
        assert torch.equal(correction(state), torch.zeros_like(correction(state)))
        assert correction(state).shape == (2, vocab)
