"""What SMC can steer texts by, besides their requirements.

By name, as the option `lookahead` has it, "module:callable": called with the target, the number of
a text site, its stage and the executions that the texts are for, it gives a `Steering`. None: by
nothing.
"""

LOOKAHEADS: dict[str, str | None] = {
    "prefix": "lmppl.density.steering.lookahead:PrefixLookahead",
    "none": None,
}
