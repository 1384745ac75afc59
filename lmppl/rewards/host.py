"""Rewards that the host program gives: any callable that scores a batch, or one text."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import InferenceError
from lmppl.rewards.scorer import Tokens, failure, shorten
from lmppl.rewards.texts import fingerprint
from lmppl.rewards.uncertain import UncertainScores

# How many rows are tried one by one to find the text that makes a batched function raise.
_BLAMED = 64

Mode = Literal["batched", "single", "unknown"]


@dataclass(slots=True, eq=False)
class HostSource:
    """A function of the host program.

    Batched: `f(texts: list[str], …) -> [batch]` scores, or for an uncertain reward an array
    `[batch, members]` or a tuple `(mean, std)` of two `[batch]`. Single: the same for one text,
    `f(text: str, …) -> float`. The annotation of the first parameter says which (`str`, `int`,
    `float` or `bool` means single, anything else batched); without one the function is called with
    the first batch, and it is single if that raises or gives one number, while a call with the
    first text alone works. One number for a batch may also be the mistake of a batched function,
    which would walk over the characters of a text: where the function takes both a list and a
    text apart, the annotation is asked for. A function that reads tokens is always batched:
    `f(ids, lengths, …)` with int64 arrays `[batch, length]` and `[batch]`, the end token left out.
    """

    function: Callable[..., Any]
    name: str
    is_uncertain: bool = False
    reads_tokens: bool = False
    # Which parameters are strings: those become (ids, lengths) when tokens are read.
    is_text: tuple[bool, ...] = (True,)
    mode: Mode = "unknown"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reads_tokens:
            self.mode = "batched"
        elif self.mode == "unknown":
            self.mode = _annotated_mode(self.function)

    @property
    def digest(self) -> str:
        """The function's qualified name and source: enough to notice that it was edited."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = ""
        module = getattr(self.function, "__module__", "")
        qualified = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return fingerprint("host", str(module), str(qualified), source)

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "model"

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64] | UncertainScores:
        """The scores of the batch, or its distribution.

        Raises:
            InferenceError: the function raised (LMP924) or gave no scores (LMP923).
        """
        arguments = self._arguments(columns, tokens)
        if self.mode == "single":
            return self._one_by_one(columns)
        try:
            raw = self.function(*arguments)
        except Exception as error:
            if self.mode == "unknown" and self._is_of_one_text(columns, error):
                self.mode = "single"
                return self._one_by_one(columns)
            raise self._raised(error, self._culprit(columns, tokens)) from error
        self._require_untouched(arguments, self._arguments(columns, tokens))
        try:
            scores = self._batch(raw, len(columns[0]))
        except _NotScores as refusal:
            can_be_single = self.mode == "unknown" and not self._is_row_of_scores(raw, columns)
            if can_be_single and self._is_of_one_text(columns, None):
                self.mode = "single"
                if _is_one_number(raw):
                    self.notes = (_READ_AS_SINGLE,)
                return self._one_by_one(columns)
            raise self._refused(refusal, raw) from refusal
        self.mode = "batched"
        return scores

    def _require_untouched(self, arguments: Sequence[Any], before: Sequence[Any]) -> None:
        """Scores belong to the texts in the order that was asked for.

        Raises:
            InferenceError: LMP950, the function has changed its arguments.
        """
        for after, given in zip(arguments, before, strict=True):
            if not (np.array_equal(after, given) if _is_array(given) else after == given):
                raise failure(
                    "LMP950",
                    "the host function changed the list that it was called with, so that its"
                    " scores may belong to other texts",
                    help="work on a copy: `sorted(texts)` instead of `texts.sort()`",
                )

    def _arguments(self, columns: Sequence[Sequence[Any]], tokens: Tokens | None) -> list[Any]:
        if not self.reads_tokens:
            return [list(column) for column in columns]
        remaining = list(tokens or ())
        arguments: list[Any] = []
        for is_text, column in zip(self.is_text, columns, strict=True):
            if is_text:
                if not remaining:
                    raise failure(
                        "LMP923",
                        f"`{self.name}` reads tokens, but it was called with a string that is "
                        "not the text of a site",
                        help='give it the text itself, or declare it with inputs="text"',
                    )
                arguments.extend(array.copy() for array in remaining.pop(0))
            else:
                arguments.append(list(column))
        return arguments

    def _one_by_one(
        self, columns: Sequence[Sequence[Any]]
    ) -> NDArray[np.float64] | UncertainScores:
        rows: list[Any] = []
        for arguments in zip(*columns, strict=True):
            try:
                raw = self.function(*arguments)
            except Exception as error:
                raise self._raised(error, arguments) from error
            try:
                rows.append(self._single(raw))
            except _NotScores as refusal:
                raise self._refused(refusal, raw) from refusal
        if not self.is_uncertain:
            return np.array(rows, dtype=np.float64)
        if all(isinstance(row, tuple) for row in rows):
            means, stds = zip(*rows, strict=True)
            return UncertainScores(gaussian_mean=np.array(means), gaussian_std=np.array(stds))
        if any(isinstance(row, tuple) for row in rows) or len({len(row) for row in rows}) > 1:
            raise self._refused(_NotScores("members that differ in number from text to text"), None)
        return UncertainScores(members=np.array(rows, dtype=np.float64))

    def _is_row_of_scores(self, raw: object, columns: Sequence[Sequence[Any]]) -> bool:
        """Whether an uncertain reward gave one number for each text of the batch.

        That is a batched function which forgot the members. Called with a string it would take the
        characters for texts and seem to give members.
        """
        try:
            return self.is_uncertain and _array(raw).shape == (len(columns[0]),)
        except _NotScores:
            return False

    def _is_of_one_text(self, columns: Sequence[Sequence[Any]], error: Exception | None) -> bool:
        """Whether the function, called with the first text alone, gives the score of one text.

        `error` is what it raised for a list. A function that took the list apart without an error
        that shows it expects a string, and takes the text apart too, may mean either: its score of
        one text is then no evidence.
        """
        watched = [_Watched(c[0]) if isinstance(c[0], str) else c[0] for c in columns]
        try:
            self._single(self.function(*watched))
        except Exception:
            # Whatever it raises here, the error of the batched call is the one to report.
            return False
        wants_a_string = isinstance(error, AttributeError | TypeError)
        return wants_a_string or not any(isinstance(w, _Watched) and w.taken_apart for w in watched)

    def _culprit(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> tuple[Any, ...] | None:
        """The first arguments on which a batched function raises by itself, if it does."""
        for row in range(min(len(columns[0]), _BLAMED)):
            one = [[column[row]] for column in columns]
            one_token = None
            if tokens is not None:
                one_token = tuple((i[row : row + 1], n[row : row + 1]) for i, n in tokens)
            try:
                self.function(*self._arguments(one, one_token))
            except Exception:
                return tuple(column[row] for column in columns)
        return None

    def _raised(self, error: Exception, arguments: tuple[Any, ...] | None) -> InferenceError:
        if isinstance(error, InferenceError):
            return error
        given = "it raised for a whole batch, and for none of its texts alone"
        if arguments is not None:
            given = f"it was called with {', '.join(shorten(repr(each)) for each in arguments)}"
        return failure(
            "LMP924",
            f"the host function raised {type(error).__name__}: {error}",
            notes=(given,),
            help="a reward must give a score for every text, also for an empty or a strange one",
        )

    def _refused(self, refusal: _NotScores, raw: object) -> InferenceError:
        wanted = (
            "an array [batch, members], or a tuple (mean, std)"
            if self.is_uncertain
            else "one number for each text"
        )
        if self.mode == "unknown":
            wanted += (
                "; if the function takes one text at a time, annotate its first parameter as `str`"
            )
        notes = () if raw is None else (f"it returned {shorten(repr(raw))}",)
        return failure(
            "LMP923",
            f"the host function gave {refusal}",
            notes=notes,
            help=f"return {wanted}",
        )

    def _batch(self, raw: object, size: int) -> NDArray[np.float64] | UncertainScores:
        if not self.is_uncertain:
            scores = _array(raw)
            if scores.ndim == 2 and scores.shape[1] == 1:
                scores = scores[:, 0]  # a regression head's [batch, 1]
            if scores.ndim != 1:
                raise _NotScores(_shape_in_words(scores))
            if len(scores) != size:
                raise _NotScores(f"{len(scores)} scores for {size} texts")
            return scores
        if isinstance(raw, tuple) and len(raw) == 2:
            means, stds = _array(raw[0]), _array(raw[1])
            if means.shape != (size,) or stds.shape != (size,):
                raise _NotScores(
                    f"a mean of shape {list(means.shape)} and a std of shape {list(stds.shape)} "
                    f"for {size} texts"
                )
            if (stds < 0.0).any() or not np.isfinite(stds).all():
                raise _NotScores("a std that is negative or not finite")
            return UncertainScores(gaussian_mean=means, gaussian_std=stds)
        members = _array(raw)
        if members.ndim != 2 or members.shape[0] != size or members.shape[1] == 0:
            raise _NotScores(f"{_shape_in_words(members)} for {size} texts")
        return UncertainScores(members=members)

    def _single(self, raw: object) -> Any:
        """A float, or for an uncertain reward a (mean, std) or an array of members."""
        if not self.is_uncertain:
            score = _array(raw)
            if score.ndim != 0:
                raise _NotScores(_shape_in_words(score))
            return float(score)
        if isinstance(raw, tuple) and len(raw) == 2:
            mean, std = _array(raw[0]), _array(raw[1])
            if mean.ndim or std.ndim:
                raise _NotScores("a mean and a std that are not numbers")
            if not np.isfinite(std) or std < 0.0:
                raise _NotScores("a std that is negative or not finite")
            return float(mean), float(std)
        members = _array(raw)
        if members.ndim != 1 or len(members) == 0:
            raise _NotScores(_shape_in_words(members))
        return members


class _NotScores(Exception):
    """What was returned is no batch of scores."""


class _Watched(str):
    """A text that notices when somebody walks over its characters."""

    taken_apart = False

    def __iter__(self) -> Iterator[str]:
        self.taken_apart = True
        return super().__iter__()

    def __getitem__(self, index: Any) -> str:
        self.taken_apart = True
        return super().__getitem__(index)


_READ_AS_SINGLE = (
    "the function gave one number for a whole batch, and was read as a function of one text at a"
    " time; annotate its first parameter as `str` to say so"
)


def _is_one_number(raw: object) -> bool:
    try:
        return _array(raw).ndim == 0
    except _NotScores:
        return False


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _array(raw: Any) -> NDArray[np.float64]:
    """What a host function returned as a float64 array; tensors are brought from their device."""
    if hasattr(raw, "detach"):
        raw = _of_tensor(raw)
    elif isinstance(raw, list | tuple) and any(hasattr(each, "detach") for each in raw):
        raw = [_of_tensor(each) if hasattr(each, "detach") else each for each in raw]
    parts = raw if isinstance(raw, list | tuple) else [raw]
    if any(isinstance(each, np.ma.MaskedArray) and np.ma.is_masked(each) for each in parts):
        raise _NotScores("a masked array, some of whose values are hidden")
    try:
        array = np.asarray(raw)
        # NumPy would read None as NaN and "1" as 1.0.
        if array.dtype.kind in "biuf" or (
            array.dtype == object
            and not any(each is None or isinstance(each, str | bytes) for each in array.flat)
        ):
            return array.astype(np.float64)
        if array.dtype.kind == "c":
            raise _NotScores("complex numbers")
    except (TypeError, ValueError):
        pass  # ragged, or objects that are no numbers
    raise _NotScores("something that is not made of numbers")


def _of_tensor(tensor: Any) -> NDArray[Any]:
    """A tensor of any framework of torch's kind as an array; nothing imaginary is dropped."""
    if tensor.is_complex():
        raise _NotScores("complex numbers")
    try:
        array: NDArray[Any] = tensor.detach().cpu().double().numpy()
    except (TypeError, RuntimeError) as error:
        # Sparse, quantised, without data (meta): there is more than one way to make it dense.
        raise _NotScores("a tensor that is no plain array of numbers") from error
    return array


def _shape_in_words(array: NDArray[np.float64]) -> str:
    if array.ndim == 0:
        return "a single number"
    return f"an array of shape {list(array.shape)}"


def _annotated_mode(function: Callable[..., Any]) -> Mode:
    """What the annotation of the first parameter says about the function."""
    called = function if inspect.isroutine(function) else type(function).__call__
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "unknown"
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return "unknown"
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        try:
            annotation = typing.get_type_hints(called).get(parameters[0].name, annotation)
        except (NameError, TypeError, AttributeError):
            pass  # names that only a type checker sees; the spelling has to do
    if annotation in (str, int, float, bool, "str", "int", "float", "bool"):
        return "single"
    return "batched"
