"""Spellings of special tokens in a program: the token as a stop string, a mistake elsewhere.

A special token adds nothing to a text, so that what looks for its spelling never sees it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmppl.automata.spelling import spelled_in
from lmppl.builtins import builtin, source_of
from lmppl.builtins.arguments import IGNORE_CASE
from lmppl.builtins.signature import as_words
from lmppl.density.target import Target
from lmppl.errors import Diagnostic, InferenceError, Span
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Interpolation,
    Reference,
    RewardCall,
)
from lmppl.ir.model import Model, RewardSource, Site
from lmppl.lm.protocol import LanguageModel

# Combinations of earlier choices that are written out to know what is looked for.
_MOST_COMBINATIONS = 256


def ending_at(
    model: Model, site: Site, lm: LanguageModel, argument: str, known: Mapping[str, Any]
) -> tuple[LanguageModel, tuple[str, ...]]:
    """The language model that ends texts at those special tokens too, and the other stop strings.

    `argument` is the one of the site that has the strings, and `known` what its arguments are.

    Raises:
        InferenceError: LMP942, a stop string that has such a spelling within it; LMP941, the
            token of one is none that the model can draw.
    """
    special: Mapping[str, int] = getattr(lm, "special_tokens", {})
    ends, others = [], []
    for stop in dict.fromkeys(as_words(known[argument] or ())):
        if stop in special:
            ends.append(stop)
            continue
        others.append(stop)
        if within := next((token for token in special if token in stop), None):
            raise _refused(
                model,
                site,
                argument,
                "LMP942",
                f"the stop string {stop!r} has the spelling of the special token {within!r} in it,"
                " which adds nothing to a text: no text would end there",
                f"to end the text at that token, write `{argument}=[{json.dumps(within)}]`",
            )
    for stop in ends:
        if special[stop] >= lm.vocab.size:
            raise _refused(
                model,
                site,
                argument,
                "LMP941",
                f"the stop string {stop!r} is the special token {special[stop]}, which is outside"
                f" the {lm.vocab.size} tokens of the model: no text would end there",
                "write a stop string that the model can draw",
            )
    if ends:
        lm = lm.ending_at([special[stop] for stop in ends])  # type: ignore[attr-defined]
    return lm, tuple(others)


def require_no_tokens(model: Model, site: Site, lm: LanguageModel, until: str) -> None:
    """Raises: InferenceError (LMP942) where a pattern that ends texts spells a special token."""
    special = getattr(lm, "special_tokens", {})
    token = next(spelled_in(until, special), None)
    if token is not None:
        raise _refused(
            model,
            site,
            "until",
            "LMP942",
            f"this spells the special token {token!r}, which adds nothing to a text: no text would"
            " match",
            f"to end the text at that token, write `stop=[{json.dumps(token)}]`",
        )


def _refused(
    model: Model, site: Site, argument: str, code: str, message: str, help: str
) -> InferenceError:
    given = site.distribution.argument(argument)
    span = site.span if given is None else given.span
    return InferenceError([Diagnostic(code, "error", message, span, help=help)], model.sources)


def spelled_tokens(target: Target) -> list[Diagnostic]:
    """LMP942 wherever the program looks for the spelling of a special token in a text."""
    return spelled_in_expressions(target, target.model.expressions)


def spelled_in_expressions(target: Target, exprs: Iterable[Expr | None]) -> list[Diagnostic]:
    """LMP942 wherever expressions look for the spelling of a special token in a text."""
    special = {
        stage.name: tokens
        for stage in target.stages
        for lm in stage.language_models
        if (tokens := getattr(lm, "special_tokens", {}))
    }
    if not special:
        return []
    found: dict[Span, Diagnostic] = {}
    for node in target.model.nodes(*exprs):
        for text, spelled in _looked_for(target, node):
            sites, fixed = _pieces(target, text)
            for site in sorted(sites & special.keys()):
                tokens = [t for t in special[site] if not any(t in piece for piece in fixed)]
                token = next(iter(spelled(tokens)), None)
                if token is not None:
                    found.setdefault(node.span, _not_text(site, node.span, token))
    return list(found.values())


def _not_text(site: str, span: Span, token: str) -> Diagnostic:
    return Diagnostic(
        "LMP942",
        "error",
        f"{token!r} is the spelling of a special token, which adds nothing to `{site}`: this would"
        " not see it",
        span,
        help=f"to end the text at that token, write `stop=[{json.dumps(token)}]`",
    )


class _Words:
    """Strings that are looked for: says which spellings are within them."""

    def __init__(self, words: Iterable[str], ignore_case: bool = False) -> None:
        self.ignore_case = ignore_case
        self.words = [word.casefold() for word in words] if ignore_case else list(words)
        self.letters = set().union(*self.words)

    def __call__(self, tokens: Sequence[str]) -> Iterator[str]:
        for token in tokens:
            spelling = token.casefold() if self.ignore_case else token
            if self.letters.issuperset(spelling) and any(spelling in w for w in self.words):
                yield token


class _Pattern:
    """A regular expression that is looked for: says which spellings it spells."""

    def __init__(self, patterns: Iterable[str], ignore_case: bool = False) -> None:
        self.patterns, self.ignore_case = list(patterns), ignore_case

    def __call__(self, tokens: Sequence[str]) -> Iterator[str]:
        for pattern in self.patterns:
            yield from spelled_in(pattern, tokens, self.ignore_case)


def _looked_for(target: Target, node: Expr) -> Iterator[tuple[Expr, _Words | _Pattern]]:
    """The text that a node looks into, and for what."""
    match node:
        case Call():
            for argument in builtin(node.function).accepting("words", "regex"):
                given = node.argument(argument.name)
                if given is not None:
                    looks_for = _Words if argument.accepts == "words" else _Pattern
                    (_, text), *_ = node.arguments
                    yield text, looks_for(_strings(target, given), _flag(target, node))
        case Binary(operator="==" | "!=" | "in"):
            kinds = {node.left.type.kind, node.right.type.kind}
            if kinds == {"string"}:
                yield node.left, _Words(_strings(target, node.right))
                if node.operator != "in":
                    yield node.right, _Words(_strings(target, node.left))
        case RewardCall() if node.reward in target.model.rewards:
            for source in _sources(target.model.rewards[node.reward].source):
                for argument in source_of(source).accepting("regex"):
                    pattern = str(source.arguments[argument.name])
                    ignore_case = bool(source.arguments.get(IGNORE_CASE.name, False))
                    yield node.arguments[0], _Pattern([pattern], ignore_case)


def _sources(source: RewardSource) -> Iterator[RewardSource]:
    yield source
    for member in source.members:
        yield from _sources(member)


def _flag(target: Target, node: Call) -> bool:
    """Whether upper and lower case count as the same in some binding."""
    given = node.argument(IGNORE_CASE.name)
    return given is not None and any(_values(target, given))


def _strings(target: Target, expr: Expr) -> list[str]:
    """All strings that an expression, or an array of strings, may stand for."""
    found: dict[str, None] = {}
    for value in _values(target, expr):
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str):
                found[each] = None
    return list(found)


def _values(target: Target, expr: Expr) -> list[object]:
    """The values of an expression of parameters and choices; what hangs on texts is left out."""
    model = target.model
    if isinstance(expr, Constant):
        return [expr.value]
    used = {node.name for node in model.nodes(expr) if isinstance(node, Reference)}
    supports = {
        stage.name: stage.support
        for stage in target.stages
        if stage.support is not None and stage.name in used
    }
    if math.prod(len(support) for support in supports.values()) > _MOST_COMBINATIONS:
        return [value for support in supports.values() for value in support]
    bindings = {
        repr(known): known
        for binding in target.bindings
        for known in [{name: value for name, value in binding.items() if name in used}]
    }
    found: list[object] = []
    for known in bindings.values():
        for values in itertools.product(*supports.values()):
            chosen = dict(zip(supports, values, strict=True))
            try:
                found.append(constant_value(expr, model, {**known, **chosen}))
            except (NotConstant, ArithmeticError, ValueError, TypeError):
                continue
    return found


def _pieces(target: Target, text: Expr) -> tuple[set[str], list[str]]:
    """The text sites that a text is made of, and the strings that are put beside them."""
    sites: set[str] = set()
    fixed: list[str] = []
    waiting: list[Expr | str] = [text]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, str):
            fixed.append(piece)
            continue
        match target.model.resolve(piece):
            case Reference(role="site", name=name) if target.model.site(name).is_text:
                sites.add(name)
            case Conditional(consequent=consequent, alternative=alternative):
                waiting += [consequent, alternative]
            case Interpolation(parts=parts):
                waiting += parts
            case Binary(operator="+", left=left, right=right):
                waiting += [left, right]
            case other:
                fixed += _strings(target, other)
    return sites, fixed
