"""`log_prob(x)`: how likely a choice was, under its own distribution."""

from __future__ import annotations

from lmppl.builtins.kinds import PriorScore
from lmppl.builtins.signature import Argument

LOG_PROB = PriorScore(
    name="log_prob",
    arguments=(Argument("x", "site", "the choice that is asked about"),),
    doc="The log of the probability that the choice had when it was drawn, given those before it;"
    " of a text with its end, or of its tokens where max_tokens cut it off.",
    example="factor sharp: (4 - 1) * log_prob(text)",
)
