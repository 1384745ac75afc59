"""Requirements that a vocabulary cannot meet are refused at binding, under every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lmppl
from lmppl.cli import main

TOKENS = ("a", "b", " ", "ab")


def language_model(eos: bool, tokens: tuple[str, ...] = TOKENS) -> lmppl.FunctionLM:
    every = [*tokens, *(["</s>"] if eos else [])]

    def uniform(prefixes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(prefixes), len(every)).log_softmax(-1)

    return lmppl.FunctionLM(tokens=every, eos="</s>" if eos else None, next_log_probs=uniform)


def bound(
    body: str, *, eos: bool = True, site: str = "prior(max_tokens=4)", before: str = ""
) -> lmppl.BoundModel:
    program = f"extern lm prior model m() {{ {before} text ~ {site} {body} return text }}"
    return lmppl.compile(program)(prior=language_model(eos))


@pytest.mark.parametrize("method", ["exact", "rejection", "importance", "smc", "mcmc", "svi"])
def test_an_impossible_requirement_is_no_bad_luck_under_any_method(method: str) -> None:
    with pytest.raises(lmppl.InferenceError) as error:
        lmppl.infer(bound('require at: contains(text, "@")'), method=method)
    (problem,) = error.value.diagnostics
    assert problem.code == "LMP305" and problem.span is not None
    assert problem.message == (
        'no text of `text` can meet `at`: no token of its language model has "@"'
    )


@pytest.mark.parametrize(
    ("body", "options", "cause"),
    [
        ('require contains(text, "é")', {}, 'no token of its language model has "é"'),
        ('require text == "bbbbb"', {}, "it would take at least 5 tokens, and `max_tokens` is 4"),
        ("require finished(text) and length(text) >= 4", {}, "it would take at least 5 tokens"),
        ("require not (length(text) <= 4)", {}, "it would take at least 5 tokens"),
        ("require length(text, unit=\"words\") == 4", {}, "it would take at least 7 tokens"),
        ("require finished(text)", {"eos": False}, "no end token and the site no stop string"),
        ('require matches(text, "(b|bb)")', {"eos": False}, "nothing ends a text before 4 tokens"),
        (
            'require starts_with(text, "bbb") require ends_with(text, "a ab")',
            {},
            "these requirements together: it would take at least",
        ),
        (
            'require p: contains(text, "@") when c require q: contains(text, "#") when not c',
            {"before": "c ~ bernoulli(0.5)"},
            "no token of its language model has",
        ),
        (
            "require finished(text) require length(text) == 3",
            {"eos": False, "site": 'prior(max_tokens=3, until="a|b|c")'},
            "by its stop strings or `until`",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_said(body: str, options: dict, cause: str) -> None:
    with pytest.raises(lmppl.InferenceError, match="LMP305") as error:
        bound(body, **options).target()
    assert cause in error.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ('require contains(text, "@") when c', {"before": "c ~ bernoulli(0.5)"}),
        ('require text == "bbb"', {}),
        ("require finished(text)", {"eos": False, "site": 'prior(max_tokens=4, stop=["b"])'}),
        (
            'require matches(text, "(b|bb)") and finished(text)',
            {"eos": False, "site": 'prior(max_tokens=4, until="a*bb?")'},
        ),
        ('require matches(text, "(b|bb)")', {}),
        ('require contains(text, ["@", "a"])', {}),
    ],
)
def test_what_some_text_can_meet_is_not_refused(body: str, options: dict) -> None:
    post = lmppl.infer(bound(body, **options), method="exact")
    assert len(post) > 0


def test_a_binding_that_is_impossible_is_refused_where_others_are_not() -> None:
    program = """
    extern lm prior
    model m(word: string) { text ~ prior(max_tokens=3) require contains(text, word) return text }
    """
    model, prior = lmppl.compile(program), language_model(True)
    pair = [model(word=word, prior=prior) for word in ("a", "@")]
    assert lmppl.infer(pair[0], method="smc", num_particles=8, seed=0).texts
    found, lost = lmppl.infer(pair, method="smc", num_particles=8, seed=0)
    assert found.texts and lost.error.diagnostics[0].code == "LMP305"


CHOOSING = """
extern lm prior
model m(more: bool = true) {
    word ~ categorical(["a", "@", "b"], probs=[0.5, 0.25, 0.25])
    other ~ bernoulli(0.5)
    text ~ prior(max_tokens=3)
    require has: contains(text, word) when more
    return word, text
}
"""


@pytest.mark.parametrize("method", ["exact", "smc", "importance"])
def test_a_value_of_a_choice_that_no_text_can_meet_is_named(method: str) -> None:
    bound = lmppl.compile(CHOOSING)(prior=language_model(True))
    post = lmppl.infer(bound, method=method, seed=0, progress=False)
    assert "@" not in post["word"]
    (said,) = [each for each in post.warnings if "no posterior probability" in each]
    assert 'word = "@"' in said and "`has`" in said and "no token of its language model" in said
    free = lmppl.compile(CHOOSING)(prior=language_model(True), more=False)
    post = lmppl.infer(free, method=method, seed=0, progress=False)
    assert not any("no posterior probability" in each for each in post.warnings)


def test_explain_knows_what_no_text_can_meet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prior.json").write_text(
        '{"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 2], [2, 1]], "eos": null}'
    )
    program = """
    extern reward r(t: string): real<lower=0, upper=1>
    model m(word: string) {
        text ~ markov("prior.json", max_tokens=3)
        require has: contains(text, word)
        factor r(text)
        return text
    }
    """
    path = tmp_path / "m.lmp"
    path.write_text(program)
    explain = ["explain", str(path), "--method", "smc"]
    assert main([*explain, "--param", "word=a"]) == 0
    assert "would run" in capsys.readouterr().out
    assert main([*explain, "--param", "word=@"]) == 3
    out = capsys.readouterr().out
    assert "smc on m: refuses" in out and "LMP305" in out and '"@"' in out
    # Without the word there is nothing to look at.
    assert main(explain) == 0
    # A model that is elsewhere is not asked for.
    path.write_text(program.replace('markov("prior.json", ', 'lm("acme/none", prompt="x", '))
    assert main([*explain, "--param", "word=@"]) == 0
    choosing = program.replace("(word: string)", "()").replace(
        "text ~", 'word ~ categorical(["a", "@"])\n text ~'
    )
    path.write_text(choosing)
    capsys.readouterr()
    assert main(explain) == 0
    assert 'word = "@" has no posterior probability' in capsys.readouterr().out
