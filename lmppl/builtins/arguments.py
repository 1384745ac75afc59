"""Arguments that several built-ins have."""

from __future__ import annotations

import math

from lmppl.builtins.signature import Argument
from lmppl.ir.types import Interval

TEXT = Argument("text", "text", "the text that is looked at")
WORDS = Argument("words", "words", "a string or an array of strings")
IGNORE_CASE = Argument(
    "ignore_case",
    "bool",
    "whether upper and lower case count as the same",
    required=False,
    default=False,
    known="bind",
    named_only=True,
)
WHOLE_WORDS = Argument(
    "whole_words",
    "bool",
    "whether an occurrence inside a longer word does not count",
    required=False,
    default=False,
    known="bind",
    named_only=True,
)

REVISION = Argument(
    "revision",
    "string",
    "the commit or tag of a hub id",
    required=False,
    known="file",
    named_only=True,
)
TRUNCATE = Argument(
    "truncate",
    "bool",
    "whether a text that is too long loses its end; otherwise it is an error",
    required=False,
    default=False,
    known="file",
    named_only=True,
)

PROMPT = Argument("prompt", "prompt", "what the text continues", named_only=True)
NO_PROMPT = Argument(
    "prompt", "prompt", "what the text continues", required=False, default="", named_only=True
)
# How every language model is drawn from.
DRAWING = (
    Argument(
        "max_tokens",
        "int",
        "the largest number of tokens",
        known="bind",
        range=Interval(1.0, math.inf),
        named_only=True,
    ),
    Argument(
        "temperature",
        "number",
        "logits are divided by it",
        required=False,
        default=1.0,
        known="bind",
        range=Interval(0.0, math.inf),
        lower_is_open=True,
        named_only=True,
    ),
    Argument(
        "top_k",
        "int",
        "only the k likeliest tokens, renormalised",
        required=False,
        known="bind",
        range=Interval(1.0, math.inf),
        named_only=True,
    ),
    Argument(
        "top_p",
        "number",
        "only the likeliest tokens that hold a mass of p together, renormalised",
        required=False,
        known="bind",
        range=Interval(0.0, 1.0),
        lower_is_open=True,
        named_only=True,
    ),
    Argument(
        "stop",
        "words",
        "strings that end the text and are no part of it",
        required=False,
        default=(),
        known="bind",
        named_only=True,
    ),
    Argument(
        "stop_after",
        "words",
        "strings that end the text and are the last part of it",
        required=False,
        default=(),
        known="bind",
        named_only=True,
    ),
    Argument(
        "until",
        "regex",
        "a regular expression: the text ends as soon as all of it matches",
        required=False,
        known="bind",
        named_only=True,
    ),
)
