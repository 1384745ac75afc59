"""What values draws can have that weigh much: against all draws there are, and in intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.checker import check_expression
from lmppl.posterior.cells import Cells
from lmppl.posterior.mean_bounds import Units, mean_interval

_DECLARATIONS = """
reward n(t: string): int<lower=0, upper=4> = count("a")
reward r(t: string): real<lower=-1, upper=1> = lexicon("words.tsv", reduce="mean")
"""


def compiled(folder: Path, body: str) -> lmppl.CompiledModel:
    table = {
        "tokens": ["a ", "b ", "."],
        "initial": [2, 1, 1],
        "transition": [[1, 1, 1], [2, 1, 1], [0, 0, 1]],
        "eos": ".",
    }
    (folder / "prior.json").write_text(json.dumps(table))
    (folder / "words.tsv").write_text("a\t0.75\nb\t-0.5\n")
    return lmppl.compile(
        f"""{_DECLARATIONS}
        model m(k: real = 2.0) {{
            wet ~ bernoulli(0.3)
            pet ~ categorical(["cat", "dog"])
            t ~ markov("prior.json", max_tokens=4)
            let same = t
            {body}
            return wet, pet, t
        }}""",
        base_dir=folder,
    )


_BODIES = [
    "factor f: k * n(t)",
    "factor f: 1.5 * n(same) - 2 * r(t) factor g: -n(t)",
    "factor f: if n(t) > 2 then 3 else r(t)",
    'factor f: if pet == "dog" then 2 * n(t) else if wet then 1 else 0',
    "factor f: if wet and n(t) >= 1 then 2 else 0 require c: n(t) != 3",
    'factor f: if contains(t, "b") then -1 else 2 require not (r(t) < 0 - 0.2)',
    "require c: n(t) >= 2",
    "factor f: n(t) / 4 + (n(t) - 2) * (n(t) - 2)",
]
_ASKED = [
    "n(t)", "r(t)", "2 * n(t) - r(t)", "n(t) >= 2", "wet", 'pet == "dog"', "wet and n(t) > 1",
    'contains(t, "b")', "n(t) == 2", "r(same) <= 0.25", "if wet then 1 else n(t)", "n(t) / 4",
]  # fmt: skip


@pytest.mark.parametrize("body", _BODIES)
def test_every_draw_lies_in_a_cell_and_weighs_no_more(body: str, tmp_path: Path) -> None:
    model = compiled(tmp_path, body)
    post = lmppl.infer(model(), method="exact", progress=False)
    target = model().target()
    labels = [p.label for p in target.model.potentials if p.kind == "factor"]
    log_weight = sum((post.log_potential(label) for label in labels), np.zeros(len(post)))
    largest = sum(
        target.number_range(p.expr, 0).upper for p in target.model.potentials if p.kind == "factor"
    )
    some = 0
    for source in _ASKED:
        values = post.values_of(source).astype(np.float64)
        for cells in target.joint_ranges(check_expression(target.model, source), 0):
            some += 1
            inside = np.zeros(len(post), dtype=bool)
            for cell in cells:
                inside |= (
                    (values >= cell.value.lower - 1e-9)
                    & (values <= cell.value.upper + 1e-9)
                    & (log_weight <= largest - cell.below + 1e-9)
                )
            assert inside.all(), source
    assert some


def test_a_number_that_the_factors_do_not_know_has_no_cells(tmp_path: Path) -> None:
    target = compiled(tmp_path, "factor f: n(t)")().target()
    assert target.joint_ranges(check_expression(target.model, "r(t)"), 0) == []
    (cells,) = target.joint_ranges(check_expression(target.model, "n(t)"), 0)
    assert [(cell.value.lower, cell.below) for cell in cells] == [
        (0, 4), (1, 3), (2, 2), (3, 1), (4, 0)
    ]  # fmt: skip


def test_a_comparison_of_reals_does_not_hang_on_rounding(tmp_path: Path) -> None:
    model = compiled(tmp_path, "factor f: if n(t) * (1 / 49) * 49 >= 1 then 3 else 0")
    target = model().target()
    (cells,) = target.joint_ranges(check_expression(target.model, "n(t)"), 0)
    assert cells[0].below == 3.0 and all(cell.below == 0.0 for cell in cells[1:])


def test_light_values_pull_a_mean_less_than_heavy_ones() -> None:
    weight = np.full(256, 1.0 / 256)
    x = np.linspace(1.0, 3.0, 256)
    blind = Units(weight, weight * x, further=20.0 / 256)
    # Draws of value 0 weigh 1/400 of the heaviest, which have value 4.
    cells = Cells.of([(0.0, 0.0, math.log(400.0)), (1.0, 3.0, 2.0), (4.0, 4.0, 0.0)])
    seeing = Units(weight, weight * x, beyond=20.0 / 256, cells=(cells,))
    wide, narrow = mean_interval(blind, 0.0, 4.0, 0.99), mean_interval(seeing, 0.0, 4.0, 0.99)
    assert narrow[1] == wide[1]
    assert wide[0] < narrow[0] < x.mean() - 0.08


@pytest.mark.parametrize("tilt", [0.5, 1.5])
def test_intervals_with_cells_miss_no_more_often_than_they_may(tilt: float) -> None:
    rng = np.random.default_rng(5)
    rates = np.exp(tilt * np.arange(5))
    prior = np.array([0.36, 0.4, 0.2, 0.03, 0.01])
    truth = float((prior * rates) @ np.arange(5) / (prior @ rates))
    cells = Cells.of([(k, k, tilt * (4 - k)) for k in range(5)])
    num_runs, missed = 400, np.zeros(2)
    for _ in range(num_runs):
        x = rng.choice(5, size=60, p=prior).astype(np.float64)
        weight = rates[x.astype(int)]
        further = rates[-1] / weight.sum()
        weight = weight / weight.sum()
        units = Units(weight, weight * x, beyond=further, cells=(cells,))
        lower, upper = mean_interval(units, 0.0, 4.0, 0.9)
        missed += [truth < lower, truth > upper]
    # 5 % on each side: more than 33 of 400 have a chance of 1 in 1,000.
    assert missed.max() <= 33


def test_a_lower_end_is_near_where_low_values_weigh_little(tmp_path: Path) -> None:
    claims = "expect mean(n(t)) >= 2.52 expect probability(n(t) >= 2) >= 0.8"
    model = compiled(tmp_path, f"factor f: 1.2 * n(t) {claims}")
    post = lmppl.infer(model(), method="importance", seed=3, progress=False)
    assert [claim.verdict for claim in post.expectations] == ["holds", "holds"]
    same = post.expectation("n(t)", confidence=0.99)
    assert same.lower == post.expectations[0].estimate.lower
    blind = post.expectation("n(t)", bounds=(0.0, 4.0), confidence=0.99)
    assert blind.lower < 2.52 < same.lower and blind.upper == pytest.approx(same.upper)
    post.save(tmp_path / "result")
    again = lmppl.load_posterior(tmp_path / "result")
    assert again.expectation("n(t)") == post.expectation("n(t)")
    assert again.select(np.arange(200)).expectation("n(t)").lower > 0.0


@pytest.mark.parametrize("method", ["smc", "importance"])
def test_the_mask_of_the_first_token_bounds_every_weight(method: str, tmp_path: Path) -> None:
    table = {"tokens": ["a", "b"], "initial": [1, 31], "transition": [[1, 1], [1, 1]], "eos": None}
    (tmp_path / "rare.json").write_text(json.dumps(table))
    program = """
        reward n(t: string): int<lower=0, upper=4> = count("a")
        model m(w: string = "a") {
            t ~ markov("rare.json", max_tokens=4)
            require begins: starts_with(t, w)
            factor f: 0.5 * n(t)
            return t
        }"""
    model = lmppl.compile(program, base_dir=tmp_path)
    options = {"lookahead": "prefix"} if method == "smc" else {}
    runs = lmppl.infer([model(), model(w="b")], method=method, seed=1, progress=False, **options)
    for post, kept in zip(runs, (1 / 32, 31 / 32), strict=True):
        assert post.unseen is not None and post.log_evidence is not None
        size = len(post)
        bound = post.unseen.log_further + post.log_evidence.value + math.log(size)
        assert bound == pytest.approx(2.0 + math.log(kept))
        assert post.log_evidence.upper < 2.0 + math.log(kept)
