"""Functions of numbers, with the intervals that they carry."""

from __future__ import annotations

import math
from collections.abc import Callable

from lmppl.builtins.signature import Argument, Builtin, Ranges
from lmppl.ir.types import REAL, Interval

_X = Argument("x", "number", "a number")
_A = Argument("a", "number", "a number")
_B = Argument("b", "number", "a number")


def exponential(x: float) -> float:
    """exp(x); ∞ where it is too large for a float."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def logarithm(x: float) -> float:
    """The natural logarithm, −∞ at 0.

    Raises:
        ValueError: `x` is negative.
    """
    return -math.inf if x == 0.0 else math.log(x)


def logistic(x: float) -> float:
    """1 / (1 + exp(−x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def clamped(x: float, lower: float, upper: float) -> float:
    """The number of [lower, upper] that is nearest to `x`."""
    return max(lower, min(upper, x))


def _increasing(
    function: Callable[[float], float], lowest: float = -math.inf
) -> Callable[[Ranges], Interval]:
    def result_range(ranges: Ranges) -> Interval:
        x = ranges["x"]
        return Interval(function(max(x.lower, lowest)), function(max(x.upper, lowest)))

    return result_range


def _absolute_range(ranges: Ranges) -> Interval:
    x = ranges["x"]
    if x.lower >= 0.0:
        return x
    if x.upper <= 0.0:
        return -x
    return Interval(0.0, max(-x.lower, x.upper))


def _smaller_range(ranges: Ranges) -> Interval:
    a, b = ranges["a"], ranges["b"]
    return Interval(min(a.lower, b.lower), min(a.upper, b.upper))


def _larger_range(ranges: Ranges) -> Interval:
    a, b = ranges["a"], ranges["b"]
    return Interval(max(a.lower, b.lower), max(a.upper, b.upper))


def _clamped_range(ranges: Ranges) -> Interval:
    x, lower, upper = ranges["x"], ranges["lower"], ranges["upper"]
    return Interval(
        clamped(x.lower, lower.lower, upper.lower), clamped(x.upper, lower.upper, upper.upper)
    )


ARITHMETIC = (
    Builtin(
        "abs",
        "function",
        (_X,),
        REAL,
        "The absolute value.",
        "factor -abs(length(text) - 20)",
        result_range=_absolute_range,
        executor="builtins:abs",
    ),
    Builtin(
        "exp",
        "function",
        (_X,),
        REAL,
        "e to the power of x.",
        "factor exp(score(text)) / 10",
        result_range=_increasing(exponential),
        executor="lmppl.builtins.descriptors.arithmetic:exponential",
    ),
    Builtin(
        "log",
        "function",
        (_X,),
        REAL,
        "The natural logarithm; minus infinity at 0, an error below.",
        "factor log(probability_of_kindness(text))",
        result_range=_increasing(logarithm, 0.0),
        executor="lmppl.builtins.descriptors.arithmetic:logarithm",
    ),
    Builtin(
        "sqrt",
        "function",
        (_X,),
        REAL,
        "The square root; an error below 0.",
        'factor -sqrt(length(text, unit="words"))',
        result_range=_increasing(math.sqrt, 0.0),
        executor="math:sqrt",
    ),
    Builtin(
        "sigmoid",
        "function",
        (_X,),
        REAL,
        "1 / (1 + exp(-x)).",
        "factor log(sigmoid(score(text)))",
        result_range=_increasing(logistic),
        executor="lmppl.builtins.descriptors.arithmetic:logistic",
    ),
    Builtin(
        "tanh",
        "function",
        (_X,),
        REAL,
        "The hyperbolic tangent.",
        "factor 3 * tanh(score(text))",
        result_range=_increasing(math.tanh),
        executor="math:tanh",
    ),
    Builtin(
        "min",
        "function",
        (_A, _B),
        REAL,
        "The smallest of two numbers or more.",
        "factor min(sentiment(text), 0.5) / beta",
        result_range=_smaller_range,
        executor="builtins:min",
    ),
    Builtin(
        "max",
        "function",
        (_A, _B),
        REAL,
        "The largest of two numbers or more.",
        "factor max(kind(text), funny(text)) / beta",
        result_range=_larger_range,
        executor="builtins:max",
    ),
    Builtin(
        "clamp",
        "function",
        (
            _X,
            Argument("lower", "number", "the smallest value"),
            Argument("upper", "number", "the largest value"),
        ),
        REAL,
        "The number of [lower, upper] that is nearest to x.",
        "factor clamp(score(text), lower=-5, upper=5)",
        result_range=_clamped_range,
        executor="lmppl.builtins.descriptors.arithmetic:clamped",
    ),
)
