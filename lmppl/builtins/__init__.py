"""The built-ins of the language: each means what its own file says, and nobody compares its name.

`FACTORS` is the one place where a built-in is listed. Being listed enrols it in the checker,
`lmppl info`, the reference and the laws. What computes a built-in is imported only when something
is run, so that the checker loads no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from lmppl.builtins.distributions.bernoulli import BERNOULLI
from lmppl.builtins.distributions.categorical import CATEGORICAL
from lmppl.builtins.distributions.extern import EXTERN_LM
from lmppl.builtins.distributions.hmm import HMM
from lmppl.builtins.distributions.lm import LM
from lmppl.builtins.distributions.markov import MARKOV
from lmppl.builtins.distributions.ngram import NGRAM
from lmppl.builtins.functions import FUNCTIONS
from lmppl.builtins.kinds import Distribution, Source
from lmppl.builtins.length import LENGTH
from lmppl.builtins.log_prob import LOG_PROB
from lmppl.builtins.predicates.contains import CONTAINS
from lmppl.builtins.predicates.ends_with import ENDS_WITH
from lmppl.builtins.predicates.finished import FINISHED
from lmppl.builtins.predicates.matches import MATCHES
from lmppl.builtins.predicates.never import NEVER
from lmppl.builtins.predicates.starts_with import STARTS_WITH
from lmppl.builtins.prompts import CHAT
from lmppl.builtins.rules import RULES
from lmppl.builtins.signature import Argument, Builtin
from lmppl.builtins.sources.classifier import CLASSIFIER
from lmppl.builtins.sources.count import COUNT
from lmppl.builtins.sources.ensemble import ENSEMBLE
from lmppl.builtins.sources.extern import EXTERN_REWARD
from lmppl.builtins.sources.lexicon import LEXICON
from lmppl.builtins.sources.reward_model import REWARD_MODEL
from lmppl.builtins.sources.vader import VADER
from lmppl.builtins.statistics import STATISTICS
from lmppl.ir import model as ir
from lmppl.ir.expr import Expr

__all__ = [
    "EXTERN_LM",
    "FACTORS",
    "PLANNED",
    "Argument",
    "Builtin",
    "builtin",
    "distribution_of",
    "every",
    "named",
    "patterns_of",
    "source_of",
]

Kind = TypeVar("Kind", bound=Builtin)

PREDICATES = (
    NEVER,
    CONTAINS,
    MATCHES,
    STARTS_WITH,
    ENDS_WITH,
    FINISHED,
)
SOURCES = (
    VADER,
    LEXICON,
    COUNT,
    CLASSIFIER,
    REWARD_MODEL,
    ENSEMBLE,
)
DISTRIBUTIONS = (
    LM,
    MARKOV,
    NGRAM,
    HMM,
    CATEGORICAL,
    BERNOULLI,
)

FACTORS: tuple[Builtin, ...] = (
    *PREDICATES,
    LENGTH,
    LOG_PROB,
    *FUNCTIONS,
    *RULES,
    *STATISTICS,
    *SOURCES,
    *DISTRIBUTIONS,
    CHAT,
)

# Names of the language that this version refuses, and what they will be.
PLANNED: Mapping[str, str] = {
    "grammar": "predicate",
    "json": "predicate",
    "uniform": "distribution",
    "normal": "distribution",
    "beta": "distribution",
    "poisson": "distribution",
    "iid": "distribution",
    "mc_dropout": "source",
}


def every(kind: type[Kind]) -> dict[str, Kind]:
    """The built-ins of a class by name."""
    return {each.name: each for each in FACTORS if isinstance(each, kind)}


def named(*kinds: str) -> dict[str, Builtin]:
    """The built-ins of the given kinds by name."""
    return {each.name: each for each in FACTORS if each.kind in kinds}


def builtin(function: str) -> Builtin:
    """The built-in that an `ir.expr.Call` names.

    Raises:
        KeyError: no predicate, function or risk rule has this name.
    """
    return _CALLABLE[function]


def source_of(described: ir.RewardSource) -> Source:
    """The built-in that a reward comes from; `EXTERN_REWARD` where the host gives it."""
    return _SOURCES[described.kind]


def distribution_of(described: ir.Distribution) -> Distribution:
    """The built-in that a site is drawn from; `EXTERN_LM` where the host gives it."""
    return _DISTRIBUTIONS[described.kind]


def patterns_of(described: ir.Distribution) -> list[Expr]:
    """The regular expressions among the arguments of a distribution."""
    given = map(described.argument, (a.name for a in distribution_of(described).accepting("regex")))
    return [each for each in given if each is not None]


# The names that stand for a value inside an expression.
_CALLABLE = named("predicate", "function", "risk")
_SOURCES: dict[str, Source] = {each.name: each for each in (*SOURCES, EXTERN_REWARD)}
_DISTRIBUTIONS: dict[str, Distribution] = {each.name: each for each in (*DISTRIBUTIONS, EXTERN_LM)}
