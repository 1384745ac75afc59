"""A Target as an ordinary Pyro model, and a trainable Pyro guide for it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.ops.provenance import track_provenance
from torch import Tensor

from lmppl.density import ChoiceStage, Target
from lmppl.lowering.distribution import TokenSequences
from lmppl.lowering.execution import Execution
from lmppl.lowering.guide import Guide
from lmppl.lowering.isolation import Choice

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


def _log_probs_as_distribution(
    log_probs: Tensor, shape: torch.Size, marks: frozenset[str]
) -> dist.Categorical:
    logits = track_provenance(log_probs.reshape(*shape, -1), marks)
    return Choice(logits=logits, validate_args=False)


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

    def __call__(self, num_rows: int | None = None) -> dict[str, object]:
        with _row_plates(self.target.num_groups, num_rows):
            execution = Execution(self.target, _groups(self.target, num_rows))
            self._factors(execution, -1)
            for number, stage in enumerate(self.target.stages):
                value = pyro.sample(stage.name, self.prior(number, execution))
                execution.place(number, value)
                self._factors(execution, number)
            outputs = self.target.outputs(execution.traces)
            self._record(outputs, execution)
        return outputs

    def prior(self, number: int, execution: Execution) -> dist.TorchDistribution:
        """The prior of site `number` given the values drawn before it."""
        stage = self.target.stages[number]
        if isinstance(stage, ChoiceStage):
            log_probs = self.target.choice_log_probs(number, execution.traces)
            return _log_probs_as_distribution(
                log_probs, execution.shape, execution.prior_marks(number)
            )
        prompts = self.target.prompts(number, execution.traces)
        return TokenSequences(
            stage, prompts, index=execution.index(), marks=execution.prior_marks(number)
        )

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
        self.name = name or f"{self.target.model.name} guide {next(_guide_numbers)}"

    def __call__(self, num_rows: int | None = None) -> Execution:
        pyro.module(self.name, self.module)
        with _row_plates(self.target.num_groups, num_rows):
            return self.run(Execution(self.target, _groups(self.target, num_rows)))

    def run(self, execution: Execution) -> Execution:
        """Draws every site of an execution that has drawn nothing yet."""
        for number, stage in enumerate(self.target.stages):
            value = pyro.sample(stage.name, self.distribution(number, execution))
            execution.place(number, value)
        return execution

    def distribution(self, number: int, execution: Execution) -> dist.TorchDistribution:
        """The guide's distribution of site `number` given the values drawn before it."""
        stage = self.target.stages[number]
        if isinstance(stage, ChoiceStage):
            log_probs = self.module.choice_log_probs(number, execution.traces)
            return _log_probs_as_distribution(log_probs, execution.shape, execution.all_marks())
        return self.module.text_distribution(
            number, execution.traces, execution.index(), execution.all_marks()
        )


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
