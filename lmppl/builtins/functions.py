"""Functions of numbers: what they compute, on numbers and on batches, and the intervals they carry.

A function of the file that works on batches has a name that begins with `batch_`, and imports
NumPy when it is called: the checker reads this file and needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

from lmppl.builtins.kinds import Extremes, Function
from lmppl.builtins.signature import Argument, Ranges
from lmppl.ir.expr import Call, Unary
from lmppl.ir.types import Interval

_X = Argument("x", "number", "a number")
_A = Argument("a", "number", "a number")
_B = Argument("b", "number", "a number")
_FROM_ZERO = Interval(0.0, math.inf)


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


def batch_logistic(x: Any) -> Any:
    """`logistic` of every number of an array."""
    import numpy as np

    # exp of a number that is not positive never overflows.
    small = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1.0, small) / (1.0 + small)


def batch_smallest(*values: Any) -> Any:
    """The smallest of several numbers, row by row."""
    import numpy as np

    return reduce(np.minimum, values)


def batch_largest(*values: Any) -> Any:
    """The largest of several numbers, row by row."""
    import numpy as np

    return reduce(np.maximum, values)


def batch_clamped(x: Any, lower: Any, upper: Any) -> Any:
    """`clamped` of every number of an array."""
    import numpy as np

    return np.maximum(lower, np.minimum(upper, x))


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


def _smallest_of_both(call: Call) -> Extremes:
    return Extremes("smallest", tuple(value for _, value in call.arguments))


def _largest_of_both(call: Call) -> Extremes:
    return Extremes("largest", tuple(value for _, value in call.arguments))


def _largest_of_x_and_minus_x(call: Call) -> Extremes:
    (x,) = (value for _, value in call.arguments)
    return Extremes("largest", (x, Unary(call.type, call.span, "-", x)))


def _largest_of_lower_and_the_rest(call: Call) -> Extremes:
    x, lower, upper = (call.argument(each.name) for each in CLAMP.arguments)
    assert x is not None and lower is not None and upper is not None
    rest = Call(call.type, call.span, MIN.name, ((_A.name, upper), (_B.name, x)))
    return Extremes("largest", (lower, rest))


ABS = Function(
    name="abs",
    arguments=(_X,),
    doc="The absolute value.",
    example="factor -abs(length(text) - 20)",
    plain=abs,
    arrays="numpy:abs",
    result_range=_absolute_range,
    keeps_ints=True,
    extremes=_largest_of_x_and_minus_x,
)
EXP = Function(
    name="exp",
    arguments=(_X,),
    doc="e to the power of x.",
    example="factor exp(score(text)) / 10",
    plain=exponential,
    arrays="numpy:exp",
    result_range=_increasing(exponential),
)
LOG = Function(
    name="log",
    arguments=(_X,),
    doc="The natural logarithm; minus infinity at 0, an error below.",
    example="factor log(probability_of_kindness(text))",
    plain=logarithm,
    arrays="numpy:log",
    result_range=_increasing(logarithm, 0.0),
    domain=_FROM_ZERO,
    remedy="the logarithm needs a number from 0 up",
    may_be_zero_mass=True,
)
SQRT = Function(
    name="sqrt",
    arguments=(_X,),
    doc="The square root; an error below 0.",
    example='factor -sqrt(length(text, unit="words"))',
    plain=math.sqrt,
    arrays="numpy:sqrt",
    result_range=_increasing(math.sqrt, 0.0),
    domain=_FROM_ZERO,
    remedy="the square root needs a number from 0 up",
)
SIGMOID = Function(
    name="sigmoid",
    arguments=(_X,),
    doc="1 / (1 + exp(-x)).",
    example="factor log(sigmoid(score(text)))",
    plain=logistic,
    arrays="lmppl.builtins.functions:batch_logistic",
    result_range=_increasing(logistic),
)
TANH = Function(
    name="tanh",
    arguments=(_X,),
    doc="The hyperbolic tangent.",
    example="factor 3 * tanh(score(text))",
    plain=math.tanh,
    arrays="numpy:tanh",
    result_range=_increasing(math.tanh),
)
MIN = Function(
    name="min",
    arguments=(_A, _B),
    doc="The smallest of two numbers or more.",
    example="factor min(sentiment(text), 0.5) / beta",
    plain=min,
    arrays="lmppl.builtins.functions:batch_smallest",
    result_range=_smaller_range,
    variadic=True,
    keeps_ints=True,
    extremes=_smallest_of_both,
)
MAX = Function(
    name="max",
    arguments=(_A, _B),
    doc="The largest of two numbers or more.",
    example="factor max(kind(text), funny(text)) / beta",
    plain=max,
    arrays="lmppl.builtins.functions:batch_largest",
    result_range=_larger_range,
    variadic=True,
    keeps_ints=True,
    extremes=_largest_of_both,
)
CLAMP = Function(
    name="clamp",
    arguments=(
        _X,
        Argument("lower", "number", "the smallest value"),
        Argument("upper", "number", "the largest value"),
    ),
    doc="The number of [lower, upper] that is nearest to x.",
    example="factor clamp(score(text), lower=-5, upper=5)",
    plain=clamped,
    arrays="lmppl.builtins.functions:batch_clamped",
    result_range=_clamped_range,
    keeps_ints=True,
    extremes=_largest_of_lower_and_the_rest,
)

FUNCTIONS = (
    ABS,
    EXP,
    LOG,
    SQRT,
    SIGMOID,
    TANH,
    MIN,
    MAX,
    CLAMP,
)
