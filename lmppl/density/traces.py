"""Batches of partial or finished executions, as structures of arrays.

`select` is the only way to reorder, copy or drop rows, so that tokens, choices, strings and scores
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.evaluation.columns import Column


class SiteValue(Protocol):
    """The values of one site, a row for each execution; each kind of site has a class of its own.

    Rows are reordered, joined and compared here and nowhere else.
    """

    def select(self, indices: Tensor) -> Self:
        """The rows `indices` (LongTensor), in that order, with repeats."""
        ...

    def merge(self, other: Self, take: Tensor) -> Self:
        """These values with the rows of `other` where `take` (bool `[rows]`) is true."""
        ...

    def concatenate(self, others: Sequence[Self]) -> Self:
        """These rows, and then those of the others in order."""
        ...

    def differs(self, other: Self) -> Tensor:
        """Where the two are different values, bool `[rows]`."""
        ...

    def log_mass(self) -> Tensor:
        """What was kept of the prior where the values were drawn under a mask, `[rows]`, log."""
        ...

    def light(self) -> Self:
        """The values without what only moves need."""
        ...

    def token_ids(self) -> tuple[Tensor, Tensor] | None:
        """Tokens `[rows, length]` and lengths `[rows]`, where the values are written in tokens."""
        ...

    def kept(self) -> Mapping[str, NDArray[Any]]:
        """What a saved posterior keeps of the values beside what people see and the tokens."""
        ...

    def column(self) -> Column:
        """The values as expressions see them."""
        ...

    def listed(self) -> list[object]:
        """The values as people see them, one for each row."""
        ...


@dataclass(frozen=True, slots=True)
class Traces:
    """Executions of one program, a row each.

    `group` `[rows]` says which binding of the parameters a row belongs to. `values` holds the
    values of the sites that are drawn, by name in program order. `log_prior` holds each drawn
    site's log probability given its parents, `[rows]` float64; `log_potential` each applied
    potential by label, `[rows]` float64 (−inf: ruled out).
    """

    group: Tensor
    values: Mapping[str, Any] = field(default_factory=dict)  # SiteValue, of as many kinds as sites
    log_prior: Mapping[str, Tensor] = field(default_factory=dict)
    log_potential: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.group.shape[0]

    def __repr__(self) -> str:
        return f"<{self.num_rows} executions, drawn: {', '.join(self.values) or 'nothing'}>"

    def select(self, indices: Tensor) -> Traces:
        """The rows `indices` (LongTensor), in that order, with repeats."""
        return Traces(
            group=self.group[indices],
            values={name: value.select(indices) for name, value in self.values.items()},
            log_prior={name: column[indices] for name, column in self.log_prior.items()},
            log_potential={name: column[indices] for name, column in self.log_potential.items()},
        )

    def merge(self, other: Traces, take: Tensor) -> Traces:
        """These executions with the rows of `other` where `take` (bool `[rows]`) is true."""

        def columns(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.where(take, theirs[name], mine[name]) for name in mine}

        return Traces(
            group=self.group,
            values={n: value.merge(other.values[n], take) for n, value in self.values.items()},
            log_prior=columns(self.log_prior, other.log_prior),
            log_potential=columns(self.log_potential, other.log_potential),
        )

    def differs(self, other: Traces) -> Tensor:
        """Where some site has another value, bool `[rows]`."""
        changed = torch.zeros(self.num_rows, dtype=torch.bool, device=self.group.device)
        for name, value in self.values.items():
            changed |= value.differs(other.values[name])
        return changed

    def light(self) -> Traces:
        """The executions without what only moves need."""
        return replace(self, values={name: value.light() for name, value in self.values.items()})

    def with_value(self, name: str, value: SiteValue, log_prob: Tensor | None = None) -> Traces:
        """The executions with the value of a site, and what it costs under the prior if known."""
        log_prior = self.log_prior if log_prob is None else {**self.log_prior, name: log_prob}
        return replace(self, values={**self.values, name: value}, log_prior=log_prior)

    def with_potentials(self, values: Mapping[str, Tensor]) -> Traces:
        return replace(self, log_potential={**self.log_potential, **values})

    def token_ids(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Tokens and lengths of the sites whose values are written in tokens."""
        found = {name: value.token_ids() for name, value in self.values.items()}
        return {name: written for name, written in found.items() if written is not None}

    def num_tokens(self) -> int:
        """How many tokens all of it is written in."""
        return sum(int(lengths.sum()) for _, lengths in self.token_ids().values())

    def total_log_prior(self) -> Tensor:
        """Σ log p(site | parents) over the drawn sites, `[rows]` float64."""
        return self._sum(self.log_prior)

    def total_log_potential(self) -> Tensor:
        """Σ log potentials applied so far, `[rows]` float64."""
        return self._sum(self.log_potential)

    def log_density(self) -> Tensor:
        """The unnormalised log density of the posterior at each row, `[rows]` float64."""
        return self.total_log_prior() + self.total_log_potential()

    def _sum(self, columns: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(self.num_rows, dtype=torch.float64, device=self.group.device)
        for value in columns.values():
            total = total + value
        return total


def concatenate(batches: list[Traces]) -> Traces:
    """The rows of several batches of one program, in order."""
    first, *others = batches
    if not others:
        return first
    return Traces(
        group=torch.cat([b.group for b in batches]),
        values={n: v.concatenate([b.values[n] for b in others]) for n, v in first.values.items()},
        log_prior={n: torch.cat([b.log_prior[n] for b in batches]) for n in first.log_prior},
        log_potential={
            n: torch.cat([b.log_potential[n] for b in batches]) for n in first.log_potential
        },
    )
