"""The kinds of factor a model can have: one file each; constraints share one automaton engine.

`FACTORS` is the one place where a built-in is listed. Being listed enrols it in the checker,
`lmppl info`, the reference and the laws. The descriptors are static: what computes a built-in is
named in them and loaded only when something is run.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmppl.builtins.descriptors.arithmetic import ARITHMETIC
from lmppl.builtins.descriptors.distributions import DISTRIBUTIONS, EXTERN_LM, PROMPTS
from lmppl.builtins.descriptors.risks import RISKS
from lmppl.builtins.descriptors.sources import SOURCES
from lmppl.builtins.descriptors.statistics import STATISTICS
from lmppl.builtins.descriptors.texts import TEXTS
from lmppl.builtins.signature import Argument, Builtin

__all__ = ["EXTERN_LM", "FACTORS", "PLANNED", "Argument", "Builtin", "builtin", "named"]

FACTORS: tuple[Builtin, ...] = (
    *TEXTS,
    *ARITHMETIC,
    *RISKS,
    *STATISTICS,
    *SOURCES,
    *DISTRIBUTIONS,
    *PROMPTS,
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

# The names that stand for a value inside an expression.
_IN_EXPRESSIONS = ("predicate", "function", "risk")


def named(*kinds: str) -> dict[str, Builtin]:
    """The built-ins of the given kinds by name."""
    return {each.name: each for each in FACTORS if each.kind in kinds}


def builtin(function: str) -> Builtin:
    """The built-in that an `ir.expr.Call` names.

    Raises:
        KeyError: no predicate, function or risk rule has this name.
    """
    return _CALLABLE[function]


_CALLABLE = named(*_IN_EXPRESSIONS)
