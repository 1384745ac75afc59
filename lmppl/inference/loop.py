"""The one loop that runs every method: progress, budget and interruption are written here once."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from lmppl import fence
from lmppl.density import Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.interruption import deferred_interrupts
from lmppl.posterior import Estimate, Unseen
from lmppl.progress import ProgressEvent, ProgressListener, reporting_to

State = TypeVar("State")

_log = logging.getLogger(__name__)
# Nothing is shown unless the host program, or `lmppl --verbose`, listens.
logging.getLogger("lmppl").addHandler(logging.NullHandler())


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
    `num_chains` say how draws depend on each other, `from_prior` that they are those of the prior,
    and `unseen` what they may have missed (see `Posterior`). Where there are no draws yet,
    `lacking` says how far the run was and what would give some, in two sentences. `failure` is why
    a binding among others has none.
    """

    traces: Traces
    log_weight: Tensor
    log_evidence: Estimate | None
    log_evidence_reason: str = ""
    clusters: np.ndarray | None = None
    num_chains: int | None = None
    exact: bool = False
    from_prior: bool = False
    unseen: Unseen | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    checks: Mapping[str, bool] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    guide: Any = None
    sampler: Any = None
    lacking: tuple[str, str] | None = None
    failure: InferenceError | None = None


class Engine(Protocol[State]):
    """A method at work on a target: `init` and `step` over an explicit state.

    The state is what the next step needs; `Info` is what a reader needs. `result` gives one
    `Draws` per binding of the target, also from a state that is not done. The engine itself holds
    settings, target and stream, and never changes. Nor does a state: `step` writes to nothing that
    an earlier state says, so that one that was kept can be stepped again, with the same end. (Of a
    text in the making, what lies beyond its length is written in place, and says nothing; what a
    network keeps of prefixes may be used up, and comes back by `Hurrying.recover`.)
    """

    def init(self) -> State: ...

    def step(self, state: State) -> tuple[State, Info]: ...

    def is_done(self, state: State) -> bool: ...

    def result(self, state: State, *, complete: bool) -> list[Draws]: ...


@runtime_checkable
class Hurrying(Protocol[State]):
    """An engine that has no draws before the end of many steps, and can come there sooner."""

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """The state, or one from which about `left` tokens are enough to the end.

        Asked before every step of a run that has a budget: `spent` tokens are drawn. After an
        interruption `spent` is infinite. A new state must keep what the engine claims: evidence
        estimates stay unbiased, weights right.
        """
        ...

    def recover(self, state: State) -> State:
        """The state before a step that was broken off, good to be stepped again."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a run that is done by itself: number `index` of parts that are alike, each as
    large as the settings say.

    Random numbers are counted on from part to part, so that parts together draw what one run as
    large as all of them would.
    """

    index: int = 0


WHOLE = Shard()


@runtime_checkable
class Sharded(Protocol[State]):
    """An engine whose run can be done in parts. One that is not has nothing to share out: an
    enumeration, or a sum over texts, finds all there is in one run, and what several fits have come
    to, guides or twists, is no one guide and no one twist."""

    def init(self, shard: Shard = WHOLE) -> State: ...

    def merge(self, states: Sequence[State]) -> State:
        """The state of one run as large as all parts, from the states in which these have ended.

        Whatever is made of it, evidence, errors and what was missed, is made once, as of one run.
        """
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on a run: wall-clock seconds, or tokens drawn from language models."""

    seconds: float = math.inf
    num_tokens: float = math.inf

    def in_words(self) -> str:
        """Why a run has ended that spent it."""
        if math.isfinite(self.seconds):
            return f"the budget of {self.seconds:g} seconds was spent"
        return f"the budget of {self.num_tokens:g} tokens was spent"


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


# After Ctrl-C an engine may go on for half of the time that it ran, within these seconds.
_SHORTEST_END, _LONGEST_END = 1.0, 10.0
# An engine that can hurry and does not end within this many budgets is stopped.
_OVERDRAFT = 2.0
_PACE_STEPS = 4


def run(
    engine: Engine[State],
    *,
    budget: Budget | None = None,
    progress: ProgressListener | None = None,
    check: Callable[[], None] | None = None,
    ending: ExitStack | None = None,
) -> Outcome:
    """Steps the engine until it is done, the budget is spent, or the user interrupts.

    An engine that has draws only after many steps is told to hurry: with a budget in time for
    their end, after Ctrl-C within some seconds. A second Ctrl-C stops it at once.
    `check` is called after every step, to raise where there is no use in going on. Until `ending`
    is closed, a first Ctrl-C that comes after the last step takes no finished draws away.

    Raises:
        InferenceError: LMP930, interrupted or out of budget before there was anything to return.
        KeyboardInterrupt: the second Ctrl-C.
    """
    budget = budget or Budget()
    began = time.perf_counter()
    with reporting_to(progress):
        state = engine.init()
    hurrying = engine if isinstance(engine, Hurrying) else None
    clock = _Clock(began, budget)
    stopped_by: str | None = None
    with deferred_interrupts(hurrying is not None) as was_interrupted:
        while not engine.is_done(state):
            try:
                if hurrying is not None:
                    if was_interrupted() and not clock.interrupted:
                        stopped_by = clock.interrupt()
                    sooner = clock.hurry(hurrying, state)
                    if sooner is not state and stopped_by is None:
                        stopped_by = budget.in_words()
                    state = sooner
                with reporting_to(progress):
                    state, info = engine.step(state)
                clock.count(info)
                if check is not None:
                    check()
                if progress is not None:
                    progress(
                        ProgressEvent(
                            info.stage, info.done, info.total, info.message, clock.num_tokens
                        )
                    )
                _log.debug("%s %s of %s %s", info.stage, info.done, info.total, info.message)
            except KeyboardInterrupt:
                fence.reset()
                if hurrying is not None and (clock.interrupted or was_interrupted()):
                    raise
                stopped_by = clock.interrupt()
                if hurrying is None:
                    break
                state = hurrying.recover(state)
            if not engine.is_done(state) and clock.is_over(1.0 if hurrying is None else _OVERDRAFT):
                stopped_by = stopped_by or budget.in_words()
                break
    if was_interrupted():
        stopped_by = "interrupted"
    num_tokens, num_steps = clock.num_tokens, clock.num_steps
    if ending is not None and stopped_by != "interrupted":
        ending.enter_context(deferred_interrupts(True))
    if progress is not None:
        progress(ProgressEvent("judging", 0, None, num_tokens=num_tokens))
    draws = engine.result(state, complete=stopped_by is None)
    if stopped_by is not None and all(d.traces.num_rows == 0 for d in draws):
        reached, remedy = next(
            (each.lacking for each in draws if each.lacking is not None),
            (clock.reached, "allow more time, or ask for fewer or shorter texts"),
        )
        raise InferenceError(
            [
                Diagnostic(
                    "LMP930",
                    "error",
                    f"{stopped_by} before the first draws were complete",
                    notes=(reached,) if reached else (),
                    help=remedy,
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


class _Clock:
    """What a run has spent, what is left of its budget, and how fast it is."""

    def __init__(self, began: float, budget: Budget) -> None:
        self.began, self.budget = began, budget
        self.num_tokens = self.num_steps = 0
        self.reached = ""
        self.interrupted = False
        self._until = began + budget.seconds
        self._last = time.perf_counter()
        self._steps: deque[tuple[float, int]] = deque(maxlen=_PACE_STEPS)

    def count(self, info: Info) -> None:
        now = time.perf_counter()
        if info.num_tokens:
            self._steps.append((now - self._last, info.num_tokens))
        self._last = now
        self.num_steps += 1
        self.num_tokens += info.num_tokens
        total = "" if info.total is None else f" of {info.total:,}"
        self.reached = (
            f"{info.stage}: {info.done:,}{total}, with {self.num_tokens:,} tokens drawn in"
            f" {now - self.began:.3g} s"
        )

    def interrupt(self) -> str:
        """Ends the run soon, and says why."""
        now = time.perf_counter()
        grace = min(max(0.5 * (now - self.began), _SHORTEST_END), _LONGEST_END)
        self.interrupted, self._until = True, min(self._until, now + grace)
        return "interrupted"

    def hurry(self, engine: Hurrying[State], state: State) -> State:
        if not self.interrupted and self.budget == Budget():
            return state
        return engine.hurry(
            state, spent=math.inf if self.interrupted else self._spent(), left=self._left()
        )

    def _pace(self) -> float:
        """Seconds for each token; 0 where nothing was drawn yet."""
        tokens = sum(number for _, number in self._steps)
        return sum(seconds for seconds, _ in self._steps) / tokens if tokens else 0.0

    def _spent(self) -> float:
        """What was spent, in tokens of the present pace, of that limit which is nearer."""
        pace = self._pace()
        seconds = time.perf_counter() - self.began
        by_time = seconds / pace if pace else 0.0
        is_time = seconds / self.budget.seconds > self.num_tokens / self.budget.num_tokens
        return by_time if is_time else float(self.num_tokens)

    def _left(self) -> float:
        """How many tokens can still be drawn."""
        seconds = self._until - time.perf_counter()
        pace = self._pace()
        by_time = seconds / pace if pace else math.copysign(math.inf, seconds)
        return max(0.0, min(by_time, self.budget.num_tokens - self.num_tokens))

    def is_over(self, times: float) -> bool:
        """Whether more than so many budgets are spent."""
        budget = self.budget
        return (
            time.perf_counter() - self.began > times * budget.seconds
            or self.num_tokens > times * budget.num_tokens
        )
