"""Small models fitted to draws of a language model, to look ahead with where that one cannot.

A surrogate is an n-gram model with sparse tables (`counting`, `smoothing`, `backoff`), whose length
of contexts and discount are chosen by texts held out (`fitting`). It guides draws and never weighs
them. `finding` takes one from where it lies or makes it.
"""

from lmppl.surrogates.counting import Budget
from lmppl.surrogates.drawing import Sampling
from lmppl.surrogates.finding import make_surrogate, surrogate_for
from lmppl.surrogates.surrogate import Report, Surrogate, prompt_tokens

__all__ = [
    "Budget",
    "Report",
    "Sampling",
    "Surrogate",
    "make_surrogate",
    "prompt_tokens",
    "surrogate_for",
]
