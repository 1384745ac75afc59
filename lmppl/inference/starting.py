"""The engine of a method, and populations of weighted executions to begin another with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.inference.loop import Engine
from lmppl.inference.methods import method_named
from lmppl.inference.settings import Settings
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Population:
    """Weighted executions of independent runs; rows of `traces` are `[runs, particles]` flat.

    `log_weight` `[runs, particles]` is unnormalised; `log_evidence` `[runs]` is what each run says
    of the evidence, and `num_looks` `[runs]` how many draws of the prior have looked in it.
    """

    traces: Traces
    log_weight: Tensor
    log_evidence: Tensor
    num_looks: Tensor


def engine_of(settings: Settings, target: Target, stream: Stream, **options: Any) -> Engine[Any]:
    """The engine that the settings name, which is imported here."""
    module, _, name = settings.engine.partition(":")
    engine: Engine[Any] = getattr(importlib.import_module(module), name)(
        settings, target, stream, **options
    )
    return engine


def population(
    method: str, target: Target, stream: Stream, *, num_runs: int, size: int
) -> Population:
    """`num_runs` small runs of a method for every binding, of `size` particles each, that keep what
    each token cost.

    The method's settings have `small_runs`, and its engine `population(state)` and `record`.
    """
    kind = method_named(method)
    assert kind is not None
    engine: Any = engine_of(kind.small_runs(num_runs, size), target, stream, record=True)
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    found: Population = engine.population(state)
    return found
