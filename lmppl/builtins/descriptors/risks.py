"""Rules that turn an uncertain reward into a number; `lmppl.builtins.risk` computes them."""

from __future__ import annotations

from lmppl.builtins.risk_ranges import RISK_RULES, RiskRule, rule_range
from lmppl.builtins.signature import Argument, Builtin, Ranges
from lmppl.ir.types import REAL, Interval

# Rule: what it gives, what its argument means, an example.
_IN_WORDS: dict[str, tuple[str, str, str]] = {
    "mean": ("The mean of the reward's distribution.", "", "factor mean(helpful(text)) / beta"),
    "std": ("The standard deviation of the reward's distribution.", "", "return std(h)"),
    "lcb": (
        "The lower confidence bound: mean - k * std.",
        "how many standard deviations below the mean",
        "factor lcb(helpful(text), k=2) / beta",
    ),
    "worst": ("The lowest member of an ensemble.", "", "factor worst(helpful(text)) / beta"),
    "quantile": (
        "The value that the reward is below with probability q.",
        "a probability",
        "factor quantile(helpful(text), q=0.1) / beta",
    ),
    "cvar": (
        "The mean of the reward over its lowest share alpha.",
        "the share of the lowest values",
        "factor cvar(helpful(text), alpha=0.25) / beta",
    ),
    "entropic": (
        "The certainty equivalent -log(mean(exp(-rho * r))) / rho; averse to risk for rho > 0.",
        "the attitude to risk; 0 is the mean",
        "factor entropic(helpful(text), rho=1) / beta",
    ),
    "preferred": (
        "The log of the probability that the reward exceeds a threshold.",
        "the threshold",
        "factor preferred(helpful(text), over=0.5)",
    ),
}


def _builtin(rule: RiskRule) -> Builtin:
    doc, meaning, example = _IN_WORDS[rule.name]
    arguments = [Argument("r", "uncertain", "an uncertain reward")]
    if rule.parameter is not None:
        arguments.append(
            Argument(
                rule.parameter,
                "number",
                meaning,
                required=rule.default is None,
                default=rule.default,
                range=Interval(rule.lower, rule.upper),
                lower_is_open=rule.lower_is_open,
                upper_is_open=rule.upper_is_open,
            )
        )

    def result_range(ranges: Ranges) -> Interval:
        parameter = (
            {}
            if rule.parameter is None
            else {name: range for name, range in ranges.items() if name == rule.parameter}
        )
        return rule_range(rule.name, ranges["r"], parameter)

    return Builtin(
        rule.name,
        "risk",
        tuple(arguments),
        REAL,
        doc,
        example,
        result_range=result_range,
        executor=f"lmppl.builtins.risk:{rule.name}",
    )


RISKS = tuple(_builtin(rule) for rule in RISK_RULES.values())
