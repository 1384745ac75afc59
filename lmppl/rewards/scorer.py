"""The scorer of one declared reward: batches, remembers, times and checks what a source returns."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.reach import Reach
from lmppl.errors import Diagnostic, InferenceError, Span
from lmppl.ir.model import Reward
from lmppl.ir.types import Interval
from lmppl.records import brief
from lmppl.rewards.uncertain import UncertainScores

# One pair per text argument: ids int64 `[batch, length]`, padded, and lengths int64 `[batch]`.
Tokens: TypeAlias = tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

# What a scale's own rounding may put outside a declared bound (a float32 probability of
# 1.0000001); it is clipped. Anything further out is an error.
ROUNDING = 1e-6

# Rows that are scored again where a source is doubted, and how closely it must agree with itself:
# the same rows in the same batch leave only the rounding of parallel sums.
_RESCORED = 8
_AGREE = 1e-6
# In another batch and another order a network in half precision rounds otherwise; this share of
# the largest score is more than that.
_AGREE_ELSEWHERE = 0.02

# About 100 bytes and the text for each score that is kept.
REMEMBERED = 1 << 16


class Source(Protocol):
    """Where scores come from. `cost` is `cheap` or `model`; `digest` identifies what it computes.

    `scores` returns float64 `[batch]`, or `UncertainScores` with `[batch]` rows, for distinct
    argument rows in a batch of at least one; it may rely on nothing else and must not depend on
    what else is in the batch beyond floating-point rounding.
    """

    @property
    def digest(self) -> str: ...

    @property
    def cost(self) -> Literal["cheap", "model"]: ...

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64] | UncertainScores: ...


@runtime_checkable
class Ranged(Protocol):
    """A source of which it is known how far its scores reach."""

    def range(self, reach: Reach | None) -> Interval:
        """The range of the scores of texts within a reach; of any texts where that is None."""


@runtime_checkable
class Summed(Protocol):
    """A source whose score of a text is a sum of counts, each times a number."""

    def summands(self) -> Sequence[tuple[float, Mapping[str, object]]]:
        """The numbers, and the arguments of what is counted (`Source.summed` of the built-in)."""


@runtime_checkable
class Noted(Protocol):
    """A source that has something to say about how it computed its scores."""

    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass(slots=True, eq=False)
class Scorer:
    """A loaded reward.

    Rows with equal arguments are scored once, and scores are remembered while the reward is
    loaded (the oldest of 65,536 are forgotten first). `num_scored` counts the distinct rows that
    the source was asked for and `seconds` the time that it took.

    Remembering hides a reward that gives another score each time. `doubts` is how many of the next
    batches have a few of their rows scored again, twice, in a batch of their own and in another
    order: a score is of its row and not of the batch. Those are counted in `num_rescored` alone.
    `disagreement` is what that found: a sentence, or "". A reward that says of itself that it is
    noisy is not doubted, and nothing of it is remembered: every row has a score of its own.
    """

    reward: Reward
    source: Source
    seconds: float = 0.0
    num_scored: int = 0
    num_rescored: int = 0
    doubts: int = 0
    disagreement: str = ""
    _memory: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    __repr__ = brief

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def inputs(self) -> Literal["text", "tokens"]:
        return self.reward.inputs

    @property
    def is_noisy(self) -> bool:
        return self.reward.noise != "none"

    @property
    def is_uncertain(self) -> bool:
        return self.reward.type.kind == "uncertain"

    @property
    def digest(self) -> str:
        """Identifies what is computed: kind, options, and a hash of every file that is read."""
        return self.source.digest

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return self.source.cost

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know of how scores were computed."""
        return self.source.notes if isinstance(self.source, Noted) else ()

    def score(
        self, *columns: Sequence[Any], tokens: Tokens | None = None
    ) -> NDArray[np.float64] | UncertainScores:
        """The scores of a batch, `[rows]`; one column of arguments for each parameter.

        `tokens` is needed when the reward reads tokens: one (ids, lengths) pair for each text.
        Partial texts are scored by the same call. −∞ is a legal score where the declared range
        has no lower end.

        Raises:
            InferenceError: the source failed, or gave something that is no score: NaN, +∞, a
                value outside the declared range, or the wrong number of values (LMP921 to LMP929).
        """
        columns = tuple(
            column.tolist() if isinstance(column, np.ndarray) else column for column in columns
        )
        if self.is_noisy:
            rows = list(range(len(columns[0])))
            return self._assembled(self._scored(columns, tokens, rows) if rows else [])
        keys = _keys(columns, tokens)
        fresh: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            if key not in self._memory:
                fresh.setdefault(key, row)
        found = {key: self._memory[key] for key in keys if key not in fresh}
        if fresh:
            rows = list(fresh.values())
            found.update(zip(fresh, self._scored(columns, tokens, rows), strict=True))
            for key in fresh:
                self._memory[key] = found[key]
            excess = len(self._memory) - REMEMBERED
            for key in list(islice(self._memory, max(excess, 0))):
                del self._memory[key]
        return self._assembled([found[key] for key in keys])

    def _scored(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None, rows: list[int]
    ) -> list[Any]:
        """The scores of some rows, one entry each."""
        asked = [[column[row] for row in rows] for column in columns]
        asked_tokens = None
        if tokens is not None:
            asked_tokens = tuple((ids[rows], lengths[rows]) for ids, lengths in tokens)
        started = time.perf_counter()
        try:
            scores = self.source.scores(asked, asked_tokens)
        except InferenceError as error:
            raise self._named(error) from error
        finally:
            self.seconds += time.perf_counter() - started
            self.num_scored += len(rows)
        found = self._checked(scores, asked)
        if self.doubts:
            self.doubts -= 1
            self._score_again(asked, asked_tokens, _listed(scores))
        return found

    def _score_again(
        self,
        asked: Sequence[Sequence[Any]],
        tokens: Tokens | None,
        before: list[NDArray[np.float64]],
    ) -> None:
        """Whether a source agrees with itself on a few rows of a batch."""
        size = len(asked[0])
        # Fewer than all of them, last first: what ranks, sorts or centres a batch shows.
        few = np.unique(np.linspace(0, size - 1, min(_RESCORED, max(1, size - 1)), dtype=int))[::-1]
        columns = [[column[row] for row in few.tolist()] for column in asked]
        few_tokens = None
        if tokens is not None:
            few_tokens = tuple((ids[few], lengths[few]) for ids, lengths in tokens)
        try:
            again = [_listed(self.source.scores(columns, few_tokens)) for _ in range(2)]
        except InferenceError as error:
            raise self._named(error) from error
        self.num_rescored += 2 * len(few)
        finite = np.abs([each for row in before for each in np.ravel(row) if np.isfinite(each)])
        elsewhere = _AGREE + _AGREE_ELSEWHERE * float(finite.max(initial=0.0))
        for row, (first, second) in enumerate(zip(*again, strict=True)):
            original = before[few[row]]
            texts = ", ".join(self._arguments(columns, row))
            if not _alike(first, second, _AGREE * (1.0 + np.abs(second))):
                self._disagrees(first, second, f"and then {{}} for {texts}")
            elif not _alike(original, first, elsewhere):
                self._disagrees(
                    original, first, f"in one batch of texts and {{}} in another for {texts}"
                )
            if self.disagreement:
                return

    def _disagrees(self, one: NDArray[np.float64], other: NDArray[np.float64], how: str) -> None:
        where = int(np.argmax(np.ravel(one) != np.ravel(other))) if one.shape == other.shape else 0
        shown = [spell(float(np.ravel(each)[where])) for each in (one, other)]
        self.disagreement = f"reward `{self.name}` gave {shown[0]} {how.format(shown[1])}"
        self.doubts = 0

    def _named(self, error: InferenceError) -> InferenceError:
        """The error of a source, which does not know the name of the reward."""
        named = [
            replace(each, message=f"reward `{self.name}`: {each.message}")
            for each in error.diagnostics
        ]
        return InferenceError(named, error.sources)

    def _checked(
        self, scores: NDArray[np.float64] | UncertainScores, asked: Sequence[Sequence[Any]]
    ) -> list[Any]:
        if isinstance(scores, UncertainScores) != self.is_uncertain:
            raise self._mismatch(isinstance(scores, UncertainScores))
        if len(scores) != len(asked[0]):
            raise failure(
                "LMP923",
                f"reward `{self.name}` gave {count(len(scores), 'score')} for "
                f"{count(len(asked[0]), 'text')}",
                self.reward.span,
                help="return one score for each text, in the same order",
            )
        if not isinstance(scores, UncertainScores):
            values = self._in_range(np.asarray(scores, dtype=np.float64), asked)
            return list(values.tolist())
        if scores.members is not None:
            return list(self._in_range(scores.members, asked))
        means, stds = scores.moments()
        return list(zip(self._in_range(means, asked).tolist(), stds.tolist(), strict=True))

    def _in_range(
        self, values: NDArray[np.float64], asked: Sequence[Sequence[Any]]
    ) -> NDArray[np.float64]:
        """The values `[batch]` or `[batch, members]`, clipped where only rounding is outside."""
        bounds = self.reward.type.range
        undefined = np.isnan(values) | np.isposinf(values)
        if self.is_uncertain:
            undefined |= np.isneginf(values)
        if undefined.any():
            row = int(np.argwhere(undefined)[0][0])
            value = float(values[undefined][0])
            raise failure(
                "LMP921",
                f"reward `{self.name}` gave {spell(value)}",
                self.reward.span,
                notes=self._arguments(asked, row),
                help="a reward must give a finite number for every text; "
                "mend the reward, or clip it before it returns",
            )
        with np.errstate(invalid="ignore"):
            clipped = np.clip(values, bounds.lower, bounds.upper)
            slack = ROUNDING * np.maximum(1.0, np.abs(clipped))
            outside = np.abs(values - clipped) > slack
        if outside.any():
            row = int(np.argwhere(outside)[0][0])
            value = float(values[outside][0])
            raise failure(
                "LMP922",
                f"reward `{self.name}` gave {spell(value)}, outside its declared range {bounds}",
                self.reward.span,
                notes=self._arguments(asked, row),
                help="widen the range in the declaration, or clip the reward",
            )
        if self.reward.type.kind == "int":
            broken = clipped != np.rint(clipped)
            if broken.any():
                row = int(np.argmax(broken))
                raise failure(
                    "LMP923",
                    f"reward `{self.name}` gave {spell(float(values[row]))}, which is not an int",
                    self.reward.span,
                    notes=self._arguments(asked, row),
                    help="declare it as a `real`, or round it",
                )
        return clipped

    def _mismatch(self, is_uncertain: bool) -> InferenceError:
        if is_uncertain:
            return failure(
                "LMP923",
                f"reward `{self.name}` gave a distribution, but it is declared as one number",
                self.reward.span,
                help="declare it as `uncertain` and name a risk rule where it is used",
            )
        return failure(
            "LMP923",
            f"reward `{self.name}` gave one number for each text, but it is declared `uncertain`",
            self.reward.span,
            help="return an array [batch, members] or a pair (mean, std), or declare it a `real`",
        )

    def _arguments(self, asked: Sequence[Sequence[Any]], row: int) -> tuple[str, ...]:
        parameters = self.reward.parameters
        return tuple(
            f"{parameter.name} = {shorten(repr(column[row]))}"
            for parameter, column in zip(parameters, asked, strict=False)
        )

    def _assembled(self, found: list[Any]) -> NDArray[np.float64] | UncertainScores:
        if not self.is_uncertain:
            return np.array(found, dtype=np.float64)
        if not found:
            return UncertainScores(members=np.zeros((0, 1)))
        if isinstance(found[0], tuple):
            means, stds = zip(*found, strict=True)
            return UncertainScores(gaussian_mean=np.array(means), gaussian_std=np.array(stds))
        widths = {len(members) for members in found}
        if len(widths) > 1:
            raise failure(
                "LMP923",
                f"reward `{self.name}` gave ensembles of different sizes: "
                f"{', '.join(str(width) for width in sorted(widths))}",
                self.reward.span,
                help="return the same number of members for every text",
            )
        return UncertainScores(members=np.stack(found))


def _listed(scores: NDArray[np.float64] | UncertainScores) -> list[NDArray[np.float64]]:
    """An array of numbers for each row."""
    if not isinstance(scores, UncertainScores):
        return list(np.asarray(scores, dtype=np.float64))
    if scores.members is not None:
        return list(scores.members)
    return list(np.stack(scores.moments(), -1))


def _alike(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: Any) -> bool:
    """Whether two scores of a row agree; infinities agree with themselves alone."""
    if one.shape != other.shape:
        return False
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= tolerance
    return bool(np.all(near | (one == other) | (np.isnan(one) & np.isnan(other))))


def failure(
    code: str,
    message: str,
    span: Span | None = None,
    *,
    notes: tuple[str, ...] = (),
    help: str | None = None,
) -> InferenceError:
    """An error of one diagnostic."""
    return InferenceError([Diagnostic(code, "error", message, span, notes=notes, help=help)])


def shorten(text: str, limit: int = 200) -> str:
    """The text, its middle left out when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def spell(value: float) -> str:
    """A number as an error shows it."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+∞" if value > 0 else "−∞"
    return f"{value:.12g}"


def count(number: int, noun: str) -> str:
    """`1 text`, `2 texts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _keys(columns: Sequence[Sequence[Any]], tokens: Tokens | None) -> list[Hashable]:
    """What tells rows apart: their arguments, and their tokens where they are read."""
    if tokens is None:
        if len(columns) == 1:
            return list(columns[0])
        return list(zip(*columns, strict=True))
    token_keys = [
        [row[:length].tobytes() for row, length in zip(ids, lengths.tolist(), strict=True)]
        for ids, lengths in tokens
    ]
    return list(zip(*columns, *token_keys, strict=True))
