"""Where a reward can come from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lmppl.builtins.signature import Argument, Builtin
from lmppl.ir.types import INT, REAL, UNCERTAIN, Interval

_REVISION = Argument(
    "revision",
    "string",
    "the commit or tag of a hub id",
    required=False,
    known="file",
    named_only=True,
)
_IGNORE_CASE = Argument(
    "ignore_case",
    "bool",
    "whether upper and lower case count as the same",
    required=False,
    default=False,
    known="file",
    named_only=True,
)
_TRUNCATE = Argument(
    "truncate",
    "bool",
    "whether a text that is too long loses its end; otherwise it is an error",
    required=False,
    default=False,
    known="file",
    named_only=True,
)


def source_range(source: str, arguments: Mapping[str, object]) -> Interval:
    """The interval that the scores of a source are known to lie in, given its arguments."""
    match source:
        case "vader":
            is_share = arguments.get("component", "compound") != "compound"
            return Interval(0.0 if is_share else -1.0, 1.0)
        case "count":
            return Interval(0.0, math.inf)
        case "classifier":
            return Interval(0.0, 1.0)
        case _:
            return Interval()


SOURCES = (
    Builtin(
        "vader",
        "source",
        (
            Argument(
                "component",
                "string",
                "`compound` in [-1, 1], or the share of `pos`, `neg` or `neu` words in [0, 1]",
                required=False,
                default="compound",
                known="file",
                choices=("compound", "pos", "neg", "neu"),
                named_only=True,
            ),
        ),
        REAL,
        "The sentiment of a text in [-1, 1], by the VADER word lists and rules.",
        "reward sentiment(t: string): real<lower=-1, upper=1> = vader()",
    ),
    Builtin(
        "lexicon",
        "source",
        (
            Argument("path", "string", "a file of words with scores", known="file"),
            Argument(
                "reduce",
                "string",
                "how the scores of the words become one; 0 when there are none",
                required=False,
                default="sum",
                known="file",
                choices=("sum", "mean"),
                named_only=True,
            ),
            Argument(
                "ignore_case",
                "bool",
                "whether upper and lower case count as the same",
                required=False,
                default=True,
                known="file",
                named_only=True,
            ),
        ),
        REAL,
        "The sum, or the mean, of the weights of the words of a text, read from a file.",
        'reward warmth(t: string): real = lexicon("warmth.tsv")',
    ),
    Builtin(
        "count",
        "source",
        (
            Argument("pattern", "regex", "a regular expression", known="file"),
            _IGNORE_CASE,
        ),
        INT,
        "The number of non-overlapping matches of a regular expression.",
        'reward exclamations(t: string): int<lower=0> = count("!")',
    ),
    Builtin(
        "classifier",
        "source",
        (
            Argument("model", "string", "a local directory or a hub id", known="file"),
            Argument(
                "label",
                "label",
                "the class, by name or number; the last class when not written",
                required=False,
                known="file",
                named_only=True,
            ),
            _REVISION,
            _TRUNCATE,
        ),
        REAL,
        "The probability of a class under a sequence classifier.",
        'reward kind(t: string): real<lower=0, upper=1> = classifier("acme/kind", label="kind")',
    ),
    Builtin(
        "reward_model",
        "source",
        (
            Argument("model", "string", "a local directory or a hub id", known="file"),
            _REVISION,
            _TRUNCATE,
        ),
        REAL,
        "The score of a sequence classifier with one output.",
        'reward helpful(q: string, a: string): real = reward_model("acme/rm")',
    ),
    Builtin(
        "ensemble",
        "source",
        (Argument("members", "sources", "an array of sources", known="file"),),
        UNCERTAIN,
        "An uncertain reward: each member is equally likely to be right.",
        'reward helpful(t: string): uncertain = ensemble([reward_model("a"), reward_model("b")])',
    ),
)
