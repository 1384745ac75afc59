"""Whether a result can be trusted: pure functions of weights and chains, and their reading."""

from lmppl.diagnostics.advice import ADVISED, advice
from lmppl.diagnostics.assessment import (
    assess,
    chain_diagnostics,
    judge,
    num_unique_draws,
    weight_diagnostics,
)
from lmppl.diagnostics.chains import (
    bulk_ess,
    r_hat,
    r_hat_limit,
    rank_normalise,
    split_chains,
    stuck_chains,
    tail_ess,
)
from lmppl.diagnostics.weights import effective_sample_size, max_weight
from lmppl.posterior.intervals import proportion_interval as clopper_pearson
from lmppl.posterior.pareto import ParetoTail, pareto_tail

__all__ = [
    "ADVISED",
    "ParetoTail",
    "advice",
    "assess",
    "bulk_ess",
    "chain_diagnostics",
    "clopper_pearson",
    "effective_sample_size",
    "judge",
    "max_weight",
    "num_unique_draws",
    "pareto_tail",
    "r_hat",
    "r_hat_limit",
    "rank_normalise",
    "split_chains",
    "stuck_chains",
    "tail_ess",
    "weight_diagnostics",
]
