"""lmppl: a probabilistic programming language for language-model posteriors.

Public names are loaded on first use, so that `import lmppl` loads neither torch, transformers
nor pyro.
"""

from __future__ import annotations

import importlib

# As type checkers read it; `typing` and `logging` cost more than all of this module.
TYPE_CHECKING = False

__version__ = "0.1.0"

_HOME = {
    "load": "lmppl.pipeline",
    "compile": "lmppl.pipeline",
    "infer": "lmppl.pipeline",
    "explain": "lmppl.pipeline",
    "CompiledModel": "lmppl.models",
    "BoundModel": "lmppl.models",
    "FunctionLM": "lmppl.lm.function",
    "Posterior": "lmppl.posterior",
    "Estimate": "lmppl.posterior",
    "load_posterior": "lmppl.reopening",
    "LmpError": "lmppl.errors",
    "InferenceError": "lmppl.errors",
    "InternalError": "lmppl.errors",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from typing import Any

    from lmppl.errors import InferenceError, InternalError, LmpError
    from lmppl.lm.function import FunctionLM
    from lmppl.models import BoundModel, CompiledModel
    from lmppl.pipeline import compile, explain, infer, load
    from lmppl.posterior import Estimate, Posterior
    from lmppl.reopening import load_posterior


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'lmppl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
