"""The trainable guide of a whole program, a part per site."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from lmppl.density import SiteRows, Target, Traces
from lmppl.lowering.dead_ends import DeadEnds
from lmppl.lowering.sites import Batch, SitePart, lowered

# A part of the guide has its own parameters for every combination of earlier choices up to this
# many; beyond, the earliest choices are left out.
MAX_CONTEXTS = 4096


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
            if stage.support is not None and total * len(stage.support) <= MAX_CONTEXTS:
                names.append(stage.name)
                sizes.append(len(stage.support))
                total *= len(stage.support)
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
        self.kind, self.lora_rank = kind, lora_rank
        self.contexts = tuple(
            Contexts.before(target, number) for number in range(len(target.stages))
        )
        self.sites = tuple(lowered(stage) for stage in target.stages)
        self.parts = nn.ModuleList(
            site.guide(contexts.size, kind=kind, lora_rank=lora_rank).to(target.device)
            for site, contexts in zip(self.sites, self.contexts, strict=True)
        )
        self.ends = DeadEnds(target)
        self.eval()

    def part(self, number: int) -> SitePart:
        """The part of a site."""
        return cast(SitePart, self.parts[number])

    def distribution(self, rows: SiteRows, batch: Batch) -> TorchDistribution:
        """q(value | earlier sites) of a site.

        Raises:
            InferenceError: LMP411, no value is left to a row.
        """
        contexts = self.contexts[rows.number].of(rows.traces)
        return self.part(rows.number).distribution(rows, contexts, batch, self.ends)

    @property
    def digest(self) -> str:
        """SHA-256 of what was trained, in hexadecimal."""
        sha = hashlib.sha256()
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                sha.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
                plain = parameter.detach().cpu().contiguous().reshape(-1)
                sha.update(plain.view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def misfit(self, target: Target) -> str:
        """Why this guide cannot propose for another target, in words; "" where it can.

        It must have been fitted to the same choices of the same values, and texts in the same
        tokens. What they are weighed by may differ.
        """
        mine = {stage.name: stage for stage in self.target.stages}
        names = [stage.name for stage in target.stages]
        if list(mine) != names:
            return f"it draws {_listed(mine)}, and the model {_listed(names)}"
        for number, stage in enumerate(target.stages):
            other = mine[stage.name]
            if stage.support != other.support or stage.lowered != other.lowered:
                return f"`{stage.name}` has other values there"
            if stage.text is not None and other.text is not None:
                one, two = stage.text.lm.vocab, other.text.lm.vocab
                if one.digest != two.digest:
                    return (
                        f"the language model of `{stage.name}` has another vocabulary there"
                        f" ({two.size:,} tokens; here {one.size:,})"
                    )
            if self.contexts[number].names != Contexts.before(target, number).names:
                return f"what `{stage.name}` depends on is something else there"
        if self.target.device != target.device:
            return f"it is on {self.target.device}, and the run on {target.device}"
        return ""

    def trained(self) -> list[Tensor]:
        """The trainable parameters, part by part."""
        return [p for part in self.parts for p in part.parameters() if p.requires_grad]

    def parameter_groups(
        self, *, lr: float, table_lr: float, num_draws: int
    ) -> list[dict[str, Any]]:
        """The trainable parameters for Adam, each part at its own rate."""
        return [
            {
                "params": [p for p in part.parameters() if p.requires_grad],
                **cast(SitePart, part).rates(lr=lr, table_lr=table_lr, num_draws=num_draws),
            }
            for part in self.parts
        ]


def _listed(names: Iterable[str]) -> str:
    """Names of choices, as people list them."""
    return ", ".join(f"`{name}`" for name in names) or "nothing"
