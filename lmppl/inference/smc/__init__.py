"""Sequential Monte Carlo."""

from __future__ import annotations

from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.evaluation.powers import floors
from lmppl.inference.proposed import MASKED, TWIST, floor_option, proposal_option
from lmppl.inference.settings import Referee, Settings, Values, option, refusal
from lmppl.inference.smc.lookaheads import LEARNED, LOOKAHEADS, scores_prefixes
from lmppl.inference.smc.schemes import SCHEMES
from lmppl.ir.model import Model, Potential
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SMC(Settings):
    """Sequential Monte Carlo, one token at a time."""

    name: ClassVar[str] = "smc"
    summary: ClassVar[str] = "a population of texts grown token by token, resampled by weight"
    engine: ClassVar[str] = "lmppl.inference.smc.engine:SMCEngine"
    num_draws_option: ClassVar[str] = "num_particles"
    referee: ClassVar[Referee] = "weighted"
    follows_log_prob: ClassVar[bool] = True
    more_draws: ClassVar[str] = "use more particles (num_particles)"

    num_particles: int = option(256, "particles in each run", lower=2)
    num_runs: int = option(
        1, "independent runs, batched together; their spread is the error of the evidence", lower=1
    )
    ess_threshold: float = option(
        0.5,
        "resample when the effective sample size falls below this share of the particles",
        lower=0.0,
        upper=1.0,
    )
    resampling: str = option(
        "systematic",
        "how particles are resampled: 'systematic', 'stratified', or 'ssp', which is as even as"
        " systematic and does not depend on the order of the particles",
        choices=tuple(SCHEMES),
    )
    resample_at: str = option(
        "token",
        "where in their texts particles are compared when they are resampled: after every 'token',"
        " where their last 'word' ended, or at the 'end' of the text only",
        choices=("token", "word", "end"),
    )
    lookahead: str = option(
        "auto",
        "'surrogate' draws tokens by what a small model of the language model expects of the"
        " requirements; 'prefix' scores unfinished texts with the factors; both are divided out at"
        " the end; 'auto' does each where it helps; 'none' looks at constraints only; 'learned'"
        " fits a twist first, as `infer twist()` would; or the name of an `infer` line that fits a"
        " twist (from Python also a twist, or a directory)",
        choices=tuple(LOOKAHEADS),
        takes=TWIST,
        fits=LEARNED,
    )
    lookahead_every: int = option(4, "tokens between two scores of unfinished texts", lower=1)
    num_moves: int = option(
        0,
        "moves of every unfinished text each time: some of its last tokens are drawn again, and"
        " taken by Metropolis and Hastings' rule",
        lower=0,
    )
    move_every: int = option(8, "tokens after which unfinished texts are moved again", lower=1)
    block_size: int = option(8, "the most tokens that a move draws again", lower=1)
    scouts: float = option(
        0.25,
        "share of the particles that are drawn once more where a surrogate steers them, trusting it"
        " less, to find what was lost, and half as many by the prior; 0 draws none",
        lower=0.0,
        upper=1.0,
    )
    proposal: str = proposal_option(
        "what tokens and choices are proposed by: 'masked', the prior kept to what the constraints"
        " allow"
    )
    floor: float = floor_option()

    @classmethod
    def small_runs(cls, num_runs: int, size: int) -> SMC:
        return cls(num_particles=size, num_runs=num_runs, scouts=0.0)

    @classmethod
    def suits(cls, model: Model) -> bool:
        return True

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        # Constraints are looked ahead at every token as it is.
        guide = "fit a guide with svi"
        if not scored:
            return guide
        return (
            "look ahead more often (lookahead_every), bring the factors in by degrees (tempered),"
            f" or {guide}"
        )

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        if not self.num_moves or self.proposal == MASKED:
            return ()
        return (
            refusal(
                "LMP403",
                "num_moves moves texts that the language model draws, and here a guide proposes",
                None,
                "leave num_moves out, or use mcmc, whose moves a guide can propose",
            ),
        )

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        can_look = scores_prefixes(self.lookahead) and any(
            p.kind == "factor" and _reads_text(model, p) for p in model.potentials
        )
        masks = any(
            p.kind == "require" and p.facts.decidable in ("safety", "automaton")
            for p in model.potentials
        )
        masks |= any(
            floors(model, p.expr, site.name)
            for p in model.potentials
            if p.kind == "require"
            for site in model.text_sites
        )
        guided = self.proposal != MASKED or self.lookahead not in LOOKAHEADS
        if can_look or masks or guided or not model.text_sites:
            return ()
        return (
            Diagnostic(
                "LMP414",
                "warning",
                "smc has nothing to look at before the end of a text: it is importance sampling"
                " here",
                span=model.span,
                help="`importance` does the same"
                if scores_prefixes(self.lookahead)
                else 'use `importance`, or lookahead="prefix" where a factor makes sense on an'
                " unfinished text",
            ),
        )


def _reads_text(model: Model, potential: Potential) -> bool:
    texts = {site.name for site in model.text_sites}
    return bool(model.sites_of(potential.expr) & texts)
