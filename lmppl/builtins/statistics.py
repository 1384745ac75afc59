"""Statistics of the posterior, which stand in `expect` only."""

from __future__ import annotations

from lmppl.builtins.kinds import Statistic
from lmppl.builtins.signature import Argument
from lmppl.ir.types import Interval

_VALUE = Argument("e", "number", "a number of each draw")

PROBABILITY = Statistic(
    name="probability",
    arguments=(Argument("p", "bool", "a condition on each draw"),),
    doc="The posterior probability of a condition.",
    example='expect probability(contains(text, "she")) >= 0.4',
    is_expectation=True,
)
MEAN = Statistic(
    name="mean",
    arguments=(_VALUE,),
    doc="The posterior mean.",
    example="expect mean(sentiment(text)) >= 0.5",
    is_expectation=True,
    of_conditions=PROBABILITY.name,
)
STD = Statistic(
    name="std",
    arguments=(_VALUE,),
    doc="The posterior standard deviation.",
    example="expect std(sentiment(text)) <= 0.3",
)
QUANTILE = Statistic(
    name="quantile",
    arguments=(
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
    doc="The value that e is below with posterior probability q.",
    example="expect quantile(sentiment(text), 0.1) >= 0",
)

STATISTICS = (MEAN, STD, PROBABILITY, QUANTILE)
