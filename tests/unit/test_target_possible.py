"""Requirements that a vocabulary cannot meet are refused at binding, under every method."""

from __future__ import annotations

import pytest
import torch

import lmppl

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
