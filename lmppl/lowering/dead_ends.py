"""Values after which the requirements of a program cannot be met any more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmppl.density import SiteRows, Target, Traces
from lmppl.errors import Diagnostic, InferenceError

# How many combinations of later choices are looked through for dead ends.
_MAX_LOOKAHEAD_ROWS = 20_000


@dataclass(slots=True)
class DeadEnds:
    """What a guide of a target must not draw. What was found is remembered."""

    target: Target
    _alive: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def allowed_values(self, rows: SiteRows) -> Tensor | None:
        """Values of a site after which the requirements can still be met; None: all.

        Looks ahead through later choices and to the first later text, `[rows, values]`.
        """
        number, traces = rows.number, rows.traces
        if not any(p.kind == "require" and p.stage >= number for p in self.target.model.potentials):
            return None
        earlier = self.target.stages[:number]
        if any(stage.support is None for stage in earlier):
            return self._allowed(number, traces)
        columns = [traces.group, *(traces.values[stage.name].index for stage in earlier)]
        keys, inverse = torch.unique(torch.stack(columns, -1), dim=0, return_inverse=True)
        found = []
        for row, key in enumerate(keys.tolist()):
            name = (number, *key)
            if name not in self._alive:
                first = (inverse == row).nonzero()[0]
                self._alive[name] = self._allowed(number, traces.select(first))[0]
            found.append(self._alive[name])
        return torch.stack(found)[inverse]

    def _allowed(self, number: int, traces: Traces) -> Tensor:
        target, stage = self.target, self.target.stages[number]
        every = stage.alternatives(target.rows(number, traces))
        assert every is not None
        device = traces.group.device
        parent = torch.arange(traces.num_rows, device=device).repeat_interleave(every.size)
        grown = traces.select(parent).with_value(stage.name, every.value, every.log_prob)
        alive = every.log_prob > -math.inf
        required = [p for p in target.potentials_at(number) if p.kind == "require"]
        if required:
            environment = target.environment(grown)
            for potential in required:
                alive &= target.log_potential(potential, environment) > -math.inf
        at = alive.nonzero().squeeze(-1)
        if at.shape[0]:
            alive[at] = self._can_go_on(number + 1, grown.select(at))
        return alive.reshape(traces.num_rows, every.size)

    def _can_go_on(self, number: int, traces: Traces) -> Tensor:
        """Whether some completion of these executions meets the requirements, `[rows]`.

        True where this is not known: a text is decided token by token.
        """
        target = self.target
        unknown = torch.ones_like(traces.group, dtype=torch.bool)
        if number == len(target.stages):
            return unknown
        stage = target.stages[number]
        if stage.text is not None:
            rows = target.rows(number, traces)
            automata = target.requirements.automata(number, traces, rows.prompts)
            every = torch.arange(traces.num_rows, device=traces.group.device)
            return ~automata.is_dead(automata.begin(every), stage.text.max_tokens)
        if stage.support is None or traces.num_rows * len(stage.support) > _MAX_LOOKAHEAD_ROWS:
            return unknown
        return self._allowed(number, traces).any(-1)

    def met(self, number: int) -> InferenceError:
        """LMP411: the guide drew what no longer leads to a text of positive probability."""
        target, stage = self.target, self.target.stages[number]
        watched = [p for p in target.model.potentials if p.kind == "require"]
        at = [p for p in watched if p.stage == number] or watched
        names = ", ".join(p.label for p in at) or "the requirements"
        why = "the prior of" if stage.text is None else stage.text.cut_by
        return InferenceError(
            [
                Diagnostic(
                    "LMP411",
                    "error",
                    f"{why} {stage.name} leaves no way to meet {names} on some texts that the guide"
                    " cannot avoid: the posterior is zero there and the reverse KL infinite",
                    span=at[0].span if at else None,
                    help="use smc, mcmc or rejection for this model",
                )
            ],
            target.model.sources,
        )
