"""A Target as an ordinary Pyro model, and a trainable Pyro guide for it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from lmppl.density import SiteRows, Target
from lmppl.evaluation.powers import sites_scored
from lmppl.lowering.execution import Execution
from lmppl.lowering.guide import Guide

_guide_numbers = itertools.count(1)


@contextlib.contextmanager
def _row_plates(num_groups: int, num_rows: int | None) -> Iterator[None]:
    """The plates of a batch: bindings of the parameters (where several), then rows."""
    with contextlib.ExitStack() as plates:
        if num_rows is not None:
            plates.enter_context(pyro.plate("rows", num_rows, dim=-1))
        if num_groups > 1:
            plates.enter_context(
                pyro.plate("bindings", num_groups, dim=-1 if num_rows is None else -2)
            )
        yield


def _groups(target: Target, num_rows: int | None) -> Tensor:
    """The binding of every row: shape `[]`, `[rows]`, or with an axis of bindings before it."""
    groups = torch.arange(target.num_groups, device=target.device)
    if num_rows is not None:
        groups = groups.unsqueeze(-1).expand(-1, num_rows)
    return groups if target.num_groups > 1 else groups[0]


class PyroModel:
    """A program as a Pyro model.

    `model()` is one execution; `model(n)` is n independent ones inside `pyro.plate("rows", n)`,
    computed together, so that its log density is the sum of theirs. Each choice is a
    `pyro.sample` at its own name: a text is a `TokenSequences` over padded token ids, a discrete
    choice a `Categorical` over the indices of its values. Each factor and requirement is a
    `pyro.factor` at its label, −inf where a requirement fails. Several bindings of the parameters
    are a plate "bindings" outside the rows. Returned numbers are `pyro.deterministic` sites; the
    call gives all returned values by name, in row-major order.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        names = {stage.name for stage in target.stages}
        # A factor may have the name of a choice; a Pyro site may not.
        self.factor_names = {
            p.label: p.label if p.label not in names else f"{p.kind} {p.label}"
            for p in target.model.potentials
        }
        model = target.model
        every = [part for p in model.potentials for part in (p.expr, p.when)]
        self.costs = sites_scored(model, *every, *(output.expr for output in model.outputs))

    def __call__(self, num_rows: int | None = None) -> dict[str, object]:
        with _row_plates(self.target.num_groups, num_rows):
            execution = Execution(self.target, _groups(self.target, num_rows), self.costs)
            self._factors(execution, -1)
            execution.walk(partial(self.prior, execution), score=partial(self._factors, execution))
            outputs = self.target.outputs(execution.traces)
            self._record(outputs, execution)
        return outputs

    def prior(self, execution: Execution, rows: SiteRows) -> TorchDistribution:
        """The prior of a site given the values drawn before it."""
        batch = execution.batch(execution.prior_marks(rows.number))
        return execution.sites[rows.number].prior(rows, batch)

    def _factors(self, execution: Execution, number: int) -> None:
        for label, log_potential in execution.log_potentials(number).items():
            pyro.factor(self.factor_names[label], log_potential)

    def _record(self, outputs: Mapping[str, object], execution: Execution) -> None:
        taken = {stage.name for stage in self.target.stages} | set(self.factor_names.values())
        for name, values in outputs.items():
            if name not in taken and isinstance(values, np.ndarray):
                pyro.deterministic(name, torch.from_numpy(values).reshape(execution.shape))


class PyroGuide:
    """A trainable Pyro guide for `PyroModel`, called with the same arguments.

    Its parameters are those of `module` and are registered by `pyro.module` under `name`, which
    differs between the guides of one process. Before training it draws from the prior, kept to
    what the requirements leave open.
    """

    def __init__(self, module: Guide, name: str | None = None) -> None:
        self.module = module
        self.target = module.target
        # A guide looks ahead to requirements only.
        required = [p for p in self.target.model.potentials if p.kind == "require"]
        parts = [part for p in required for part in (p.expr, p.when)]
        self.costs = sites_scored(self.target.model, *parts)
        self.name = name or f"{self.target.model.name} guide {next(_guide_numbers)}"

    def __call__(self, num_rows: int | None = None) -> Execution:
        pyro.module(self.name, self.module)
        with _row_plates(self.target.num_groups, num_rows):
            return self.run(Execution(self.target, _groups(self.target, num_rows), self.costs))

    def run(self, execution: Execution) -> Execution:
        """Draws every site of an execution that has drawn nothing yet."""
        return execution.walk(partial(self.distribution, execution))

    def distribution(self, execution: Execution, rows: SiteRows) -> TorchDistribution:
        """The guide's distribution of a site given the values drawn before it."""
        return self.module.distribution(rows, execution.batch(execution.all_marks()))


def lower(
    target: Target, *, guide: str = "full", lora_rank: int = 8
) -> tuple[PyroModel, PyroGuide]:
    """The target as an ordinary Pyro model and a trainable guide for it.

    Any stock Pyro algorithm runs on the two. `guide` is "full" (a copy of a network's weights) or
    "lora" (low-rank adapters of rank `lora_rank`).

    >>> model, guide = lower(target)  # doctest: +SKIP
    >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    """
    return PyroModel(target), PyroGuide(Guide(target, kind=guide, lora_rank=lora_rank))
