"""Batches of partial or finished executions, as structures of arrays.

`select` is the only way to reorder, copy or drop rows, so that tokens, choices, strings and scores
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TextBatch:
    """The finished texts of one site, one per row.

    `tokens` is `[rows, max_tokens]`, meaningful below `lengths` `[rows]` (which counts a final end
    token); `finished` `[rows]` is true where the text ended by an end token or a stop string.
    `num_tokens` `[rows]` is the length without the end token. `strings` are the texts' values.
    `token_log_prob` and `token_log_mass`, `[rows, max_tokens]` or None, are what each token cost:
    its log probability under the prior and the log of the probability that the mask allowed.
    """

    tokens: Tensor
    lengths: Tensor
    finished: Tensor
    num_tokens: Tensor
    strings: tuple[str, ...]
    token_log_prob: Tensor | None = None
    token_log_mass: Tensor | None = None

    def select(self, indices: Tensor) -> TextBatch:
        strings = self.strings
        return TextBatch(
            tokens=self.tokens[indices],
            lengths=self.lengths[indices],
            finished=self.finished[indices],
            num_tokens=self.num_tokens[indices],
            strings=tuple(strings[i] for i in indices.tolist()),
            token_log_prob=None if self.token_log_prob is None else self.token_log_prob[indices],
            token_log_mass=None if self.token_log_mass is None else self.token_log_mass[indices],
        )

    def merge(self, other: TextBatch, take: Tensor) -> TextBatch:
        """This batch with the rows of `other` where `take` (bool `[rows]`) is true."""
        chosen = take.tolist()
        values: dict[str, Any] = {}
        for column in fields(self):
            mine, theirs = getattr(self, column.name), getattr(other, column.name)
            if column.name == "strings":
                pairs = zip(mine, theirs, chosen, strict=True)
                values[column.name] = tuple(b if t else a for a, b, t in pairs)
            elif mine is None:
                values[column.name] = None
            else:
                where = take.view(-1, *[1] * (mine.dim() - 1))
                values[column.name] = torch.where(where, theirs, mine)
        return TextBatch(**values)


def concatenate_texts(batches: list[TextBatch]) -> TextBatch:
    """The rows of several batches of one site, in order."""
    columns: dict[str, object] = {}
    for column in fields(TextBatch):
        parts = [getattr(batch, column.name) for batch in batches]
        if column.name == "strings":
            columns[column.name] = tuple(text for part in parts for text in part)
        elif any(part is None for part in parts):
            columns[column.name] = None
        else:
            columns[column.name] = torch.cat(parts)
    return TextBatch(**columns)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Traces:
    """Executions of one program, a row each.

    `group` `[rows]` says which binding of the parameters a row belongs to. `choices` holds, per
    discrete site, the index of its value `[rows]`; `texts` the finished texts per text site.
    `log_prior` holds each drawn site's log probability given its parents, `[rows]` float64;
    `log_potential` each applied potential by label, `[rows]` float64 (−inf: ruled out).
    """

    group: Tensor
    choices: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Mapping[str, TextBatch] = field(default_factory=dict)
    log_prior: Mapping[str, Tensor] = field(default_factory=dict)
    log_potential: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.group.shape[0]

    def select(self, indices: Tensor) -> Traces:
        """The rows `indices` (LongTensor), in that order, with repeats."""
        return Traces(
            group=self.group[indices],
            choices={name: value[indices] for name, value in self.choices.items()},
            texts={name: text.select(indices) for name, text in self.texts.items()},
            log_prior={name: value[indices] for name, value in self.log_prior.items()},
            log_potential={name: value[indices] for name, value in self.log_potential.items()},
        )

    def merge(self, other: Traces, take: Tensor) -> Traces:
        """These executions with the rows of `other` where `take` (bool `[rows]`) is true."""

        def columns(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.where(take, theirs[name], mine[name]) for name in mine}

        return Traces(
            group=self.group,
            choices=columns(self.choices, other.choices),
            texts={name: text.merge(other.texts[name], take) for name, text in self.texts.items()},
            log_prior=columns(self.log_prior, other.log_prior),
            log_potential=columns(self.log_potential, other.log_potential),
        )

    def with_choice(self, name: str, index: Tensor, log_prob: Tensor) -> Traces:
        return replace(
            self,
            choices={**self.choices, name: index},
            log_prior={**self.log_prior, name: log_prob},
        )

    def with_text(self, name: str, text: TextBatch, log_prob: Tensor) -> Traces:
        return replace(
            self,
            texts={**self.texts, name: text},
            log_prior={**self.log_prior, name: log_prob},
        )

    def with_potentials(self, values: Mapping[str, Tensor]) -> Traces:
        return replace(self, log_potential={**self.log_potential, **values})

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
    first = batches[0]
    if len(batches) == 1:
        return first
    return Traces(
        group=torch.cat([b.group for b in batches]),
        choices={n: torch.cat([b.choices[n] for b in batches]) for n in first.choices},
        texts={n: concatenate_texts([b.texts[n] for b in batches]) for n in first.texts},
        log_prior={n: torch.cat([b.log_prior[n] for b in batches]) for n in first.log_prior},
        log_potential={
            n: torch.cat([b.log_potential[n] for b in batches]) for n in first.log_potential
        },
    )
