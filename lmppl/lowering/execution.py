"""Executions of a program inside Pyro: values of any batch shape, seen as the rows of a Target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor

from lmppl.density import SiteRows, Target, Traces
from lmppl.density.walk import Chosen, walk
from lmppl.ir.expr import Expr
from lmppl.lowering.distribution import TokenSequences
from lmppl.lowering.sites import Batch, lowered


class Execution:
    """The values that a Pyro program has drawn so far.

    Pyro's values have batch shapes (plates, vectorised particles, enumerated dimensions) that grow
    from site to site; a Target has rows. `shape` is the batch shape of all values so far and
    `traces` holds a row for each element of it, in row-major order.

    Pyro marks a drawn tensor with the sites that it comes from (its provenance), and objectives
    such as `TraceGraph_ELBO` give a site only those terms that carry its mark. Strings carry none:
    marks are taken off where a value is placed, and put on what is computed from it.
    """

    def __init__(self, target: Target, groups: Tensor, costs: frozenset[str] = frozenset()) -> None:
        self.target = target
        # Sites of which something asks how likely their values were under the prior.
        self.costs = costs
        self.shape = groups.shape
        self.traces = Traces(group=groups.reshape(-1).to(target.device))
        self.sites = tuple(lowered(stage) for stage in target.stages)
        self._marks: dict[str, frozenset[str]] = {}
        self._scored: dict[str, Tensor] = {}

    def walk(
        self,
        distribution: Callable[[SiteRows], TorchDistribution],
        score: Callable[[int], None] | None = None,
    ) -> Execution:
        """Draws every site from its `distribution`; `score` is given its number afterwards."""

        def choose(rows: SiteRows) -> Chosen:
            drawn_from = distribution(rows)
            chosen = self._placed(rows, pyro.sample(rows.site.name, drawn_from))
            if rows.site.name not in self.costs:
                return chosen
            return self._priced(rows, chosen, drawn_from)

        def keep(traces: Traces, number: int) -> Traces:
            self.traces = traces
            if score is not None:
                score(number)
            return traces

        walk(self.target, self.traces, choose, score=keep)
        return self

    def _placed(self, rows: SiteRows, value: Tensor) -> Chosen:
        """What Pyro has drawn, `[…batch, …event]`, as the site's value."""
        site = self.sites[rows.number]
        self._marks[rows.site.name] = get_provenance(value)
        value = detach_provenance(value)
        event = value.dim() - site.event_dim
        parents = self._grow(torch.broadcast_shapes(self.shape, value.shape[:event]))  # type: ignore[no-untyped-call]
        if parents is not None:
            rows = self.target.rows(rows.number, rows.traces.select(parents))
        # One shape and not many sizes: a single execution of a choice has none.
        flat = value.expand((*self.shape, *value.shape[event:]))
        flat = flat.reshape(-1, *value.shape[event:])
        return Chosen(site.read(rows, flat), parents=parents)

    def _priced(self, rows: SiteRows, chosen: Chosen, drawn_from: TorchDistribution) -> Chosen:
        """The value with what it costs under the prior, whatever it was drawn from.

        Where that is a distribution of texts of the prior's own, it need not find out again.
        """
        if chosen.parents is not None:
            rows = rows.select(chosen.parents)
        with torch.no_grad():
            log_prior = self.target.stages[rows.number].log_prob(rows, chosen.value)
        if isinstance(drawn_from, TokenSequences) and drawn_from.is_prior:
            drawn_from.remember(self.sites[rows.number].written(chosen.value), log_prior)
        return replace(chosen, log_prior=log_prior)

    def _grow(self, shape: torch.Size | Sequence[int]) -> Tensor | None:
        """Takes a larger batch shape; the row that each new one continues, `[new rows]`."""
        if torch.Size(shape) == self.shape:
            return None
        parents = self.index().expand(shape).reshape(-1)
        self.shape = torch.Size(shape)
        return parents

    def log_potentials(self, number: int) -> dict[str, Tensor]:
        """The log potentials of stage `number` by label, each of shape `shape`."""
        potentials = self.target.potentials_at(number)
        if not potentials:
            return {}
        environment = self.target.environment(self.traces)
        found = {p.label: self.target.log_potential(p, environment) for p in potentials}
        found = {label: value.reshape(self.shape) for label, value in found.items()}
        self._scored = {n: v.expand(self.shape) for n, v in self._scored.items()} | found
        self.target.require_sum(self._scored)
        return {
            p.label: track_provenance(found[p.label], self.marks(p.expr, p.when))
            for p in potentials
        }

    def marks(self, *expressions: Expr | None) -> frozenset[str]:
        """The provenance of what is computed from these expressions."""
        names = set[str]()
        for expression in expressions:
            if expression is not None:
                names |= self.target.model.sites_of(expression)
        return frozenset[str]().union(*(self._marks.get(name, ()) for name in names))

    def prior_marks(self, number: int) -> frozenset[str]:
        """The provenance of the prior of site `number`."""
        return self.marks(*self.target.model.sites[number].distribution.arguments.values())

    def all_marks(self) -> frozenset[str]:
        """The provenance of what may depend on every value drawn so far."""
        return frozenset[str]().union(*self._marks.values())

    def batch(self, marks: frozenset[str]) -> Batch:
        """How the rows lie in the batch, for a site that depends on `marks`."""
        return Batch(self.index(), marks)

    def index(self) -> Tensor:
        """The row of every element of the batch, of shape `shape`."""
        rows = torch.arange(self.traces.num_rows, device=self.target.device)
        return rows.reshape(self.shape)
