"""Methods that are wrong on purpose: each is right but for one thing, and says nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import concatenate
from lmppl.inference.importance import Importance
from lmppl.inference.importance.engine import ImportanceEngine
from lmppl.inference.loop import Draws
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.inference.mcmc.starts import from_prior
from lmppl.inference.rejection import Rejection
from lmppl.inference.rejection.engine import RejectionEngine
from lmppl.inference.svi import SVI
from lmppl.inference.svi.engine import SVIEngine
from lmppl.posterior import Estimate


def reweighted(draws: Draws, log_weight: Tensor) -> Draws:
    """The draws with other weights, and the evidence that these claim."""
    return replace(
        draws, log_weight=log_weight, log_evidence=Estimate.from_weights(log_weight.numpy())
    )


def twice(draws: Draws) -> Draws:
    """Every draw a second time, as if it had been drawn again."""
    half = torch.arange((draws.traces.num_rows + 1) // 2)
    traces = draws.traces.select(half)
    return replace(
        draws,
        traces=concatenate([traces, traces]),
        log_weight=torch.cat([draws.log_weight[half]] * 2),
    )


class ForgetsFactors(ImportanceEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        return [reweighted(d, torch.zeros_like(d.log_weight)) for d in found]


class ForgetsOnePotential(ImportanceEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        last = self.target.model.potentials[-1].label
        return [reweighted(d, d.log_weight - d.traces.log_potential[last]) for d in found]


class ClaimsTooMuch(ImportanceEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        return [
            replace(d, log_evidence=None if d.log_evidence is None else d.log_evidence + 0.5)
            for d in found
        ]


class CountsTwice(ImportanceEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = [twice(d) for d in super().result(state, complete=complete)]
        return [reweighted(d, d.log_weight) for d in found]


class FavoursAChoice(ImportanceEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        favoured = [torch.tensor(d.traces.values["mood"].column() == 1) for d in found]
        return [
            reweighted(d, d.log_weight + 0.7 * each.double())
            for d, each in zip(found, favoured, strict=True)
        ]


class AcceptsTwice(RejectionEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        return [twice(d) for d in super().result(state, complete=complete)]


class WeighsAccepted(RejectionEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        return [replace(d, log_weight=0.1 * d.traces.total_log_potential()) for d in found]


class WalksThePrior(MCMCEngine):
    """A chain that accepts whatever it proposes, from the prior."""

    def step(self, state: Any) -> Any:
        new, info = super().step(state)
        if not new.kept:
            return new, info
        drawn, _, _ = from_prior(self.target, self.stream, self.settings.num_chains)
        return replace(new, traces=drawn, kept=(drawn,)), info


class TrustsItsGuide(SVIEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        return [replace(d, log_weight=torch.zeros_like(d.log_weight)) for d in found]


class BoundsFromAbove(SVIEngine):
    def result(self, state: Any, *, complete: bool) -> list[Draws]:
        found = super().result(state, complete=complete)
        return [
            replace(d, log_evidence=None if d.log_evidence is None else d.log_evidence + 5.0)
            for d in found
        ]


_WRONG: Mapping[type, type] = {
    ForgetsFactors: Importance,
    ForgetsOnePotential: Importance,
    ClaimsTooMuch: Importance,
    CountsTwice: Importance,
    FavoursAChoice: Importance,
    AcceptsTwice: Rejection,
    WeighsAccepted: Rejection,
    WalksThePrior: MCMC,
    TrustsItsGuide: SVI,
    BoundsFromAbove: SVI,
}


def _settings(engine: type, base: type) -> type:
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in engine.__name__).strip("_")
    place = f"{__name__}:{engine.__name__}"
    return type(engine.__name__ + "Settings", (base,), {"name": name, "engine": place})


WRONG = tuple(_settings(engine, base) for engine, base in _WRONG.items())
