"""Markov chain Monte Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.inference.proposed import floor_option, proposal_option
from lmppl.inference.settings import Referee, Settings, Values, option, refusal
from lmppl.ir.model import Model
from lmppl.records import dataclass

_DEFAULT_CHAINS = 32
_FEWEST_PER_CHAIN = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class MCMC(Settings):
    """Metropolis–Hastings by regenerating parts of texts, with Gibbs on discrete sites."""

    name: ClassVar[str] = "mcmc"
    summary: ClassVar[str] = "many chains of texts, each step regenerating a part of one"
    engine: ClassVar[str] = "lmppl.inference.mcmc.engine:MCMCEngine"
    referee: ClassVar[Referee] = "chain"
    more_draws: ClassVar[str] = "run more steps (num_samples) or more chains (num_chains)"

    num_chains: int = option(_DEFAULT_CHAINS, "chains, all advanced in one batch", lower=1)
    num_samples: int = option(100, "kept draws of each chain", lower=1)
    warmup_steps: int = option(100, "steps before the first kept draw", lower=0)
    thinning: int = option(1, "steps between two kept draws", lower=1)
    start: str = option(
        "smc",
        "where chains start: 'smc' from a small particle run each, 'prior' from the masked prior",
        choices=("smc", "prior"),
    )
    block_probability: float = option(
        0.2, "share of text moves that rewrite a block in the middle", lower=0.0, upper=1.0
    )
    block_size: int = option(
        4, "tokens in a block move, and the most that an infill move takes out or puts in", lower=1
    )
    infill_probability: float = option(
        0.0,
        "share of text moves that put more or fewer tokens in the place of a block in the middle",
        lower=0.0,
        upper=1.0,
    )
    particle_probability: float = option(
        0.0,
        "share of text moves that draw the text among num_particles others (particle Gibbs)",
        lower=0.0,
        upper=1.0,
    )
    num_particles: int = option(8, "particles of a particle move, the text among them", lower=2)
    joints: int = option(
        0,
        "places in a particle move where the text may change its beginning (ancestor sampling);"
        " each scores the rest of the text after every particle",
        lower=0,
    )
    resampling: str = option(
        "systematic",
        "how the particles of a particle move are resampled, given that the text survives",
        choices=("systematic", "multinomial"),
    )
    lookahead: str = option(
        "prefix",
        "what guides the particles of a particle move: 'prefix' scores unfinished texts every 4"
        " tokens, 'none' nothing but the requirements",
        choices=("prefix", "none"),
    )
    adapt: bool = option(
        False,
        "whether warm-up finds the shares of the kinds of text moves, all of which it then tries:"
        " by the distance they go for a token; they are fixed after it",
    )
    proposal: str = proposal_option(
        "what steps that draw everything anew propose: 'masked', the prior kept to what the"
        " constraints allow (a tenth of the steps, where there are several choices)"
    )
    guide_probability: float = option(
        0.3, "share of steps that draw everything anew from a guide", lower=0.0, upper=1.0
    )
    floor: float = floor_option()

    @classmethod
    def draws_per_option(cls, options: Mapping[str, object]) -> int:
        return _whole(options.get("num_chains"), _DEFAULT_CHAINS)

    @classmethod
    def option_for_draws(cls, num_draws: int, options: Mapping[str, object]) -> int:
        # Fewer kept draws than this say nothing about whether a chain has converged.
        return max(_FEWEST_PER_CHAIN, -(-num_draws // cls.draws_per_option(options)))

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        return tuple(
            refusal(
                "LMP415",
                f"{p.title} changes when it is evaluated again, and mcmc has no"
                " pseudo-marginal rule for it",
                p,
                "use smc or importance, or give the same score for the same text",
            )
            for p in model.potentials
            if p.facts.noise != "none"
        )


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise
