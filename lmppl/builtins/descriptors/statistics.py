"""Statistics of the posterior, which stand in `expect` only."""

from __future__ import annotations

from lmppl.builtins.signature import Argument, Builtin
from lmppl.ir.types import REAL, Interval

_VALUE = Argument("e", "number", "a number of each draw")

STATISTICS = (
    Builtin(
        "mean",
        "statistic",
        (_VALUE,),
        REAL,
        "The posterior mean.",
        "expect mean(sentiment(text)) >= 0.5",
    ),
    Builtin(
        "std",
        "statistic",
        (_VALUE,),
        REAL,
        "The posterior standard deviation.",
        "expect std(sentiment(text)) <= 0.3",
    ),
    Builtin(
        "probability",
        "statistic",
        (Argument("p", "bool", "a condition on each draw"),),
        REAL,
        "The posterior probability of a condition.",
        'expect probability(contains(text, "she")) >= 0.4',
    ),
    Builtin(
        "quantile",
        "statistic",
        (
            _VALUE,
            Argument(
                "q",
                "number",
                "a probability",
                known="bind",
                range=Interval(0.0, 1.0),
                lower_is_open=True,
                upper_is_open=True,
            ),
        ),
        REAL,
        "The value that e is below with posterior probability q.",
        "expect quantile(sentiment(text), 0.1) >= 0",
    ),
)
