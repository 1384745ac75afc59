"""The one loop that runs every method: progress, budget and interruption are written here once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from lmppl import fence
from lmppl.errors import Diagnostic, InferenceError
from lmppl.posterior import Estimate
from lmppl.progress import ProgressEvent, ProgressListener
from lmppl.target import Traces

State = TypeVar("State")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Info:
    """What a reader needs of one step: how far the run is and what it has spent."""

    stage: str
    done: int
    total: int | None
    message: str = ""
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Draws:
    """What a method found for one binding of the parameters; the Posterior is made from it.

    `log_weight` `[draws]` is unnormalised; draws of weight zero are left out. `clusters` and
    `num_chains` say how draws depend on each other (see `Posterior`).
    """

    traces: Traces
    log_weight: Tensor
    log_evidence: Estimate | None
    log_evidence_reason: str = ""
    clusters: np.ndarray | None = None
    num_chains: int | None = None
    exact: bool = False
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    checks: Mapping[str, bool] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    guide: Any = None
    sampler: Any = None


class Engine(Protocol[State]):
    """A method at work on a target: `init` and `step` over an explicit state.

    The state is what the next step needs; `Info` is what a reader needs. `result` gives one
    `Draws` per binding of the target, also from a state that is not done.
    """

    def init(self) -> State: ...

    def step(self, state: State) -> tuple[State, Info]: ...

    def is_done(self, state: State) -> bool: ...

    def result(self, state: State, *, complete: bool) -> list[Draws]: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on a run: wall-clock seconds, or tokens drawn from language models."""

    seconds: float = math.inf
    num_tokens: float = math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    """The draws of a run, why it stopped early (None: it did not), and what it cost.

    `rewards` has, by name, the seconds that each reward took and the number of texts it scored.
    """

    draws: list[Draws]
    stopped_by: str | None
    seconds: float
    num_tokens: int
    num_steps: int
    rewards: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def run(
    engine: Engine[State], *, budget: Budget | None = None, progress: ProgressListener | None = None
) -> Outcome:
    """Steps the engine until it is done, the budget is spent, or the user interrupts.

    Raises:
        InferenceError: LMP930, interrupted or out of budget before there was anything to return.
    """
    budget = budget or Budget()
    began = time.perf_counter()
    state = engine.init()
    stopped_by, num_tokens, num_steps = None, 0, 0
    try:
        while not engine.is_done(state):
            state, info = engine.step(state)
            num_steps += 1
            num_tokens += info.num_tokens
            if progress is not None:
                progress(ProgressEvent(info.stage, info.done, info.total, info.message, num_tokens))
            _log.debug("%s %s of %s %s", info.stage, info.done, info.total, info.message)
            if engine.is_done(state):
                break
            if time.perf_counter() - began > budget.seconds:
                stopped_by = f"the budget of {budget.seconds:g} seconds was spent"
                break
            if num_tokens > budget.num_tokens:
                stopped_by = f"the budget of {budget.num_tokens:g} tokens was spent"
                break
    except KeyboardInterrupt:
        fence.reset()
        stopped_by = "interrupted"
    if progress is not None:
        progress(ProgressEvent("judging", 0, None, num_tokens=num_tokens))
    draws = engine.result(state, complete=stopped_by is None)
    if stopped_by is not None and all(d.traces.num_rows == 0 for d in draws):
        raise InferenceError(
            [
                Diagnostic(
                    "LMP930",
                    "error",
                    f"{stopped_by} before the first draws were complete",
                    help="allow more time, or ask for fewer or shorter texts",
                )
            ]
        )
    seconds = time.perf_counter() - began
    _log.info(
        "%s after %d steps, %d tokens, %.1f s",
        stopped_by or "done",
        num_steps,
        num_tokens,
        seconds,
    )
    return Outcome(draws, stopped_by, seconds, num_tokens, num_steps)
