"""A posterior as Python sees it: a sequence of draws, a value that travels, numbers that add up."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmppl
from lmppl.posterior import Draw, Estimate, Posterior, TextDraw
from lmppl.posterior.export import arviz_groups

TOKENS = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 2], [2, 1]], "eos": None}
PROGRAM = """\
reward vowels(t: string): int<lower=0, upper=4> = count("a")

model tiny(beta: real<lower=0> = 1.0) {
    pet ~ categorical(["cat", "dog"])
    text ~ markov("prior.json", max_tokens=3)
    factor tone: vowels(text) / beta
    return pet, text
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("face")
    (folder / "prior.json").write_text(json.dumps(TOKENS))
    return lmppl.compile(PROGRAM, base_dir=folder)


@pytest.fixture(scope="module")
def post(model: Any) -> Posterior:
    return lmppl.infer(model, method="importance", num_samples=40, seed=0)


# Draws


def test_a_misspelt_name_is_guessed(post: Posterior) -> None:
    with pytest.raises(KeyError, match="did you mean 'text'"):
        post["txt"]
    with pytest.raises(AttributeError, match="did you mean 'pet'"):
        post[0].pets  # noqa: B018


def test_values_given_by_place_are_told_their_names(model: Any) -> None:
    with pytest.raises(TypeError, match=r"by name: model\(beta=…\)"):
        model(1.0)


def test_the_path_of_a_program_is_not_its_text() -> None:
    with pytest.raises(lmppl.LmpError, match=r"lmppl.load\(path\)") as error:
        lmppl.compile("examples/upbeat.lmp")
    assert error.value.diagnostics[0].code == "LMP027"


def test_a_misspelt_method_hides_no_misspelt_option(model: Any) -> None:
    with pytest.raises(lmppl.LmpError) as error:
        lmppl.infer(model, method="smcc", num_particle=3)
    assert [each.code for each in error.value.diagnostics] == ["LMP401", "LMP402"]


def test_a_posterior_is_a_sequence_of_draws(post: Posterior) -> None:
    draws = list(post)
    assert len(draws) == len(post) == 40
    assert all(isinstance(draw, Draw) for draw in draws)
    assert [draw["text"] for draw in post] == post["text"] == post.texts
    assert sum(draw.weight for draw in post) == pytest.approx(1.0)


def test_a_draw_comes_by_its_number_and_several_by_a_slice(post: Posterior) -> None:
    assert post[0].text == post["text"][0]
    assert post[-1].text == post["text"][-1]
    assert post[np.int64(3)].pet == post["pet"][3]
    some = post[2:6]
    assert [draw.text for draw in some] == post["text"][2:6]
    # They keep the weight that they have here.
    assert [draw.weight for draw in some] == pytest.approx(post.weights[2:6].tolist())
    assert post[40:] == [] and len(post[::-2]) == 20
    for outside in (40, -41):
        with pytest.raises(IndexError, match="there are 40"):
            post[outside]
    for wrong in (1.0, (0, 1), None, np.array([0, 1])):
        with pytest.raises(TypeError, match="`select` takes several indices"):
            post[wrong]  # type: ignore[call-overload]


def test_the_texts_are_texts_and_not_chosen_strings(model: Any, post: Posterior) -> None:
    assert all(set(text) <= {"a", "b"} and len(text) == 3 for text in post.texts)
    renamed = lmppl.compile(
        PROGRAM.replace(
            "return pet, text", "let animal = pet let story = text return animal, story"
        ),
        base_dir=model.model.base_dir,
    )
    other = lmppl.infer(renamed, method="importance", num_samples=5, seed=0)
    assert other.texts == other["story"]
    hidden = lmppl.compile(
        PROGRAM.replace("return pet, text", "return pet"), base_dir=model.model.base_dir
    )
    other = lmppl.infer(hidden, method="importance", num_samples=5, seed=0)
    assert other.texts == other["text"]
    choices = lmppl.compile('model m() { pet ~ categorical(["cat", "dog"]) return pet }')
    with pytest.raises(KeyError, match="has no text"):
        _ = lmppl.infer(choices).texts


# Travelling


def test_a_posterior_can_be_pickled_without_its_functions(post: Posterior) -> None:
    again: Posterior = pickle.loads(pickle.dumps(post))
    assert again.texts == post.texts
    assert again.log_weights.tolist() == post.log_weights.tolist()
    assert again.log_evidence == post.log_evidence
    assert again.manifest == post.manifest and again.warnings == post.warnings
    assert again.summary() == post.summary()
    assert again.expectation(lambda draw: len(draw.text)).value == 3.0
    # The program is kept, and compiled again where an expression needs it.
    for text in ("vowels(text) * 2", "quantile(vowels(text), 0.5)"):
        assert again.expectation(text).value == post.expectation(text).value
    bare = pickle.loads(pickle.dumps(post.replace(program=None)))
    with pytest.raises(ValueError, match="saved or pickled"):
        bare.expectation("vowels(text) * 2")


def test_a_fitted_posterior_can_be_pickled(model: Any) -> None:
    fitted = lmppl.infer(model, method="svi", num_steps=1, num_particles=4, num_samples=8, seed=0)
    again: Posterior = pickle.loads(pickle.dumps(fitted))
    assert again.texts == fitted.texts and fitted.guide is not None and again.guide is None
    assert "guide was left out" in again.warnings[-1] and again.warnings[:-1] == fitted.warnings
    assert pickle.loads(pickle.dumps(again)).warnings == again.warnings


def test_copies_keep_everything(post: Posterior) -> None:
    for again in (copy.copy(post), copy.deepcopy(post)):
        assert again.expectation("vowels(text)").value == post.expectation("vowels(text)").value


def test_draws_can_be_pickled() -> None:
    single = Posterior(sites={"text": ["a", "b"]}, log_weights=[0.0, 0.0])
    text = single[1]
    again = pickle.loads(pickle.dumps(text))
    assert isinstance(again, TextDraw) and again == "b" and again.weight == text.weight
    assert pickle.loads(pickle.dumps(text.draw))["text"] == "b"
    assert copy.deepcopy(text).draw.text == "b"


def test_what_is_known_of_a_run_is_json(post: Posterior) -> None:
    for known in (post.manifest, post.diagnostics, post.checks):
        assert json.loads(json.dumps(known, allow_nan=False)) == known
    arrays = post.replace(manifest={"parameters": {"grid": np.arange(3.0)}})
    assert json.dumps(arrays.manifest) == '{"parameters": {"grid": [0.0, 1.0, 2.0]}}'


def test_what_is_known_of_a_run_cannot_be_changed(post: Posterior) -> None:
    manifest: Any = post.manifest
    with pytest.raises(TypeError, match="cannot be changed"):
        manifest["seed"] = 7
    with pytest.raises(TypeError, match="cannot be changed"):
        manifest["settings"]["seed"] = 7
    with pytest.raises(TypeError, match="cannot be changed"):
        manifest |= {"seed": 7}
    own = copy.deepcopy(manifest)
    own["seed"] = 7
    assert pickle.loads(pickle.dumps(manifest)) == post.manifest != own


# Statistics in the language


def test_an_expression_may_ask_for_any_statistic(post: Posterior) -> None:
    values = post.values_of("vowels(text)").astype(float)
    for text, statistic, q in (
        ("std(vowels(text))", "std", None),
        ("quantile(vowels(text), 0.9)", "quantile", 0.9),
        ("quantile(q=0.25, e=vowels(text))", "quantile", 0.25),
        (" mean( vowels(text) ) ", "mean", None),
    ):
        expected = post.statistic(values, statistic, q=q)
        assert post.expectation(text).value == expected.value, text
        assert post.statistic(text).value == expected.value, text
    chance = post.expectation('probability(pet == "cat" and vowels(text) >= 2)')
    counted = post.statistic(np.array([p == "cat" for p in post["pet"]]) & (values >= 2.0))
    assert chance.value == counted.value
    assert post.expectation('pet == "cat"').value == post.probabilities("pet")["cat"].value


def test_functions_have_all_statistics_too(post: Posterior) -> None:
    def vowels(draw: Any) -> float:
        return float(draw.text.count("a"))

    known = {"bounds": (0.0, 3.0)}  # three tokens
    # Of an expression it is known, too, how much texts with each value can weigh.
    for of_function, of_expression in (
        (post.std(vowels, **known), post.expectation("std(vowels(text))")),
        (post.quantile(vowels, 0.5, **known), post.expectation("quantile(vowels(text), 0.5)")),
    ):
        assert of_function.value == of_expression.value
        assert of_function.lower <= of_expression.lower <= of_expression.upper <= of_function.upper
    cats = post.expectation('probability(pet == "cat")')
    assert post.probability(lambda draw: draw.pet == "cat") == cats
    assert post.probability('pet == "cat"') == cats
    with pytest.raises(ValueError, match="level q"):
        post.quantile(vowels, 1.5)


def test_an_estimate_is_written_with_as_many_digits_as_asked_for(post: Posterior) -> None:
    found = Estimate(1.23456, 0.1, 1.0, 1.5, "consistent")
    assert f"{found:.2f} {found:>7.1f}" == "1.23     1.2" and f"{found}" == str(found)


def test_a_loaded_posterior_answers_in_the_same_language(post: Posterior, tmp_path: Any) -> None:
    post.save(tmp_path / "result")
    again = lmppl.load_posterior(tmp_path / "result")
    for text in ("std(vowels(text))", "quantile(vowels(text), 0.9)", 'probability(pet == "cat")'):
        assert again.expectation(text).value == post.expectation(text).value


def test_a_selection_answers_in_the_same_language(post: Posterior) -> None:
    some = post.select(np.arange(7))
    values = some.values_of("vowels(text)").astype(float)
    assert some.expectation("std(vowels(text))").value == some.statistic(values, "std").value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantile(vowels(text))", "q"),
        ("quantile(vowels(text), 1.5)", "between 0 and 1"),
        ("quantile(vowels(text), vowels(text))", "between 0 and 1"),
        ("std(vowels(txt))", "txt"),
        ("std(vowels(text)) + 1", "std"),
        ("probability(vowels(text))", "probability"),
        ("std(", ""),
    ],
)
def test_a_wrong_question_is_explained(post: Posterior, text: str, words: str) -> None:
    with pytest.raises((lmppl.LmpError, ValueError)) as failure:
        post.expectation(text)
    assert words in str(failure.value)


def test_a_statistics_name_on_an_uncertain_reward_is_a_risk_rule(tmp_path: Any) -> None:
    program = """
    extern reward judge(t: string): uncertain<lower=0, upper=1>
    model m() {
        pet ~ categorical(["cat", "dog"])
        return pet
    }
    """
    judge = lmppl.compile(program)(judge=lambda texts: np.array([[0.0, 1.0]] * len(texts)))
    post = lmppl.infer(judge, method="exact")
    # The spread of the judge on each draw, not of the draws.
    assert post.expectation("std(judge(pet))").value > 0.4
    assert post.expectation("std(mean(judge(pet)))").value == 0.0


# Options by meaning


@pytest.mark.parametrize(
    ("method", "given", "meant"),
    [
        ("smc", "num_samples", "num_particles"),
        ("smc", "n", "num_particles"),
        ("smc", "n_particles", "num_particles"),
        ("smc", "num_chains", "num_runs"),
        ("importance", "num_particles", "num_samples"),
        ("rejection", "samples", "num_samples"),
        ("exact", "num_particles", "num_samples"),
        ("mcmc", "chains", "num_chains"),
        ("mcmc", "burn_in", "warmup_steps"),
        ("svi", "learning_rate", "lr"),
        ("svi", "draws", "num_samples"),
        ("svi", "epochs", "num_steps"),
    ],
)
def test_an_option_is_found_by_what_it_means(
    model: Any, method: str, given: str, meant: str
) -> None:
    with pytest.raises(lmppl.LmpError, match=f"{method} has `{meant}` for that"):
        lmppl.infer(model, method=method, **{given: 3})


# Arithmetic


def _unbiased(value: float, lower: float, upper: float, error: float = 0.1) -> Estimate:
    return Estimate(value, error, lower, upper, "unbiased")


def test_a_bayes_factor_has_an_error_an_interval_and_a_kind() -> None:
    a, b = _unbiased(-3.0, -3.3, -2.6, 0.3), _unbiased(-5.0, -5.4, -4.5, 0.4)
    factor = a - b
    assert factor.value == pytest.approx(2.0)
    assert factor.standard_error == pytest.approx(0.5)
    # By hand: distances below are 0.3 and, of the other's upper end, 0.5; above 0.4 and 0.4.
    assert factor.lower == pytest.approx(2.0 - math.hypot(0.3, 0.5))
    assert factor.upper == pytest.approx(2.0 + math.hypot(0.4, 0.4))
    assert factor.kind == "consistent" and factor.confidence == 0.95
    assert (a + b).kind == "unbiased"
    assert (a + b).upper == pytest.approx(-8.0 + math.hypot(0.4, 0.5))


def test_exact_values_only_move_an_estimate() -> None:
    a = _unbiased(-3.0, -3.3, -2.6)
    moved = a - Estimate.exact(-1.0)
    assert (moved.value, moved.lower, moved.upper) == pytest.approx((-2.0, -2.3, -1.6))
    assert moved.kind == "unbiased" and moved.confidence == 0.95
    assert (a - 1).value == -4.0 and (1 + a).value == -2.0
    turned = 1 - a
    assert (turned.value, turned.lower, turned.upper) == pytest.approx((4.0, 3.6, 4.3))
    assert turned.kind == "consistent"
    both = Estimate.exact(2.0) - Estimate.exact(0.5)
    assert both == Estimate.exact(1.5)
    assert a - a == Estimate.exact(0.0)


def test_an_interval_without_an_end_stays_without_one() -> None:
    a, b = _unbiased(0.0, -1.0, math.inf), _unbiased(0.0, -1.0, 1.0)
    assert (a - b).upper == math.inf and math.isfinite((a - b).lower)
    assert (b - a).lower == -math.inf and math.isfinite((b - a).upper)


def test_bounds_turn_around_and_meaningless_differences_are_refused() -> None:
    elbo = Estimate.from_error(-9.0, 0.1, kind="lower bound")
    exact = Estimate.exact(-8.0)
    assert (elbo - exact).kind == "lower bound" and (exact - elbo).kind == "upper bound"
    assert (exact - elbo).lower == -math.inf and math.isfinite((exact - elbo).upper)
    assert (elbo - _unbiased(-8.0, -8.2, -7.8)).kind == "lower bound"
    assert (elbo + elbo).kind == "lower bound"
    assert (elbo - -elbo).kind == "lower bound"
    other = Estimate.from_error(-7.0, 0.1, kind="lower bound")
    with pytest.raises(ValueError, match="difference of two lower bounds"):
        elbo - other
    with pytest.raises(ValueError, match="−∞ and ∞ have no sum"):
        Estimate.exact(-math.inf) - Estimate.exact(-math.inf)
    with pytest.raises(TypeError):
        elbo - "x"  # type: ignore[operator]


def test_brackets_add_end_to_end_and_so_do_their_chances_to_miss() -> None:
    a, b = Estimate.bracket(1.0, 2.0, 0.95), Estimate.bracket(4.0, 8.0, 0.99)
    total = b - a
    assert (total.lower, total.upper, total.kind) == (2.0, 7.0, "bracket")
    assert total.confidence == pytest.approx(0.94)


def test_nats_become_bits() -> None:
    bits = Estimate.from_error(-3.0, 0.5, kind="lower bound") / math.log(2)
    assert bits.value == pytest.approx(-4.328, abs=1e-3) and bits.kind == "lower bound"
    assert (bits * -1).kind == "upper bound"
    assert _unbiased(1.0, 0.0, 2.0) * 2 == Estimate(2.0, 0.2, 0.0, 4.0, "consistent")
    with pytest.raises(ValueError, match="multiplied"):
        bits * math.inf


def test_the_interval_of_a_difference_misses_as_often_as_it_says() -> None:
    """Log evidences of two lognormal importance samplers, whose truth is known."""
    rng = np.random.default_rng(0)
    trials, missed = 1000, 0
    for _ in range(trials):
        a = Estimate.from_weights(0.4 * rng.normal(size=60) - 0.08)
        b = Estimate.from_weights(0.8 * rng.normal(size=60) - 0.32 - 1.0)
        difference = a - b
        missed += not difference.lower <= 1.0 <= difference.upper
    # Nominal 5 %, and 4 standard errors of a binomial.
    assert missed / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


def test_estimates_of_the_same_random_numbers_are_not_taken_for_independent() -> None:
    tag = frozenset({"seed 3"})
    a = dataclasses.replace(_unbiased(-3.0, -3.3, -2.6, 0.3), drawn_from=tag)
    b = dataclasses.replace(_unbiased(-5.0, -5.4, -4.5, 0.4), drawn_from=tag)
    factor = a - b
    assert (factor.value, factor.lower, factor.upper) == pytest.approx((2.0, 1.2, 2.8))
    assert factor.standard_error == pytest.approx(0.7)
    assert factor.confidence == pytest.approx(0.9) and (a + b).kind == "consistent"
    # What it rests on is not forgotten on the way.
    for moved in (2 * a, -a, a + 1.0, a - Estimate.exact(2.0), a + _unbiased(0.0, -1.0, 1.0)):
        assert moved.drawn_from == tag
    other = dataclasses.replace(b, drawn_from=frozenset({"seed 4"}))
    assert (a - other).confidence == 0.95
    assert (a - other).drawn_from == {"seed 3", "seed 4"}


def test_the_interval_of_a_difference_of_errors_that_go_against_each_other() -> None:
    """A reward that one model favours and the other shuns, both seen on the same draws."""
    rng = np.random.default_rng(1)
    trials, missed, naive = 600, 0, 0
    for _ in range(trials):
        x = rng.uniform(-1.0, 1.0, size=60)
        a, b = (Estimate.from_weights(each, log_bound=1.0) for each in (x, -x))
        independent = a - b
        naive += not independent.lower <= 0.0 <= independent.upper
        tag = frozenset({"seed 0"})
        tied = dataclasses.replace(a, drawn_from=tag) - dataclasses.replace(b, drawn_from=tag)
        missed += not tied.lower <= 0.0 <= tied.upper
    assert missed / trials < 0.1 + 4 * math.sqrt(0.1 * 0.9 / trials)
    # Without the tag the same interval is called one of 95 %.
    assert naive / trials > 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


def test_a_posterior_says_which_random_numbers_it_rests_on(model: Any, tmp_path: Path) -> None:
    posts = [
        lmppl.infer(model(beta=beta), method="importance", num_samples=50, seed=seed)
        for beta, seed in ((0.5, 1), (2.0, 1), (2.0, 2))
    ]
    a, same, other = (post.log_evidence for post in posts)
    assert (a - same).confidence == pytest.approx(0.9)
    assert (a - other).confidence == 0.95
    assert posts[0].factor_mean("tone").drawn_from == a.drawn_from == {"seed 1"}
    posts[0].save(tmp_path / "post")
    again = lmppl.load_posterior(tmp_path / "post").log_evidence
    assert again == a and again.drawn_from == a.drawn_from
    assert lmppl.infer(model(beta=0.5), method="exact", seed=1).log_evidence.drawn_from == set()


def test_a_bayes_factor_of_two_runs(model: Any) -> None:
    a = lmppl.infer(model(beta=0.5), method="importance", num_samples=400, seed=1)
    b = lmppl.infer(model(beta=2.0), method="exact")
    truth = lmppl.infer(model(beta=0.5), method="exact").log_evidence.value
    factor = a.log_evidence - b.log_evidence
    assert factor.standard_error == a.log_evidence.standard_error
    assert factor.lower <= truth - b.log_evidence.value <= factor.upper


# ArviZ


def _weighted() -> Posterior:
    return Posterior(
        sites={"x": np.array([1.0, 2.0, 5.0]), "text": ["a", "b", "c"]},
        log_weights=np.log([6.0, 3.0, 1.0]),
        log_prior=np.array([-1.0, -2.0, -3.0]),
        log_potentials={"tone": np.zeros(3)},
        log_evidence=Estimate.from_error(-0.5, 0.1, kind="unbiased"),
        method="importance",
    )


def test_arviz_gets_equal_weights_and_loses_none() -> None:
    post = _weighted()
    groups, attributes = arviz_groups(post.data)
    statistics = groups["sample_stats"]
    rows = statistics["draw_index"][0]
    # The means that ArviZ takes are of resampled draws; what they weighed goes with them.
    assert groups["posterior"]["x"].tolist() == [post["x"][rows].tolist()]
    assert statistics["log_weight"].tolist() == [post.log_weights[rows].tolist()]
    assert statistics["lp"].tolist() == [post.log_density[rows].tolist()]
    assert attributes["weights"].startswith("equal after resampling")
    assert (attributes["log_evidence"], attributes["log_evidence_kind"]) == (-0.5, "unbiased")


def test_arviz_gets_the_draws_as_they_are_on_request() -> None:
    post = _weighted()
    groups, attributes = arviz_groups(post.data, weighted=True)
    x, log_weight = groups["posterior"]["x"], groups["sample_stats"]["log_weight"]
    assert x.tolist() == [[1.0, 2.0, 5.0]] and "text" not in groups["posterior"]
    mean = float((np.exp(log_weight) * x).sum())
    assert mean == pytest.approx(post.expectation(post["x"]).value)
    assert attributes["weights"].startswith("unequal")


def test_equal_weights_are_left_alone_for_arviz() -> None:
    post = _weighted().replace(log_weights=np.zeros(3), num_chains=3)
    groups, attributes = arviz_groups(post.data)
    assert groups["sample_stats"]["draw_index"].tolist() == [[0], [1], [2]]
    assert attributes["weights"] == "equal"


@pytest.mark.parametrize("is_old", [True, False])
def test_both_faces_of_arviz_are_known(is_old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.0 `from_dict` takes groups as keywords, since then one mapping."""

    class Data(dict[str, Any]):
        attrs: dict[str, Any]

    def made(groups: dict[str, Any]) -> Data:
        data = Data({name: Data(values) for name, values in groups.items()})
        for each in (data, *data.values()):
            each.attrs = {}
        return data

    arviz = types.ModuleType("arviz")
    if is_old:
        arviz.InferenceData = Data  # type: ignore[attr-defined]
        arviz.from_dict = lambda **groups: made(groups)  # type: ignore[attr-defined]
    else:
        arviz.from_dict = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arviz", arviz)
    data = _weighted().to_arviz()
    assert data.attrs["method"] == data["posterior"].attrs["method"] == "importance"
    assert data["sample_stats"]["log_weight"].shape == (1, 3)


def test_arviz_itself_takes_the_data() -> None:
    with warnings.catch_warnings():
        # What its versions announce on import is theirs.
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip(
            "arviz", reason="arviz is an extra, too large for development and CI"
        )
        data = _weighted().to_arviz(weighted=True)
        assert data["posterior"]["x"].values.tolist() == [[1.0, 2.0, 5.0]]
        assert data["sample_stats"]["log_weight"].shape == (1, 3)
        assert data.attrs["log_evidence"] == -0.5
        assert float(arviz.summary(data, kind="stats").loc["x", "mean"]) == pytest.approx(
            2.667, 0.1
        )
