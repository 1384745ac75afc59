"""Rewards, functions and language models of the host that are no functions of their arguments.

Every distinct text is scored once and remembered, which hides a reward that would give another
score the next time: the posterior then depends on which score came first. So a few of the first
calls of a run are made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from lmppl.density import Target
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.settings import Settings
from lmppl.lm.function import FunctionLM
from lmppl.lm.protocol import LanguageModel

# The first batches of a reward or a language model, and the first calls of a function.
_BATCHES, _CALLS = 2, 8


@dataclass(slots=True)
class Doubts:
    """What a run doubts, and what came of it."""

    target: Target
    exact: bool
    _functions: dict[str, _Function] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Target, settings: Settings) -> Doubts:
        """Doubts of everything that the host gave to a target; its `target` is to be run."""
        doubts = cls(target.with_language_models(_doubted), settings.is_exact)
        target = doubts.target
        for scorer in target.scorers.values():
            if scorer.reward.source.is_extern and not scorer.is_noisy:
                scorer.doubts, scorer.disagreement = _BATCHES, ""
        doubts._functions = {name: _Function(name, f) for name, f in target.functions.items()}
        if doubts._functions:
            doubts.target = replace(target, functions=doubts._functions)
        return doubts

    def found(self) -> list[str]:
        """A sentence for each that is no function."""
        rewards = [scorer.disagreement for scorer in self.target.scorers.values()]
        models = [
            lm.disagreement for lm in self.target.language_models() if isinstance(lm, FunctionLM)
        ]
        functions = [function.disagreement for function in self._functions.values()]
        return list(dict.fromkeys(each for each in (*rewards, *models, *functions) if each))

    def require_functions(self) -> None:
        """Nothing that is exact may rest on what is no function.

        Raises:
            InferenceError: LMP951, something is none, and the method is exact.
        """
        found = self.found() if self.exact else []
        if found:
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP951",
                        "error",
                        sentence,
                        help="make it a function of its arguments: fix its seed, switch off"
                        " dropout with .eval(), average over its noise, and score each text of a"
                        " batch by itself",
                    )
                    for sentence in found
                ],
                self.target.model.sources,
            )

    def warnings(self) -> list[str]:
        """What to tell of them."""
        return [
            f"{sentence}: it is no function of its arguments, and the posterior is that of the"
            " values that happened to come first"
            for sentence in self.found()
        ]


def _doubted(lm: LanguageModel) -> LanguageModel:
    """A language model of the host as one run asks it: other runs have doubts of their own."""
    return lm.doubted(_BATCHES) if isinstance(lm, FunctionLM) else lm


@dataclass(slots=True)
class _Function:
    """A function of the host whose first calls are made twice."""

    name: str
    function: Callable[..., Any]
    doubts: int = _CALLS
    disagreement: str = ""

    def __call__(self, *arguments: Any) -> Any:
        again = [list(each) if isinstance(each, list) else each for each in arguments]
        result = self.function(*arguments)
        if self.doubts:
            self.doubts -= 1
            other = self.function(*again)
            if repr(other) != repr(result):
                self.disagreement = (
                    f"the host function `{self.name}` gave {result!r:.80} and then {other!r:.80}"
                    " for the same arguments"
                )
                self.doubts = 0
        return result
