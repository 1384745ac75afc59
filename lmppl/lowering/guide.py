"""The trainable guide of a whole program, a part per site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmppl.density import ChoiceStage, Target, TextBatch, TextStage, Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.lm.protocol import Prompt
from lmppl.lowering.distribution import TokenSequences
from lmppl.lowering.text_guides import CorrectedGuide, TextGuide, make_text_guide

# A part of the guide has its own parameters for every combination of earlier choices up to this
# many; beyond, the earliest choices are left out.
MAX_CONTEXTS = 4096
# How many combinations of later choices are looked through for dead ends.
_MAX_LOOKAHEAD_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Contexts:
    """What a part of the guide may depend on, as one number: the binding of the parameters and the
    discrete choices `names` (with `sizes` values), the latest ones first where there are many."""

    num_groups: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @classmethod
    def before(cls, target: Target, number: int) -> Contexts:
        """The contexts of site `number`."""
        names: list[str] = []
        sizes: list[int] = []
        total = target.num_groups
        for stage in reversed(target.stages[:number]):
            if isinstance(stage, ChoiceStage) and total * stage.size <= MAX_CONTEXTS:
                names.append(stage.name)
                sizes.append(stage.size)
                total *= stage.size
        return cls(target.num_groups, tuple(names), tuple(sizes))

    @property
    def size(self) -> int:
        return self.num_groups * math.prod(self.sizes)

    def of(self, traces: Traces) -> Tensor:
        """The context of every row, `[rows]`."""
        index = traces.group
        for name, size in zip(self.names, self.sizes, strict=True):
            index = index * size + traces.values[name].index
        return index


class ChoiceGuide(nn.Module):
    """The trainable distribution of a discrete site: the prior's logits plus a table, masked."""

    def __init__(self, num_contexts: int, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_contexts, size, dtype=torch.float64))

    @property
    def is_table(self) -> bool:
        """Whether the parameters are logits themselves, which learn at a larger rate."""
        return True

    def forward(self, contexts: Tensor, log_prior: Tensor, allowed: Tensor | None) -> Tensor:
        """log q(value), `[rows, values]` float64; −inf where the prior or `allowed` forbids."""
        logits = log_prior + self.logits[contexts]
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -math.inf)
        return logits.log_softmax(-1)


class Guide(nn.Module):
    """A trainable distribution over the executions of a program.

    Sites are drawn in program order, each from a part of its own. Before any training every part
    is the site's prior, kept to the values and tokens after which the requirements can still be
    met (the masks of the target) and renormalised. `kind` is "full" or "lora": what is trained of
    a neural language model. Texts see earlier sites through their prompt; where a language model
    has no weights, and for discrete sites, there are parameters for each combination of earlier
    discrete choices.
    """

    def __init__(self, target: Target, *, kind: str = "full", lora_rank: int = 8) -> None:
        super().__init__()
        self.target = target
        self.contexts = tuple(
            Contexts.before(target, number) for number in range(len(target.stages))
        )
        self.parts = nn.ModuleList(
            ChoiceGuide(contexts.size, stage.size).to(target.device)
            if isinstance(stage, ChoiceStage)
            else make_text_guide(stage, contexts.size, kind=kind, lora_rank=lora_rank)
            for stage, contexts in zip(target.stages, self.contexts, strict=True)
        )
        self._alive: dict[tuple[int, ...], Tensor] = {}
        self.eval()

    def text_part(self, number: int) -> TextGuide:
        """The part of a text site."""
        part = self.parts[number]
        assert isinstance(part, TextGuide)
        return part

    # ------------------------------------------------------------------ discrete sites

    def choice_log_probs(self, number: int, traces: Traces) -> Tensor:
        """log q(value | earlier sites) of a discrete site, `[rows, values]` float64.

        Raises:
            InferenceError: LMP411, no value is left to a row.
        """
        part = self.parts[number]
        assert isinstance(part, ChoiceGuide)
        log_prior = self.target.choice_log_probs(number, traces)
        allowed = self.allowed_values(number, traces)
        if allowed is not None:
            possible = allowed & (log_prior > -math.inf)
            if not bool(possible.any(-1).all()):
                raise dead_end(self.target, number)
        log_probs: Tensor = part(self.contexts[number].of(traces), log_prior, allowed)
        return log_probs

    def allowed_values(self, number: int, traces: Traces) -> Tensor | None:
        """Values of a discrete site after which the requirements can still be met; None: all.

        Looks ahead through later choices and to the first later text, `[rows, values]`.
        """
        stage = self.target.stages[number]
        assert isinstance(stage, ChoiceStage)
        if not any(p.kind == "require" and p.stage >= number for p in self.target.model.potentials):
            return None
        if traces.token_ids():
            return self._allowed(number, traces)
        earlier = [s.name for s in self.target.stages[:number]]
        columns = [traces.group, *(traces.values[name].index for name in earlier)]
        keys, inverse = torch.unique(torch.stack(columns, -1), dim=0, return_inverse=True)
        rows = []
        for row, key in enumerate(keys.tolist()):
            name = (number, *key)
            if name not in self._alive:
                first = (inverse == row).nonzero()[0]
                self._alive[name] = self._allowed(number, traces.select(first))[0]
            rows.append(self._alive[name])
        return torch.stack(rows)[inverse]

    def _allowed(self, number: int, traces: Traces) -> Tensor:
        stage = self.target.stages[number]
        assert isinstance(stage, ChoiceStage)
        device = traces.group.device
        parent = torch.arange(traces.num_rows, device=device).repeat_interleave(stage.size)
        value = torch.arange(stage.size, device=device).repeat(traces.num_rows)
        log_prior = self.target.choice_log_probs(number, traces)[parent, value]
        grown = traces.select(parent).with_value(stage.name, stage.batch(value), log_prior)
        alive = log_prior > -math.inf
        required = [p for p in self.target.potentials_at(number) if p.kind == "require"]
        if required:
            environment = self.target.environment(grown)
            for potential in required:
                alive &= self.target.log_potential(potential, environment) > -math.inf
        at = alive.nonzero().squeeze(-1)
        if at.shape[0]:
            alive[at] = self._can_go_on(number + 1, grown.select(at))
        return alive.reshape(traces.num_rows, stage.size)

    def _can_go_on(self, number: int, traces: Traces) -> Tensor:
        """Whether some completion of these executions meets the requirements, `[rows]`.

        True where this is not known: a text is decided token by token.
        """
        stages = self.target.stages
        if number == len(stages):
            return torch.ones_like(traces.group, dtype=torch.bool)
        stage = stages[number]
        if isinstance(stage, ChoiceStage):
            if traces.num_rows * stage.size > _MAX_LOOKAHEAD_ROWS:
                return torch.ones_like(traces.group, dtype=torch.bool)
            return self._allowed(number, traces).any(-1)
        prompts = self.target.prompts(number, traces)
        automata = self.target.requirements.automata(number, traces, prompts)
        rows = torch.arange(traces.num_rows, device=traces.group.device)
        return ~automata.is_dead(automata.begin(rows), stage.max_tokens)

    # ------------------------------------------------------------------ texts

    def text_distribution(
        self, number: int, traces: Traces, index: Tensor, marks: frozenset[str] = frozenset()
    ) -> TokenSequences:
        """q(text | earlier sites) of a text site; `index` gives the row of each batch element."""
        part = self.text_part(number)
        prompts = self.target.prompts(number, traces)
        automata = self.target.requirements.automata(number, traces, prompts)
        contexts = self.contexts[number].of(traces)

        def score(rows: Tensor, text: TextBatch) -> Tensor:
            picked: Sequence[Prompt] = [prompts[row] for row in rows.tolist()]
            return part.log_prob(picked, contexts[rows], text, automata.select(rows))

        return TokenSequences(
            part.stage,
            prompts,
            index=index,
            automata=automata,
            drawing=lambda rows: part.stage_of(contexts[rows]),
            scorer=score,
            on_dead_end=lambda rows: dead_end(self.target, number),
            marks=marks,
        )

    def parameter_groups(
        self, *, lr: float, table_lr: float, num_draws: int
    ) -> list[dict[str, Any]]:
        """The trainable parameters for Adam, tables of logits at their own rate.

        An entry of a table that is rarely drawn gets a gradient of about 1/`num_draws` now and
        then, which Adam would blow up to several steps of full length; an `eps` of that size makes
        one visit move it by about `table_lr`.
        """
        groups: list[dict[str, Any]] = []
        for part in self.parts:
            parameters = [p for p in part.parameters() if p.requires_grad]
            if part.is_table:
                groups.append({"params": parameters, "lr": table_lr, "eps": 1.0 / num_draws})
            elif isinstance(part, CorrectedGuide):
                # A small network that starts from nothing: between a table and trained weights.
                groups.append({"params": parameters, "lr": table_lr / 5.0})
            else:
                groups.append({"params": parameters, "lr": lr})
        return groups


def dead_end(target: Target, number: int) -> InferenceError:
    """LMP411: the guide drew what no longer leads to a text of positive probability."""
    stage = target.stages[number]
    watched = [p for p in target.model.potentials if p.kind == "require"]
    at = [p for p in watched if p.stage == number] or watched
    names = ", ".join(p.label for p in at) or "the requirements"
    why = "top_k or top_p of" if _truncates(stage) else "the prior of"
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
        {target.model.path: target.model.source},
    )


def _truncates(stage: ChoiceStage | TextStage) -> bool:
    return isinstance(stage, TextStage) and (
        stage.warp.top_k is not None or stage.warp.top_p is not None
    )
