"""The methods there are: a line for each, which enrols it everywhere."""

from __future__ import annotations

from importlib import import_module

from lmppl.errors import Diagnostic, closest
from lmppl.inference.settings import Settings
from lmppl.ir.model import Model

# "folder:Settings", in the order in which they are shown and chosen from.
_LISTED = (
    "exact:Exact",
    "rejection:Rejection",
    "importance:Importance",
    "smc:SMC",
    "tempered:Tempered",
    "ais:AIS",
    "mcmc:MCMC",
    "svi:SVI",
    "twist:Twist",
)


def _listed(entry: str) -> type[Settings]:
    folder, _, name = entry.partition(":")
    found: type[Settings] = getattr(import_module(f"lmppl.inference.{folder}"), name)
    return found


METHODS: tuple[type[Settings], ...] = tuple(_listed(entry) for entry in _LISTED)


def method_named(name: str) -> type[Settings] | None:
    """The method of a name, or None."""
    return next((method for method in METHODS if method.name == name), None)


def method_meant(name: str) -> type[Settings] | None:
    """The method that a misspelt name was probably meant to be, or None."""
    guess = closest(name, [method.name for method in METHODS])
    return None if guess is None else method_named(guess)


def check_method(name: str) -> Diagnostic | None:
    """LMP401 for a method that does not exist, with a suggestion."""
    if method_named(name) is not None:
        return None
    meant = method_meant(name)
    names = ", ".join(method.name for method in METHODS)
    help_ = f"did you mean `{meant.name}`?" if meant else f"the methods are {names}"
    return Diagnostic("LMP401", "error", f"there is no inference method `{name}`", help=help_)


def default_method(model: Model) -> type[Settings]:
    """What a file without an `infer` line is inferred by: the first that suits it."""
    return next(method for method in METHODS if method.suits(model))
