"""Drawing, weighing and resampling, each against its definition."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats

from lmppl.rng import Stream
from lmppl.sequences import resampling
from lmppl.sequences.drawing import Warp, draw_tokens
from lmppl.sequences.resampling import (
    ssp_resample,
    stratified_resample,
    systematic_resample,
)
from lmppl.sequences.weights import effective_sample_size, log_mean_exp, normalise

STREAM = Stream.from_seed(20).child("tests")
NARROW, WIDE = 7, 5000  # below and above the width at which drawing searches in two levels


def random_logits(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    logits = 3.0 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    logits[:, 1] = -math.inf
    return logits


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_a_draw_is_the_inverse_of_the_cdf(vocab: int) -> None:
    logits = random_logits(40, vocab)
    uniforms = STREAM.uniforms(torch.arange(40))
    drawn = draw_tokens(logits, uniforms)
    cdf = logits.double().softmax(-1).cumsum(-1)
    at = drawn.tokens.unsqueeze(-1)
    upper = cdf.gather(1, at).squeeze(-1)
    lower = upper - logits.double().softmax(-1).gather(1, at).squeeze(-1)
    assert bool(((uniforms >= lower - 1e-6) & (uniforms <= upper + 1e-6)).all())


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_the_log_prob_of_a_draw_is_that_of_the_softmax(vocab: int) -> None:
    logits = random_logits(40, vocab)
    drawn = draw_tokens(logits, STREAM.uniforms(torch.arange(40)))
    expected = logits.double().log_softmax(-1).gather(1, drawn.tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(drawn.log_prob, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_masked_draws_stay_in_the_mask_and_know_its_mass(vocab: int) -> None:
    logits = random_logits(60, vocab)
    mask = torch.rand(60, vocab, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, 0] = True
    drawn = draw_tokens(logits, STREAM.uniforms(torch.arange(60)), mask=mask)
    assert bool(mask.gather(1, drawn.tokens.unsqueeze(-1)).all())
    expected = logits.double().log_softmax(-1).masked_fill(~mask, -math.inf).logsumexp(-1)
    torch.testing.assert_close(drawn.log_mass, expected, atol=1e-6, rtol=0)


def test_a_row_with_nothing_allowed_has_log_mass_minus_infinity() -> None:
    mask = torch.tensor([[True] * NARROW, [False] * NARROW])
    drawn = draw_tokens(random_logits(2, NARROW), torch.tensor([0.3, 0.3]).double(), mask=mask)
    assert drawn.log_mass[1] == -math.inf
    assert float(drawn.log_mass[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_multiply_the_probabilities(vocab: int, dtype: torch.dtype) -> None:
    logits, index = random_logits(30, vocab).to(dtype), torch.arange(60) % 30
    factors = 2.0 * torch.randn(60, vocab, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(60, vocab, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[:, 0] = True
    uniforms = STREAM.uniforms(torch.arange(60))
    drawn = draw_tokens(logits, uniforms, index=index, mask=mask, log_factors=factors)
    at = drawn.tokens.unsqueeze(-1)
    log_probs = logits.double()[index].log_softmax(-1)
    weighted = (log_probs + factors).masked_fill(~mask, -math.inf)
    cdf = weighted.softmax(-1).cumsum(-1).gather(1, at).squeeze(-1)
    own = weighted.softmax(-1).gather(1, at).squeeze(-1)
    assert bool(((uniforms >= cdf - own - 1e-5) & (uniforms <= cdf + 1e-5)).all())
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(drawn.log_prob, log_probs.gather(1, at).squeeze(-1), **close)
    torch.testing.assert_close(drawn.log_mass, weighted.logsumexp(-1), **close)
    assert drawn.log_ratio is not None
    torch.testing.assert_close(drawn.log_ratio, factors.gather(1, at).squeeze(-1).double())


def test_factors_that_are_a_mask_draw_as_the_mask_does() -> None:
    logits, uniforms = random_logits(60, NARROW), STREAM.uniforms(torch.arange(60))
    mask = torch.rand(60, NARROW, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0] = False
    one = draw_tokens(logits, uniforms, mask=mask)
    other = draw_tokens(logits, uniforms, log_factors=mask.double().log())
    alive = one.log_mass > -math.inf
    assert not alive[0] and other.log_mass[0] == -math.inf
    assert torch.equal(one.tokens[alive], other.tokens[alive])
    torch.testing.assert_close(one.log_mass, other.log_mass, atol=1e-6, rtol=0)


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_extreme_uniforms_never_reach_a_token_of_probability_zero(vocab: int) -> None:
    logits = torch.full((2, vocab), -math.inf)
    logits[:, 3] = 0.0
    drawn = draw_tokens(logits, torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64))
    assert drawn.tokens.tolist() == [3, 3]


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_rows_fanned_out_by_an_index_draw_as_if_they_were_copied(vocab: int) -> None:
    logits = random_logits(5, vocab)
    index = torch.tensor([0, 0, 3, 4, 3, 1])
    uniforms = STREAM.uniforms(torch.arange(6))
    shared = draw_tokens(logits, uniforms, index=index)
    copied = draw_tokens(logits[index], uniforms)
    assert torch.equal(shared.tokens, copied.tokens)
    assert torch.equal(shared.log_prob, copied.log_prob)


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
def test_draws_have_the_frequencies_of_the_softmax(vocab: int) -> None:
    """Pearson's chi-square over the six likeliest tokens and the rest, false alarm 1e-6."""
    num_draws = 40_000
    logits = random_logits(1, vocab)
    index = torch.zeros(num_draws, dtype=torch.long)
    drawn = draw_tokens(logits, STREAM.child("f").uniforms(torch.arange(num_draws)), index=index)
    probs = logits[0].double().softmax(-1)
    counts = torch.bincount(drawn.tokens, minlength=vocab).double()
    top = probs.topk(6).indices
    observed = torch.cat([counts[top], (num_draws - counts[top].sum()).view(1)])
    expected = torch.cat([probs[top], (1.0 - probs[top].sum()).clamp(min=1e-9).view(1)])
    keep = expected * num_draws > 5
    result = stats.chisquare(
        observed[keep].numpy(),
        (expected[keep] / expected[keep].sum() * observed[keep].sum()).numpy(),
    )
    assert result.pvalue > 1e-6


def test_temperature_divides_the_logits() -> None:
    logits = random_logits(3, NARROW)
    warped = Warp(temperature=0.5)(logits).log_softmax(-1)
    torch.testing.assert_close(warped, (2.0 * logits).log_softmax(-1))


def test_top_k_keeps_the_k_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    assert Warp(top_k=2)(logits).isfinite().tolist() == [[False, True, False, True]]


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert Warp(top_p=0.6)(logits).isfinite().tolist() == [[True, True, False, False]]
    assert Warp(top_p=0.4)(logits).isfinite().tolist() == [[True, False, False, False]]


def test_uniforms_do_not_depend_on_the_other_rows() -> None:
    whole = STREAM.uniforms(torch.arange(100), 3)
    assert torch.equal(whole[40:60], STREAM.uniforms(torch.arange(40, 60), 3))


def test_uniforms_are_uniform_and_unrelated_across_rows_steps_and_names() -> None:
    """Kolmogorov–Smirnov and correlation, false alarm 1e-6 each."""
    rows = torch.arange(50_000)
    columns = [
        STREAM.uniforms(rows, 0),
        STREAM.uniforms(rows, 1),
        STREAM.uniforms(rows + 1, 0),
        STREAM.child("other").uniforms(rows, 0),
    ]
    for column in columns:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-6
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(4)
    assert float(correlation.abs().max()) < 4.9 / math.sqrt(50_000)


@pytest.mark.parametrize(
    "log_weights",
    [[0.0, 1.0, 2.0, -1.0], [0.0, -math.inf, -3.0, 5.0], [-math.inf, 0.0, 0.0, -math.inf]],
)
def test_offspring_of_systematic_resampling_average_to_the_weights(
    log_weights: list[float],
) -> None:
    """E offspring = N·W exactly, by integrating over a fine grid of the one uniform."""
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    weights = torch.tensor(log_weights, dtype=torch.float64)
    ancestors = systematic_resample(weights.expand(20_000, -1), grid)
    counts = torch.stack([(ancestors == i).sum(-1) for i in range(4)], -1).double().mean(0)
    torch.testing.assert_close(counts, 4.0 * weights.softmax(-1), atol=3e-4, rtol=0)
    assert bool((counts[weights == -math.inf] == 0).all())


def test_a_resampler_that_rounds_its_offspring_is_rejected_by_the_same_criterion() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64).softmax(-1)
    rounded = (4.0 * weights).round()
    assert float((rounded - 4.0 * weights).abs().max()) > 3e-4


Resample = Callable[..., torch.Tensor]
every_scheme = pytest.mark.parametrize(
    "resample", [systematic_resample, stratified_resample, ssp_resample], ids=lambda f: f.__name__
)
LOG_WEIGHTS = (0.0, -1.0, 2.0, -math.inf, 0.5, 0.5, -30.0)


def points_for(resample: Resample, num_groups: int, size: int, seed: int = 0) -> torch.Tensor:
    shape = (num_groups,) if resample is systematic_resample else (num_groups, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def is_right_on_average(shared: Path, resample: Resample) -> bool:
    """The criterion of the oracle, at a false-alarm rate of 1e-4: E offspring = N·W, of all N."""
    sys.path.insert(0, str(shared / "oracle"))
    import checks

    weights = torch.tensor(LOG_WEIGHTS, dtype=torch.float64)
    found = resample(weights.repeat(3000, 1), points_for(resample, 3000, len(weights)))
    rows = iter(found.numpy())
    result = checks.check_resampler(lambda *_: next(rows), weights.numpy(), None, n=3000)
    return bool(result["ok"])


@every_scheme
def test_every_scheme_of_resampling_agrees_with_the_oracles_criterion(
    shared: Path, resample: Resample
) -> None:
    assert is_right_on_average(shared, resample)


def test_a_sampling_process_that_rounds_the_wrong_particle_is_rejected(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = resampling._rounded
    monkeypatch.setattr(
        resampling,
        "_rounded",
        lambda counts, fractions, uniforms, size: right(
            counts, fractions, [1.0 - (1.0 - u) ** 2 for u in uniforms], size
        ),
    )
    assert not is_right_on_average(shared, ssp_resample)


@every_scheme
@pytest.mark.parametrize("size", [1, 4, 7, 12])
def test_offspring_are_as_many_as_asked_for_and_close_to_what_is_expected(
    resample: Resample, size: int
) -> None:
    weights = torch.tensor(LOG_WEIGHTS, dtype=torch.float64).repeat(300, 1)
    ancestors = resample(weights, points_for(resample, 300, max(size, 7)), size)
    assert ancestors.shape == (300, size)
    assert bool((ancestors.diff(dim=-1) >= 0).all())
    counts = torch.stack([(ancestors == number).sum(-1) for number in range(7)], -1)
    off = (counts - size * weights.softmax(-1)).abs()
    assert float(off.max()) < (2.0 if resample is stratified_resample else 1.0) + 1e-9


def test_the_mean_of_dead_weights_is_minus_infinity_not_nan() -> None:
    dead = torch.full((3,), -math.inf)
    assert log_mean_exp(dead) == -math.inf
    assert effective_sample_size(dead) == 0.0
    assert bool((normalise(dead) == -math.inf).all())


def test_effective_sample_size_is_the_count_of_equal_living_weights() -> None:
    log_weights = torch.tensor([5.0, 5.0, -math.inf, 5.0])
    assert float(effective_sample_size(log_weights)) == pytest.approx(3.0)
