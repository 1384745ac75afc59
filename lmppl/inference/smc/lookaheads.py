"""What SMC can steer texts by, besides their requirements.

By name, as the option `lookahead` has it, "module:callable": called with the target, the number of
a text site, its stage and the executions that the texts are for, it gives a `Steering`. None: by
nothing. Those in `BY_SURROGATE` look ahead by a surrogate as well, where some requirement is open
while a text is written; `ALWAYS` are those that make one at any price.
"""

_PREFIX = "lmppl.density.steering.lookahead:PrefixLookahead"

LOOKAHEADS: dict[str, str | None] = {
    "auto": _PREFIX,
    "surrogate": None,
    "prefix": _PREFIX,
    "none": None,
}

# A twist that is fitted before the run, within half of its budget.
LEARNED = "learned"

BY_SURROGATE = frozenset({"auto", "surrogate"})
ALWAYS = frozenset({"surrogate"})


def scores_prefixes(name: str) -> bool:
    """Whether factors are read on unfinished texts."""
    return LOOKAHEADS.get(name) == _PREFIX
