"""From a file's infer lines and keywords to the settings of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.diagnostics import judge
from lmppl.inference.execution import parse_budget
from lmppl.inference.loop import Budget
from lmppl.options import settings_for
from lmppl.posterior import Posterior

SOURCE = """
model two(p: real[] = [0.5, 0.5]) {{
    side ~ categorical(["left", "right"], probs=p)
    return side
}}
infer {line}
"""


def settings(line: str, method: str, **options: object) -> object:
    return settings_for(lmppl.compile(SOURCE.format(line=line)).model, method, None, options)


def test_the_number_of_draws_carries_over_to_chains_as_a_total() -> None:
    assert settings("smc(num_particles=3200, seed=4)", "mcmc").num_samples == 100  # type: ignore[attr-defined]
    found = settings("smc(num_particles=3200, seed=4)", "mcmc", num_chains=4)
    assert found.num_samples == 800  # type: ignore[attr-defined]
    assert found.seed == 4  # type: ignore[attr-defined]


def test_the_number_of_draws_carries_over_from_chains_as_a_total() -> None:
    found = settings("mcmc(num_chains=4, num_samples=50)", "smc")
    assert found.num_particles == 200  # type: ignore[attr-defined]


def test_other_options_do_not_carry_over_to_another_method() -> None:
    found = settings("smc(num_particles=64, ess_threshold=0.9)", "importance")
    assert found.num_samples == 64  # type: ignore[attr-defined]


def test_a_keyword_wins_over_the_file() -> None:
    assert settings("smc(num_particles=64)", "smc", num_particles=32).num_particles == 32  # type: ignore[attr-defined]


def test_a_method_that_is_no_name_is_a_type_error() -> None:
    model = lmppl.compile(SOURCE.format(line="exact()"))
    with pytest.raises(TypeError, match="name of a method"):
        lmppl.infer(model, method=3)  # type: ignore[arg-type]


def test_an_option_out_of_its_range_is_told_the_range_in_words() -> None:
    for line, said in (
        ("smc(num_particles=1)", "it must be at least 2"),
        ("smc(ess_threshold=1.5)", "it must be between 0 and 1"),
    ):
        with pytest.raises(lmppl.LmpError, match="LMP403") as caught:
            lmppl.compile(SOURCE.format(line=line))
        assert caught.value.diagnostics[0].message.endswith(said)


def test_what_is_no_model_is_said_to_be_none() -> None:
    for run in (lmppl.infer, lmppl.explain):
        with pytest.raises(TypeError, match="takes a loaded model"):
            run("upbeat.lmp")  # type: ignore[operator]


def test_models_are_shown_in_a_line() -> None:
    model = lmppl.compile(SOURCE.format(line="exact()"))
    assert repr(model) == "<CompiledModel two from a text>"
    assert repr(model(p=[0.25, 0.75])) == "<BoundModel two(p=[0.25, 0.75])>"


def test_check_lists_the_warnings_of_a_program() -> None:
    assert lmppl.compile(SOURCE.format(line="exact()")).check() == []
    model = lmppl.compile("model m(n: int = 1) { x ~ bernoulli(0.5) return x }")
    assert [(each.code, each.severity) for each in model.check()] == [("LMP202", "warning")]


def test_what_is_no_program_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "upbeat.lmp").write_text(SOURCE.format(line="exact()"))
    (tmp_path / "empty").mkdir()
    for give, message, help_ in (
        (lambda: lmppl.compile(None), "not from None", "lmppl.load(path)"),  # type: ignore[arg-type]
        (lambda: lmppl.compile(tmp_path), "of type PosixPath", "lmppl.load(path)"),  # type: ignore[arg-type]
        (lambda: lmppl.load(None), "not from None", "lmppl.compile"),  # type: ignore[arg-type]
        (lambda: lmppl.load(3), "of type int", "lmppl.compile"),  # type: ignore[arg-type]
        (lambda: lmppl.load(tmp_path / "upbaet.lmp"), "No such file", "did you mean"),
        (lambda: lmppl.load("no/such.lmp"), "cannot read no/such.lmp: ", "working directory"),
        (lambda: lmppl.load(tmp_path), "Is a directory", str(tmp_path / "upbeat.lmp")),
        (lambda: lmppl.load(tmp_path / "empty"), "Is a directory", "path of a .lmp file"),
        (lambda: lmppl.load("a\0b"), "null byte", None),
    ):
        with pytest.raises(lmppl.LmpError) as caught:
            give()
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "LMP027"
        assert message in diagnostic.message
        assert diagnostic.help is None if help_ is None else help_ in str(diagnostic.help)


def test_a_file_that_is_not_utf8_is_shown_where_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "latin.lmp"
    path.write_bytes(SOURCE.format(line="exact()").replace("left", "lèft").encode("latin-1"))
    with pytest.raises(lmppl.LmpError, match="LMP023") as caught:
        lmppl.load(path)
    assert f"{path}:3:27" in str(caught.value) and "0xe8" in str(caught.value)


def test_line_ends_and_byte_order_marks_do_not_move_what_is_underlined() -> None:
    source = SOURCE.format(line="exact(num_sample=3)")
    plain, marked = source, "\ufeff" + source.replace("\n", "\r\n")
    shown = []
    for text in (plain, marked, marked.encode()):
        with pytest.raises(lmppl.LmpError, match="LMP402") as caught:
            lmppl.compile(text)  # type: ignore[arg-type]
        shown.append(str(caught.value))
    assert shown[0] == shown[1] == shown[2]


TYPED = """
model typed(n: int<lower=0> = 1, x: real = 0.5, b: bool = true, p: real[] = [0.5, 0.5],
            s: string = "a") {
    side ~ categorical(["left", "right"], probs=p)
    factor (if b then x else 0.0) * n
    return side, s
}
"""


def test_scalars_of_numpy_and_torch_stand_for_python_values() -> None:
    import torch

    model = lmppl.compile(TYPED)
    for values, plain in (
        ({"n": np.int64(3), "b": np.bool_(False)}, {"n": 3, "b": False}),
        ({"x": np.float32(0.25), "s": np.str_("é")}, {"x": 0.25, "s": "é"}),
        ({"n": torch.tensor(3), "b": torch.tensor(True)}, {"n": 3, "b": True}),
        ({"x": torch.tensor(0.25, dtype=torch.bfloat16, requires_grad=True)}, {"x": 0.25}),
        ({"p": [np.float64(0.25), torch.tensor(0.75)]}, {"p": [0.25, 0.75]}),
        ({"p": tuple(np.array([0.25, 0.75]))}, {"p": [0.25, 0.75]}),
    ):
        found = dict(model(**values).values)
        assert found == plain
        assert [type(value) for value in found.values()] == [type(v) for v in plain.values()]
    bound = model(x=np.float64(0.3), n=np.int8(2))
    exact = lmppl.infer(bound, method="exact", num_samples=np.int64(5), seed=np.uint8(1))
    assert exact.log_evidence.value == pytest.approx(0.6)
    assert len(exact) == 5


def test_arrays_nan_and_what_is_no_number_are_still_refused() -> None:
    import torch

    model = lmppl.compile(TYPED)
    for values in (
        {"x": np.float64("nan")},
        {"x": torch.tensor(float("nan"))},
        {"p": [0.5, np.float32("nan")]},
        {"p": np.array([0.25, 0.75])},
        {"p": torch.tensor([0.25, 0.75])},
        {"x": torch.tensor([0.5])},
        {"x": np.complex128(1.0)},
        {"n": np.float64(1.0)},
        {"n": np.datetime64("2020-01-01")},
        {"b": np.int64(1)},
    ):
        with pytest.raises(lmppl.LmpError) as caught:
            model(**values)
        assert [each.code for each in caught.value.diagnostics] == ["LMP132"], values
    with pytest.raises(lmppl.LmpError, match="tolist"):
        model(p=np.array([0.25, 0.75]))
    with pytest.raises(lmppl.LmpError, match="LMP106"):
        model(x=np.float64("inf"))


def test_a_whole_number_is_an_int_however_it_is_written() -> None:
    found = settings("smc(num_particles=1e3)", "smc", num_runs=np.float64(2.0))
    assert (found.num_particles, found.num_runs) == (1000, 2)  # type: ignore[attr-defined]
    assert isinstance(found.num_particles, int)  # type: ignore[attr-defined]
    assert settings("exact(seed=1)", "exact", seed=10**400).seed == 10**400  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [10**400, 2**63, 1e300, 2**31])
def test_more_draws_than_any_machine_holds_are_refused(count: float) -> None:
    with pytest.raises(lmppl.LmpError, match="at most 2,147,483,647") as caught:
        settings("smc()", "smc", num_particles=count)
    assert caught.value.diagnostics[0].code == "LMP403"


def test_none_is_a_word_where_it_is_one_of_the_choices() -> None:
    assert settings("smc()", "smc", lookahead=None).lookahead == "none"  # type: ignore[attr-defined]
    assert settings("svi()", "svi", max_grad_norm=None).max_grad_norm is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("budget", ["0s", "0 tokens", 0, -1, "1.2.3s", "_s", "soon", float("nan")])
def test_what_is_no_budget_is_refused(budget: object) -> None:
    model = lmppl.compile(SOURCE.format(line="exact()"))
    with pytest.raises(lmppl.LmpError, match="LMP405"):
        lmppl.infer(model, budget=budget)  # type: ignore[arg-type]


def test_the_evidence_of_a_model_without_evidence_is_known() -> None:
    model = lmppl.compile("model coin() { c ~ bernoulli(0.5) return c }")
    for method, draws in (("smc", "num_particles"), ("importance", "num_samples")):
        found = lmppl.infer(model, method=method, seed=0, **{draws: 4}).log_evidence
        assert (found.kind, found.value, found.lower, found.upper) == ("exact", 0.0, 0.0, 0.0)
    kept = lmppl.compile("model coin() { c ~ bernoulli(0.5) require c return c }")
    found = lmppl.infer(kept, method="importance", num_samples=4, seed=0).log_evidence
    assert found.kind == "unbiased"


def test_bound_probabilities_that_do_not_sum_to_one_are_refused() -> None:
    model = lmppl.compile(SOURCE.format(line="exact()"))
    with pytest.raises(lmppl.InferenceError, match="LMP925"):
        lmppl.infer(model(p=[0.3, 0.9]))


def test_rejection_with_a_loose_bound_blames_the_bound_not_a_constraint() -> None:
    source = """
        reward tiny(t: string): int<lower=0, upper=1000> = count("x")
        model loose() {
            side ~ categorical(["left", "right"])
            factor tiny(side)
            return side
        }
    """
    with pytest.raises(lmppl.InferenceError, match="LMP905"):
        lmppl.infer(lmppl.compile(source), method="rejection", max_attempts=50, seed=0)


def test_resampled_draws_do_not_carry_the_diagnostics_of_the_draws_they_come_from() -> None:
    post = lmppl.infer(
        lmppl.compile(SOURCE.format(line="exact()")), method="importance", num_samples=50, seed=0
    )
    assert "ess" in post.diagnostics
    assert "ess" not in post.resample(5).diagnostics


def test_unconstrained_draws_end_at_their_stop_string_also_after_breaking_a_constraint() -> None:
    from lmppl.inference.tracing import prior_draws
    from lmppl.rng import Stream

    source = """
        extern lm prior
        model stopped() {
            text ~ prior(max_tokens=6, stop=["."])
            require clean: never(text, "a")
            return text
        }
    """
    import torch

    lm = lmppl.FunctionLM(
        tokens=["a", "b", "."],
        eos=None,
        next_log_probs=lambda prefixes: torch.full((len(prefixes), 3), 1 / 3).log(),
    )
    target = lmppl.compile(source)(prior=lm).target()
    texts = prior_draws(target, 200, Stream.from_seed(0)).values["text"].strings
    assert not any("." in text for text in texts)
    assert any("a" in text and len(text) < 6 for text in texts)


WARMTH = Path(__file__).parents[1] / "golden" / "checker" / "good"


def foreseen(infers: str, body: str = "") -> list[tuple[str, int]]:
    """The codes and lines of what a program is warned of."""
    program = f"""
reward good(t: string): real = lexicon("warmth.tsv")
reward s(t: string): real<lower=-1, upper=1> = vader()
model m(beta: real<lower=0> = 1.0, k: real<lower=0> = 0.0) {{
    text ~ lm("builtin:stories", prompt="Once", max_tokens=8)
    {body} return text, good(text), s(text), beta, k
}}
{infers}
"""
    found = lmppl.compile(program, base_dir=WARMTH).check()
    assert all(each.severity == "warning" for each in found)
    return [(each.code, each.span.line if each.span else 0) for each in found]


def test_a_file_is_told_what_its_own_infer_lines_will_be_refused_for() -> None:
    unbounded = "factor a: good(text) / beta factor b: good(text)"
    assert foreseen("infer rejection(num_samples=3)", unbounded) == [("LMP410", 8)]
    assert foreseen("infer smc()\ninfer rejection() as r", unbounded) == [("LMP410", 9)]
    assert foreseen("infer smc()", unbounded) == []
    assert foreseen("infer rejection()  # lmp: allow LMP410", unbounded) == []
    assert foreseen("infer rejection()", "factor s(text) / beta") == []
    assert foreseen("infer rejection()", "factor good(text) * k") == []
    assert foreseen("infer svi()", "factor log(s(text) + 1)") == [("LMP411", 8)]
    assert foreseen("infer smc()", "require good(text) > 1")[-1] == ("LMP414", 8)


def test_a_model_is_loaded_whatever_its_infer_line_cannot_do() -> None:
    bound = lmppl.compile(
        """
        extern reward r(t: string): real
        model m() { text ~ lm("builtin:stories", prompt="Once", max_tokens=2) factor r(text) }
        infer rejection(num_samples=3)
        """
    )(r=lambda t: 0.0)
    with pytest.raises(lmppl.LmpError, match="LMP410"):
        lmppl.infer(bound)
    assert len(lmppl.infer(bound, method="importance", num_samples=3, seed=0).texts) == 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("infer smcc(num_particels=8, lr=2, seed=-1)", ["LMP401", "LMP402", "LMP402", "LMP403"]),
        ("infer zzz(num_particels=8, lr=2)", ["LMP401", "LMP402"]),
        ("infer zzz(num_particles=8, seed=1)", ["LMP401"]),
    ],
)
def test_an_unknown_method_does_not_hide_the_mistakes_of_its_options(
    line: str, expected: list[str]
) -> None:
    with pytest.raises(lmppl.LmpError) as error:
        lmppl.compile(f"model m() {{ x ~ bernoulli(0.5) }} {line}")
    assert [each.code for each in error.value.diagnostics] == expected


@pytest.mark.parametrize("budget", ["5", " 5 ", "5s", 5, 5.0])
def test_a_plain_number_is_a_budget_of_seconds(budget: object) -> None:
    assert parse_budget(budget) == Budget(seconds=5.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["0", "-5", "five", "5 apples", ".", 0, True, float("nan")])
def test_what_is_no_budget_is_told_what_one_is(budget: object) -> None:
    with pytest.raises(lmppl.LmpError, match="LMP405"):
        parse_budget(budget)  # type: ignore[arg-type]


def test_chains_that_disagree_decide_no_claim() -> None:
    rng = np.random.default_rng(0)
    density = rng.normal(size=400)
    y = rng.random(400) < 0.9

    def judged(log_prior: np.ndarray) -> Posterior:
        post = Posterior(
            sites={"y": y}, log_weights=np.zeros(400), log_prior=log_prior, num_chains=2
        )
        claim = post.judge("often", "probability(y) >= 0.5", "probability", "y", ">=", 0.5)
        assert claim.verdict == "holds"
        return judge(post.replace(expectations=[claim]))

    assert judged(density).expectations[0].verdict == "holds"
    # Another quantity shows that the chains are at different places.
    apart = judged(density + np.repeat([0.0, 9.0], 200))
    assert not apart.checks["chains agree (R-hat)"]
    assert apart.expectations[0].verdict == "undecided"
    assert "chains do not agree" in apart.expectations[0].reason


@pytest.mark.parametrize(
    ("method", "option", "said"),
    [
        ("exact", "num_particle", "`num_particles` is an option of smc"),
        ("rejection", "warmup_stepz", "`warmup_steps` is an option of mcmc"),
        ("exact", "max_seqences", "did you mean `max_sequences`?"),
        ("exact", "zzz", "exact takes "),
    ],
)
def test_an_unknown_option_names_the_method_that_has_it(
    method: str, option: str, said: str
) -> None:
    model = lmppl.compile(SOURCE.format(line="exact()"))
    with pytest.raises(lmppl.LmpError, match="LMP402") as caught:
        lmppl.infer(model, method=method, **{option: 3})
    assert said in str(caught.value.diagnostics[0].help)
