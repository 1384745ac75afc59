"""Predicates and measures of a text."""

from __future__ import annotations

import math

from lmppl.builtins.signature import Argument, Builtin, Ranges
from lmppl.ir.types import BOOL, INT, Interval

_TEXT = Argument("text", "text", "the text that is looked at")
_WORDS = Argument("words", "words", "a string or an array of strings")
_IGNORE_CASE = Argument(
    "ignore_case",
    "bool",
    "whether upper and lower case count as the same",
    required=False,
    default=False,
    known="bind",
    named_only=True,
)
_WHOLE_WORDS = Argument(
    "whole_words",
    "bool",
    "whether an occurrence inside a longer word does not count",
    required=False,
    default=False,
    known="bind",
    named_only=True,
)


def _length_range(ranges: Ranges) -> Interval:
    return Interval(0.0, math.inf)


TEXTS = (
    Builtin(
        "never",
        "predicate",
        (_TEXT, _WORDS, _IGNORE_CASE, _WHOLE_WORDS),
        BOOL,
        "True when none of the words occurs in the text.",
        'require clean: never(text, ["damn", "hell"], ignore_case=true)',
    ),
    Builtin(
        "contains",
        "predicate",
        (_TEXT, _WORDS, _IGNORE_CASE, _WHOLE_WORDS),
        BOOL,
        "True when at least one of the words occurs in the text.",
        'require contains(text, "dragon")',
    ),
    Builtin(
        "matches",
        "predicate",
        (
            _TEXT,
            Argument("pattern", "regex", "a regular expression for the whole text", known="bind"),
            _IGNORE_CASE,
        ),
        BOOL,
        "True when the whole text matches the regular expression.",
        'require sentence: matches(text, r" ?[A-Z][^.!?]*[.!?]")',
    ),
    Builtin(
        "starts_with",
        "predicate",
        (_TEXT, _WORDS, _IGNORE_CASE),
        BOOL,
        "True when the text begins with at least one of the words.",
        'require starts_with(text, " The")',
    ),
    Builtin(
        "ends_with",
        "predicate",
        (_TEXT, _WORDS, _IGNORE_CASE),
        BOOL,
        "True when the text ends with at least one of the words.",
        'require ends_with(text, [".", "!", "?"])',
    ),
    Builtin(
        "finished",
        "predicate",
        (Argument("text", "generated", "the text of a site"),),
        BOOL,
        "True when the text ended by an end token or a stop string, not by reaching max_tokens.",
        "require finished(text)",
    ),
    Builtin(
        "length",
        "function",
        (
            _TEXT,
            Argument(
                "unit",
                "string",
                "what is counted; words are runs of characters that are not white space",
                required=False,
                default="tokens",
                known="file",
                choices=("tokens", "words", "characters"),
            ),
        ),
        INT,
        "The length of the text in tokens, characters or words.",
        'require brief: length(text, unit="words") <= 20',
        result_range=_length_range,
    ),
)
