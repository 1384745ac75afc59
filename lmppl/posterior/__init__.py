"""What inference returns: weighted draws, estimates with errors, and their storage."""

from lmppl.posterior.absent import NoPosterior
from lmppl.posterior.draw import Draw, TextDraw
from lmppl.posterior.estimate import Estimate, log_mean_exp
from lmppl.posterior.expectation import ExpectationResult, verdict_of
from lmppl.posterior.posterior import Posterior
from lmppl.posterior.unseen import Unseen

__all__ = [
    "Draw",
    "Estimate",
    "ExpectationResult",
    "NoPosterior",
    "Posterior",
    "TextDraw",
    "Unseen",
    "log_mean_exp",
    "verdict_of",
]
