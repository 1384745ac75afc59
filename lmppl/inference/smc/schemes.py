"""How SMC can resample its particles.

By name, as the option `resampling` has it, "module:callable": called with log weights
`[populations, particles]` and uniform numbers, it gives the ancestor of every new particle. The
uniform numbers are one for each population, or, where `True` stands beside the name, one for each
particle.
"""

SCHEMES: dict[str, tuple[str, bool]] = {
    "systematic": ("lmppl.sequences.resampling:systematic_resample", False),
    "stratified": ("lmppl.sequences.resampling:stratified_resample", True),
    "ssp": ("lmppl.sequences.resampling:ssp_resample", True),
}
