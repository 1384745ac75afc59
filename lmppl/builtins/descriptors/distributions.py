"""What a choice can be drawn from."""

from __future__ import annotations

import math

from lmppl.builtins.signature import Argument, Builtin
from lmppl.ir.types import BOOL, CHAT, STRING, Interval

_PROMPT = Argument("prompt", "prompt", "what the text continues", named_only=True)
_NO_PROMPT = Argument(
    "prompt", "prompt", "what the text continues", required=False, default="", named_only=True
)
_DRAWING = (
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
)

# A language model that the host gives is called by its own name and has these arguments.
EXTERN_LM = Builtin(
    "extern",
    "distribution",
    (_NO_PROMPT, *_DRAWING),
    STRING,
    "A text of a language model that the host program gives.",
    "text ~ prior(max_tokens=6)",
)

DISTRIBUTIONS = (
    Builtin(
        "lm",
        "distribution",
        (
            Argument("model", "string", "`builtin:…`, a local directory or a hub id", known="bind"),
            _PROMPT,
            *_DRAWING,
            Argument(
                "revision",
                "string",
                "the commit or tag of a hub id",
                required=False,
                known="bind",
                named_only=True,
            ),
        ),
        STRING,
        "A text of a causal language model after a prompt.",
        'text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=40)',
    ),
    Builtin(
        "markov",
        "distribution",
        (Argument("path", "string", "a JSON file with the chain", known="bind"), *_DRAWING),
        STRING,
        "A text of a Markov chain over tokens.",
        'text ~ markov("prior.json", max_tokens=6)',
    ),
    Builtin(
        "ngram",
        "distribution",
        (
            Argument("path", "string", "a text file to estimate from", known="bind"),
            Argument(
                "order",
                "int",
                "how many tokens a window holds",
                required=False,
                default=3,
                known="bind",
                # Windows beyond the longest line of a corpus say nothing more.
                range=Interval(1.0, 100.0),
                named_only=True,
            ),
            _NO_PROMPT,
            *_DRAWING,
        ),
        STRING,
        "A text of an n-gram model that is estimated from a file.",
        'text ~ ngram("corpus.txt", order=3, max_tokens=20)',
    ),
    Builtin(
        "categorical",
        "distribution",
        (
            Argument("values", "values", "the values that can be drawn", known="bind"),
            Argument(
                "probs",
                "numbers",
                "their probabilities; all alike when not written",
                required=False,
                named_only=False,
            ),
        ),
        STRING,
        "One of several values.",
        'topic ~ categorical(["sports", "food"], probs=[0.3, 0.7])',
    ),
    Builtin(
        "bernoulli",
        "distribution",
        (Argument("p", "number", "the probability of true", range=Interval(0.0, 1.0)),),
        BOOL,
        "True or false.",
        "mood ~ bernoulli(0.7)",
    ),
)

# `chat` makes a prompt.
PROMPTS = (
    Builtin(
        "chat",
        "function",
        (
            Argument("user", "string", "what the user says"),
            Argument("system", "string", "the system message", required=False, named_only=True),
        ),
        CHAT,
        "A prompt rendered by the tokenizer's chat template.",
        'text ~ lm("acme/chat", prompt=chat(system="Be brief.", user=question), max_tokens=64)',
    ),
)
