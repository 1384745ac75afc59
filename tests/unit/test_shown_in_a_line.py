"""What a person meets in a debugger is one short line, however large it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import lmppl
from lmppl.lm.function import FunctionLM
from lmppl.lm.loading import load_language_model
from lmppl.posterior.questions import sample_of


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


def test_things_are_shown_in_one_line() -> None:
    for thing in _shown():
        shown = repr(thing)
        assert "\n" not in shown and len(shown) <= 160, type(thing)
        assert " object at 0x" not in shown, type(thing)
