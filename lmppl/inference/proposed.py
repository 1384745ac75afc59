"""The options of methods that a fitted guide can propose for."""

from __future__ import annotations

from typing import Any

from lmppl.inference.settings import option

GUIDE = "guide"
TWIST = "fitted twist"
# Draws of the prior, kept to what the requirements leave open.
MASKED = "masked"


def proposal_option(doc: str, *others: str) -> Any:
    """What draws are proposed by: a word, or what gives a guide."""
    return option(
        MASKED,
        f"{doc}; or the name of an `infer` line that fits a guide (from Python also a guide, or a"
        " directory that one was saved to)",
        choices=(MASKED, *others),
        takes=GUIDE,
    )


def floor_option() -> Any:
    """The share of the prior in what a guide proposes."""
    return option(
        0.1,
        "share of the masked prior that is mixed into what a guide proposes, so that no weight is"
        " above 1/floor times what factors allow, and what the guide never draws is drawn at that"
        " rate",
        lower=1e-3,
        upper=1.0,
    )
