"""Whatever a person meets in a debugger fits on one line."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import lmppl
from lmppl.errors import LmpError
from lmppl.lm.function import FunctionLM
from lmppl.lm.loading import load_language_model
from lmppl.posterior.questions import sample_of
from lmppl.syntax import parse
from lmppl.syntax.trees import walk

SOURCE = """
extern reward score(t: string): uncertain<lower=0, upper=1>
reward tone(t: string): real<lower=-1, upper=1> = vader()

model story(beta: real<lower=0> = 0.5) {
    topic ~ categorical(["cat", "dog"])
    text ~ lm("builtin:stories", prompt=f"The {topic}", max_tokens=6)
    factor happy: if tone(text) > 0 then tone(text) / beta else -1
    factor good: lcb(score(text), k=1)
    require clean: never(text, words=["bad", "sad"]) and length(text, unit="words") <= 6
    let n = length(text)
    expect fine: mean(tone(text)) >= 0
    return topic, text, n
}

infer smc(num_particles=8, seed=0)
"""
_OPENED = (tuple, list, dict, set, frozenset, types.MappingProxyType)


def everything(*roots: object) -> Iterator[object]:
    """Every object of lmppl that the roots lead to."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        ours = type(each).__module__.startswith("lmppl.")
        if id(each) in seen or not (ours or isinstance(each, _OPENED)):
            continue
        seen.add(id(each))
        if ours:
            yield each
        waiting.extend(gc.get_referents(each))


@pytest.fixture(scope="module")
def met() -> dict[type, str]:
    """What one object of each class shows; the longest, where there are several."""
    model = lmppl.compile(SOURCE)
    bound = model(score=lambda texts: [[len(text) % 2, 1] for text in texts])
    target = bound.target()
    with pytest.raises(LmpError) as caught:
        lmppl.compile(SOURCE.replace("clean: never", "clean: nevr"))
    roots = [
        *walk(parse(SOURCE)),
        model,
        target,
        *target.stages,
        target.start(torch.zeros(3, dtype=torch.long)),
        lmppl.infer(bound),
        lmppl.infer(bound, method="mcmc", num_chains=2, num_samples=4, warmup_steps=2),
        lmppl.explain(bound, method="rejection"),
        caught.value,
        caught.value.diagnostics,
    ]
    shown: dict[type, str] = {}
    for each in everything(*roots):
        shown[type(each)] = max(shown.get(type(each), ""), repr(each), key=len)
    return shown


def test_everything_that_is_met_is_shown_in_one_short_line(met: dict[type, str]) -> None:
    assert len(met) > 80
    long = {kind.__qualname__: text for kind, text in met.items() if len(text) > 200}
    assert long == {}
    assert [kind for kind, text in met.items() if "\n" in text] == []


def test_no_field_of_anything_is_shown_by_its_address(met: dict[type, str]) -> None:
    assert {
        kind: text for kind, text in met.items() if " object at 0x" in text[1:].partition("(")[2]
    } == {}


def test_what_has_a_place_says_it() -> None:
    program = parse(SOURCE, "story.lmp")
    assert (
        repr(program.models[0].statements[0]) == "Sample(name='topic', distribution=Call(…)) at 6:5"
    )
    factor = lmppl.compile(SOURCE).model.potentials[0]
    assert repr(factor).endswith(" at 8:19") and "label='happy'" in repr(factor)


def test_an_error_is_shown_by_its_codes() -> None:
    with pytest.raises(LmpError) as caught:
        lmppl.compile("model m() { x ~ bernouli(0.5) return x }")
    assert repr(caught.value) == ("LmpError(LMP101: no distribution is called `bernouli`)")


def _uniform(prefixes: torch.Tensor) -> torch.Tensor:
    return torch.full((len(prefixes), 2), 0.5).log()


def _shown() -> Iterator[object]:
    lm = load_language_model("builtin:stories")
    prefixes = lm.start(["The dog said"] * 300, max_new_tokens=4)
    state = prefixes.state
    yield from (lm, lm.vocab, lm.prompts, lm.calling, lm.engine, lm.memory, lm.archive(300, 4))
    yield from (prefixes, state, state.storage, lm.calling.static_step("step"))
    host = FunctionLM(tokens=["a", "b"], eos="b", next_log_probs=_uniform)
    prefixes = host.start([""] * 300)
    yield from (host, prefixes, prefixes.state)
    post = lmppl.Posterior(sites={"x": np.arange(300.0)}, log_weights=np.zeros(300))
    yield from (post, post.data, post[0], post.expectation("x"), sample_of(post.data))


def test_what_a_run_holds_is_shown_in_one_line() -> None:
    for thing in _shown():
        shown = repr(thing)
        assert "\n" not in shown and len(shown) <= 160, type(thing)
        assert " object at 0x" not in shown, type(thing)
