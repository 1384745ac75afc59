"""What stands in a list of posteriors for a binding that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from lmppl.errors import InferenceError


class NoPosterior:
    """The place of a posterior that could not be had, in the results of many bindings.

    It is false, `error` says why, `parameters` of what; whatever else a posterior is asked raises
    that error.

    >>> found = [post for post in lmppl.infer(models) if post]  # doctest: +SKIP
    """

    def __init__(self, error: InferenceError, parameters: Mapping[str, object]) -> None:
        self.error, self.parameters = error, dict(parameters)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        first = self.error.diagnostics[0]
        return f"<NoPosterior: {first.code}, {first.message}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            # What Python and notebooks look for is not asked of a posterior.
            raise AttributeError(name)
        raise self.error

    def __len__(self) -> NoReturn:
        raise self.error

    def __iter__(self) -> NoReturn:
        raise self.error

    def __getitem__(self, key: object) -> NoReturn:
        raise self.error
