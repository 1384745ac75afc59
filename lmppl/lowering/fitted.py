"""A fitted guide as users hold it: drawing, scoring, saving."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmppl.density import Stage, Target, Traces, concatenate
from lmppl.density.walk import scored, walk
from lmppl.fence import fenced
from lmppl.jsons import read_json
from lmppl.lowering.execution import Execution
from lmppl.lowering.guide import Guide
from lmppl.lowering.isolation import initialised, isolated
from lmppl.lowering.objective import log_prob_of_rows
from lmppl.lowering.program import PyroGuide
from lmppl.lowering.sites import SitePart, SiteValues
from lmppl.rng import Stream
from lmppl.writing import whole_directory

FORMAT_VERSION = 1
_DESCRIPTION = "lmppl_guide.json"
_BATCH = 256
# What a site differs by where its description does.
_OTHERS = {
    "kind": "values of another kind",
    "values": "other values",
    "vocabulary_digest": "another vocabulary",
}


@dataclass(frozen=True, slots=True)
class GuideDraws:
    """Draws of a fitted guide: the values of every site by name, and log q of each.

    `tokens` holds, per text site, ids `[draws, max_tokens]` padded after the end, and lengths.
    `log_prob` `[draws]` is in nats, of the draw as a whole.
    """

    values: Mapping[str, list[object]]
    tokens: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
    log_prob: NDArray[np.float64]

    def __getitem__(self, name: str) -> list[object]:
        return self.values[name]

    def __len__(self) -> int:
        return int(self.log_prob.shape[0])


@dataclass(frozen=True, slots=True)
class ScoredTraces:
    """Executions drawn from a guide, with every site and potential scored under the target.

    `log_guide` `[rows]` float64 is log q of each.
    """

    traces: Traces
    log_guide: Tensor


class FittedGuide:
    """The distribution that svi has fitted, for one binding of the parameters.

    It is a distribution over whole executions, not the posterior itself: `post.log_weights` says
    how far the two are apart.
    """

    def __init__(self, guide: Guide, group: int = 0) -> None:
        self.module = guide
        self.group = group

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """What makes the networks of this guide slower than they could be, a sentence each."""
        parts = (cast(SitePart, part) for part in self.module.parts)
        return tuple(slow for part in parts for slow in part.slow_paths)

    def __repr__(self) -> str:
        sites = ", ".join(stage.name for stage in self.module.target.stages)
        return f"<fitted guide of {self.module.target.model.name}: {sites}>"

    @fenced
    def sample(self, n: int, seed: int = 0) -> GuideDraws:
        """`n` independent draws; the same seed gives the same draws."""
        traces, log_guide = self._draw(n, Stream.from_seed(seed).child("guide"))
        return self._as_draws(traces, log_guide)

    @fenced
    def draw_scored(self, n: int, stream: Stream) -> ScoredTraces:
        """`n` draws with log prior and log potentials of the target, and log q."""
        traces, log_guide = self._draw(n, stream)
        target = self.module.target
        with torch.no_grad():
            found = walk(target, target.start(traces.group), scored(target, traces))
        return ScoredTraces(found, log_guide)

    def _draw(self, n: int, stream: Stream) -> tuple[Traces, Tensor]:
        """Executions of this guide's binding and log q, `[n]`."""
        batches, log_guides = [], []
        for first in range(0, n, _BATCH):
            size = min(_BATCH, n - first)
            tracing = partial(self._traced, size)
            traces, log_guide = isolated(tracing, stream.child("batch", first))
            batches.append(traces)
            log_guides.append(log_guide)
        return concatenate(batches), torch.cat(log_guides)

    @torch.no_grad()
    def _traced(self, num_rows: int) -> tuple[Traces, Tensor]:
        trace = poutine.trace(self._program()).get_trace(num_rows)
        execution = cast(Execution, trace.nodes["_RETURN"]["value"])
        return execution.traces, log_prob_of_rows(trace)

    def _program(self) -> _OneBinding:
        return _OneBinding(self.module, self.group)

    def _as_draws(self, traces: Traces, log_guide: Tensor) -> GuideDraws:
        values = {name: value.listed() for name, value in traces.values.items()}
        tokens = {
            name: (ids.cpu().numpy(), lengths.cpu().numpy())
            for name, (ids, lengths) in traces.token_ids().items()
        }
        return GuideDraws(values, tokens, log_guide.cpu().numpy())

    @fenced
    def log_prob(
        self, values: GuideDraws | Mapping[str, SiteValues] | SiteValues
    ) -> NDArray[np.float64]:
        """log q of given executions, `[draws]`, in nats; −inf for what the guide never draws.

        `values` gives every site its values: those of a discrete choice as they are in the
        program; a text as token ids `[draws, length]`, ended by an end token where it has one
        (what follows is ignored), or as strings where the language model has a tokenizer. A string
        is scored as its own tokenization, ended by the end token if it is shorter than
        `max_tokens`; other token sequences that read the same are not added. Where the program has
        one site, its values alone will do. Draws of `sample` are scored as they were drawn.

        Raises:
            ValueError: a site without values, or a string where there is no tokenizer.
        """
        stages = self.module.target.stages
        if isinstance(values, GuideDraws):
            found: dict[str, SiteValues] = dict(values.values)
            found.update({n: torch.from_numpy(ids.copy()) for n, (ids, _) in values.tokens.items()})
            values = found
        if not isinstance(values, Mapping):
            if len(stages) != 1:
                names = ", ".join(stage.name for stage in stages)
                raise ValueError(f"give values by name, for {names}")
            values = {stages[0].name: values}
        missing = [stage.name for stage in stages if stage.name not in values]
        if missing:
            raise ValueError(f"no values were given for {', '.join(missing)}")
        device = self.module.target.device
        placed = {
            stage.name: site.given(values[stage.name]).to(device)
            for stage, site in zip(stages, self.module.sites, strict=True)
        }
        num_rows = next(iter(placed.values())).shape[0]
        return isolated(lambda: self._scored(placed, num_rows))

    @torch.no_grad()
    def _scored(self, placed: dict[str, Tensor], num_rows: int) -> NDArray[np.float64]:
        program = poutine.condition(self._program(), data=placed)
        trace = poutine.trace(program).get_trace(num_rows)
        found: NDArray[np.float64] = log_prob_of_rows(trace).cpu().numpy()
        return found

    @fenced
    def score(self, traces: Traces) -> NDArray[np.float64]:
        """log q of executions, `[rows]`, in nats; −inf for what the guide never draws."""
        found = []
        for first in range(0, traces.num_rows, _BATCH):
            rows = torch.arange(first, min(first + _BATCH, traces.num_rows))
            placed = self._values(traces.select(rows.to(traces.group.device)))
            found.append(isolated(partial(self._scored, placed, rows.shape[0])))
        return np.concatenate(found)

    def _values(self, traces: Traces) -> dict[str, Tensor]:
        """The values of all sites as Pyro has them."""
        return {
            stage.name: site.written(traces.values[stage.name])
            for stage, site in zip(self.module.target.stages, self.module.sites, strict=True)
        }

    @fenced
    def save_pretrained(self, directory: str | Path, *, merge: bool = True) -> None:
        """Writes the guide to a directory that is made if need be.

        A text site's neural network is written as a Hugging Face model directory with its
        tokenizer, so that any tool loads it; low-rank adapters are merged into the weights, or
        kept as a peft adapter with `merge=False`. With one network it lies in the directory
        itself, with several each in a directory named after its site. `lmppl_guide.json` says what
        was fitted, and `tables.safetensors` holds the logits of discrete sites and of language
        models without weights; `adapters.safetensors` those adapters as they were trained. What a
        program masks or warps while drawing is not in the weights.
        """
        with whole_directory(directory, last=_DESCRIPTION) as place:
            self._write(place, merge)

    def _write(self, place: Path, merge: bool) -> None:
        guide, target = self.module, self.module.target
        parts = [guide.part(number) for number in range(len(target.stages))]
        num_networks = sum(part.is_network for part in parts)
        tables: dict[str, Tensor] = {}
        adapters: dict[str, Tensor] = {}
        sites = []
        for number, (stage, part) in enumerate(zip(target.stages, parts, strict=True)):
            entry: dict[str, Any] = {
                "name": stage.name,
                "contexts": list(guide.contexts[number].names),
            }
            entry |= stage.described()
            if part.is_network:
                own = place if num_networks == 1 else place / stage.name
                entry["directory"] = str(own.relative_to(place))
                part.save_network(own, merge=merge)
                if part.uses_adapters:
                    for name, parameter in part.named_parameters():
                        if parameter.requires_grad:
                            adapters[f"{stage.name}.{name}"] = parameter.detach().contiguous()
            else:
                for name, tensor in part.state_dict().items():
                    tables[f"{stage.name}.{name}"] = tensor.contiguous()
            sites.append(entry)
        if tables:
            save_file(tables, str(place / "tables.safetensors"))
        if adapters:
            save_file(adapters, str(place / "adapters.safetensors"))
        description = {
            "format_version": FORMAT_VERSION,
            "model": target.model.name,
            "model_digest": target.model.digest,
            "guide": guide.kind,
            "lora_rank": guide.lora_rank,
            "guide_digest": guide.digest,
            "binding": self.group,
            "num_bindings": target.num_groups,
            "digests": dict(target.digests),
            "sites": sites,
        }
        text = json.dumps(description, indent=2, default=str, ensure_ascii=False)
        (place / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_guide(target: Target, directory: Path) -> FittedGuide:
    """The guide that `save_pretrained` wrote to a directory, for a target of one binding.

    Raises: ValueError, KeyError, TypeError, OSError or RuntimeError where it holds no guide, or one
        of other choices.
    """
    description = _description(directory)
    saved = [site["name"] for site in description["sites"]]
    names = [stage.name for stage in target.stages]
    if saved != names:
        raise ValueError(f"it draws {', '.join(saved)}, and the model {', '.join(names)}")
    for site, stage in zip(description["sites"], target.stages, strict=True):
        described = json.loads(json.dumps(stage.described(), default=str))
        for key in _OTHERS:
            if key in site and site[key] != described.get(key):
                raise ValueError(f"`{stage.name}` has {_OTHERS[key]} there")
    kind, rank = description.get("guide", "full"), description.get("lora_rank", 8)
    make = partial(Guide, target, kind=kind, lora_rank=rank)
    found = restore_guide(initialised(make, Stream.from_seed(0)), directory)
    # That of several bindings is not read as a whole, and networks are written as others read them.
    parts = [found.module.part(number) for number in range(len(names))]
    is_whole = description["num_bindings"] == 1 and not any(part.is_network for part in parts)
    if is_whole and found.module.digest != description["guide_digest"]:
        raise ValueError("its numbers are not those that were saved: it is damaged")
    return found


def _description(directory: Path) -> dict[str, Any]:
    text = (directory / _DESCRIPTION).read_text(encoding="utf-8")
    found: dict[str, Any] = read_json(text, finite=True)
    return found


def restore_guide(guide: Guide, directory: Path) -> FittedGuide:
    """The guide that `save_pretrained` wrote, in a fresh guide of the same program for its binding.

    Raises: ValueError, KeyError, OSError where it is not the guide of this program.
    """
    description = _description(directory)
    sites = {site["name"]: site for site in description["sites"]}
    binding, num_bindings = description["binding"], description["num_bindings"]
    found: dict[str, Tensor] = {}
    for file in ("tables.safetensors", "adapters.safetensors"):
        if (directory / file).exists():
            found.update(load_file(str(directory / file)))
    for number, stage in enumerate(guide.target.stages):
        part = guide.part(number)
        site = sites[stage.name]
        if list(guide.contexts[number].names) != site["contexts"]:
            raise ValueError(f"the guide of {stage.name} depends on other choices than here")
        if part.is_network and not part.uses_adapters:
            part.load_network(directory / site["directory"])
            continue
        wanted = dict(part.named_parameters())
        for name, parameter in wanted.items():
            if not parameter.requires_grad:
                continue
            saved = found[f"{stage.name}.{name}"]
            if saved.shape != parameter.shape:
                # Of a guide of several bindings, the rows of this one.
                rows = parameter.shape[0]
                saved = saved[binding * rows : (binding + 1) * rows]
                if num_bindings == 1 or saved.shape != parameter.shape:
                    raise ValueError(_misshapen(name, site, stage))
            with torch.no_grad():
                parameter.copy_(saved)
    return FittedGuide(guide)


def _misshapen(name: str, site: Mapping[str, Any], stage: Stage) -> str:
    """Why a table does not fit, in words."""
    there, here = site.get("max_tokens"), stage.described().get("max_tokens")
    if there != here:
        return f"`{stage.name}` had up to {there} tokens where it was fitted, and has {here} here"
    return f"{name} of the guide of `{stage.name}` has another shape there"


class _OneBinding:
    """The Pyro guide of one binding of a guide that serves several."""

    def __init__(self, guide: Guide, group: int) -> None:
        self.program = PyroGuide(guide, name="fitted guide")
        self.group = group

    def __call__(self, num_rows: int) -> Execution:
        target = self.program.target
        groups = torch.full((num_rows,), self.group, device=target.device)
        with pyro.plate("rows", num_rows, dim=-1):
            return self.program.run(Execution(target, groups, self.program.costs))
