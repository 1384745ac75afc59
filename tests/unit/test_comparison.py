"""Whether methods that claim the same posterior agree: what is compared, and how often in error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import lmppl
from lmppl.cli import main
from lmppl.cli.comparing import comparison_table, verdict
from lmppl.diagnostics.comparison import Measured, compare_posteriors, compare_tables, measure
from lmppl.posterior import Estimate, Posterior

PRIOR = {
    "tokens": ["a", "b", "c"],
    "initial": [3, 2, 1],
    "transition": [[1, 4, 2], [3, 1, 2], [2, 2, 1]],
    "eos": None,
}
PETS = """
reward na(t: string): int<lower=0, upper=2> = count("a")
model pets(w: real<lower=-5, upper=5> = 3.0) {
    pet ~ categorical(["cat", "dog"])
    text ~ markov("prior.json", max_tokens=2)
    factor evidence: if pet == "dog" then w else 0
    expect many: mean(na(text)) >= 0.5
    return pet, text
}
"""


def tables(**estimates: Estimate) -> dict[str, dict[str, Measured]]:
    return {name: {"log evidence": Measured(each)} for name, each in estimates.items()}


def test_methods_that_disagree_are_found() -> None:
    exact = Estimate.exact(-1.0)
    wrong = Estimate.from_error(-1.5, 0.1, kind="unbiased")
    right = Estimate.from_error(-1.15, 0.1, kind="unbiased")
    found = compare_tables(tables(exact=exact, wrong=wrong, right=right)).disagreements
    assert [(each.first, each.second) for each in found] == [("exact", "wrong")]
    assert found[0].sigmas == pytest.approx(5.0, rel=1e-3)
    assert not compare_tables(tables(a=exact, b=Estimate.exact(-1.0 + 1e-9))).disagreements
    assert compare_tables(tables(a=exact, b=Estimate.exact(-1.1))).disagreements


def test_a_lower_bound_may_be_below_but_not_above() -> None:
    exact = Estimate.exact(-1.0)
    below = Estimate.from_error(-9.0, 0.1, kind="lower bound")
    above = Estimate.from_error(-0.5, 0.1, kind="lower bound")
    assert not compare_tables(tables(exact=exact, svi=below)).disagreements
    assert not compare_tables(tables(svi=below, exact=exact)).disagreements
    assert len(compare_tables(tables(exact=exact, svi=above)).disagreements) == 1
    assert len(compare_tables(tables(svi=above, exact=exact)).disagreements) == 1
    assert "≥ -9.00 ± 0.10" in comparison_table(compare_tables(tables(svi=below)))


def test_an_unknown_error_is_not_compared_and_that_is_said() -> None:
    found = compare_tables(tables(a=Estimate.exact(-1.0), b=Estimate.from_error(-3.0, math.inf)))
    assert found.differences == ()
    assert "Nothing could be compared" in verdict(found)


@pytest.mark.parametrize("degrees", [1, 3, 30])
def test_agreeing_methods_rarely_seem_to_disagree(degrees: int) -> None:
    rng = np.random.default_rng(0)
    trials = 2000
    alarms = 0
    for _ in range(trials):
        table = {}
        for name in "abc":
            x = rng.normal(size=degrees + 1)
            error = float(x.std(ddof=1)) / math.sqrt(x.size)
            # The interval at the normal's quantile: degrees of freedom are for the comparison.
            table[name] = {"x": Measured(Estimate.from_error(float(x.mean()), error), degrees)}
        alarms += bool(compare_tables(table).disagreements)
    assert alarms <= scipy.stats.binom.isf(1e-4, trials, 0.01)


def write(folder: Path) -> Path:
    (folder / "prior.json").write_text(json.dumps(PRIOR))
    path = folder / "pets.lmp"
    path.write_text(PETS)
    return path


def test_categories_expectations_and_texts_are_compared(tmp_path: Path) -> None:
    model = lmppl.load(write(tmp_path))
    bound = model(w=3.0)
    posteriors = {
        "exact": lmppl.infer(bound, method="exact"),
        "smc": lmppl.infer(bound, method="smc", num_particles=400, seed=0),
    }
    found = compare_posteriors(posteriors)
    assert not found.disagreements
    for name in ("probability of pet = dog", "mean of evidence", "texts of text"):
        assert name in found.compared
    assert any(name.startswith("expect mean(na(text))") for name in found.compared)
    assert "texts of text (token 1)" not in comparison_table(found)
    assert "P" not in verdict(found).partition("compared:")[0] or "agree" in verdict(found)


def test_another_share_of_a_category_of_the_same_length_is_a_disagreement(tmp_path: Path) -> None:
    model = lmppl.load(write(tmp_path))
    one = lmppl.infer(model(w=3.0), method="exact")
    other = lmppl.infer(model(w=1.0), method="smc", num_particles=500, seed=1)
    found = compare_posteriors({"one": one, "other": other})
    assert "probability of pet = dog" in {each.quantity for each in found.disagreements}


def test_texts_of_equal_lengths_with_other_tokens_are_a_disagreement() -> None:
    rng = np.random.default_rng(0)

    def posterior(shares: list[float]) -> Posterior:
        ids = rng.choice(4, size=(500, 6), p=shares)
        texts = ["".join("abcd"[token] for token in row) for row in ids]
        return Posterior(
            sites={"t": texts},
            tokens={"t": (ids, np.full(500, 6))},
            log_weights=np.zeros(500),
        )

    same = [0.25, 0.25, 0.25, 0.25]
    assert not compare_posteriors({"a": posterior(same), "b": posterior(same)}).disagreements
    found = compare_posteriors({"a": posterior(same), "b": posterior([0.3, 0.2, 0.3, 0.2])})
    assert all(each.quantity.startswith("texts of t") for each in found.disagreements)
    assert found.disagreements


def test_an_importance_estimate_is_compared_with_the_evidence() -> None:
    def posterior(evidence: Estimate, **info: object) -> Posterior:
        return Posterior(
            sites={"x": [1.0, 2.0]}, log_weights=[0.0, 0.0], log_evidence=evidence, info=info
        )

    exact = posterior(Estimate.exact(0.0))
    bound = Estimate.from_error(-3.0, 0.1, kind="lower bound")
    wrong = Estimate.from_error(-1.0, 0.05, kind="unbiased")
    svi = posterior(bound, log_evidence_importance=wrong)
    found = compare_posteriors({"exact": exact, "svi": svi})
    quantities = {each.quantity for each in found.differences}
    assert {"log evidence", "log evidence by importance weights"} <= quantities


def test_compare_prints_what_was_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    assert main(["compare", str(path), "--methods", "exact,importance", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "The methods agree within their errors; compared: log evidence" in out
    assert "probability of pet = dog" in out


def test_requirements_are_not_compared() -> None:
    post = Posterior(
        sites={"text": ["a", "b"]},
        log_weights=[0.0, 0.0],
        log_potentials={"clean": [0.0, 0.0], "tone": [0.0, 1.0]},
    )
    assert "mean of tone" in measure(post) and "mean of clean" not in measure(post)
