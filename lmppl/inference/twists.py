"""Fitted twists: what a fit leaves, kept in a directory, and what runs look ahead by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmppl.density import Target, TextStage, Traces
from lmppl.density.steering.learned import TRAINED, Head, LearnedTwist, Seen
from lmppl.density.steering.protocol import Steering
from lmppl.errors import Diagnostic, InferenceError
from lmppl.jsons import read_json
from lmppl.lowering.guide import Contexts
from lmppl.records import brief
from lmppl.writing import whole_directory

DESCRIPTION = "lmppl_twist.json"
_TENSORS = "heads.safetensors"
# The logits of a model without a hidden state stand for one up to so many tokens.
_LARGEST_VOCABULARY = 1024


@dataclass(frozen=True, slots=True)
class FittedTwist:
    """The heads of the texts of a model by name, with the vocabulary that each was fitted in.

    `num_groups` bindings were fitted together.
    """

    heads: Mapping[str, Head]
    vocabularies: Mapping[str, str]
    contexts: Mapping[str, tuple[str, ...]]
    num_groups: int

    __repr__ = brief

    @classmethod
    def of(cls, target: Target, heads: Mapping[int, Head]) -> FittedTwist:
        """From the heads by number of site."""
        names = {number: target.stages[number].name for number in heads}
        return cls(
            {names[number]: head for number, head in heads.items()},
            {names[number]: _text(target, number).lm.vocab.digest for number in heads},
            {names[number]: Contexts.before(target, number).names for number in heads},
            target.num_groups,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what was trained, in hexadecimal."""
        sha = hashlib.sha256()
        for name, head in self.heads.items():
            for key, tensor in head.trained.items():
                sha.update(f"{name} {key} {tuple(tensor.shape)}".encode())
                sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def misfit(self, target: Target) -> str:
        """Why a target cannot be looked ahead to by this, in words; "" where it can."""
        texts = {s.name: n for n, s in enumerate(target.stages) if s.text is not None}
        if set(texts) != set(self.heads):
            return f"it is of {', '.join(self.heads)}, and the model's texts are {', '.join(texts)}"
        for name, number in texts.items():
            if _text(target, number).lm.vocab.digest != self.vocabularies[name]:
                return f"the language model of `{name}` has another vocabulary there"
            if Contexts.before(target, number).names != self.contexts[name]:
                return f"what `{name}` depends on is something else there"
        if self.num_groups not in (1, target.num_groups):
            return f"it was fitted to {self.num_groups} bindings, and here are {target.num_groups}"
        return ""

    def scaled(self, power: float) -> FittedTwist:
        """The twist to a power."""
        heads = {n: replace(head, outer=power * head.outer) for n, head in self.heads.items()}
        return replace(self, heads=heads)

    def of_groups(self, groups: Sequence[int]) -> FittedTwist:
        """The same for some of the bindings, which are then numbered anew."""
        if self.num_groups == 1:
            return self
        heads = {}
        for name, head in self.heads.items():
            by_group = head.context.view(self.num_groups, -1, head.context.shape[-1])
            mine = by_group[list(groups)].flatten(0, 1)
            heads[name] = replace(head, context=mine)
        return replace(self, heads=heads, num_groups=len(groups))

    def on(self, target: Target) -> LookAhead:
        """What looks ahead in a run on a target."""
        return LookAhead(self, target)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the twist to a directory that is made if need be."""
        with whole_directory(directory, last=DESCRIPTION) as place:
            tensors = {
                f"{name}.{key}": tensor.detach().cpu().contiguous()
                for name, head in self.heads.items()
                for key, tensor in head.trained.items()
            }
            save_file(tensors, str(place / _TENSORS))
            description = {
                "format_version": 1,
                "texts": list(self.heads),
                "vocabularies": dict(self.vocabularies),
                "contexts": {name: list(names) for name, names in self.contexts.items()},
                "num_bindings": self.num_groups,
                "digest": self.digest,
            }
            text = json.dumps(description, indent=2, ensure_ascii=False)
            (place / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_twist(target: Target, directory: Path) -> FittedTwist:
    """The twist that `save_pretrained` wrote, for the language models of a target.

    Raises: ValueError, KeyError or OSError where it holds none, or one of other language models.
    """
    text = (directory / DESCRIPTION).read_text(encoding="utf-8")
    description: dict[str, Any] = read_json(text, finite=True)
    tensors = load_file(str(directory / _TENSORS))
    heads = {}
    for stage in target.stages:
        if stage.text is None or stage.name not in description["texts"]:
            continue
        own = {key: tensors[f"{stage.name}.{key}"] for key in TRAINED}
        fresh = Head.fresh(
            unembedding_of(stage.text), 1, own["inner"].shape[1], torch.Generator().manual_seed(0)
        )
        heads[stage.name] = fresh.with_trained(own)
    found = FittedTwist(
        heads,
        description["vocabularies"],
        {name: tuple(names) for name, names in description["contexts"].items()},
        description["num_bindings"],
    )
    if set(heads) == set(description["texts"]) and found.digest != description["digest"]:
        raise ValueError("its numbers are not those that were saved: it is damaged")
    return found


@dataclass(frozen=True, slots=True)
class LookAhead:
    """A fitted twist on a target: what a run asks for the steering of a site.

    Where `seen` is given, what is read of the texts of each site is kept there, by its number.
    """

    twist: FittedTwist
    target: Target
    seen: dict[int, Seen] | None = None

    __repr__ = brief

    @property
    def says_nothing(self) -> bool:
        """Whether ψ = 1 for all texts, as a fit leaves it that has found none that pays."""
        return not any(bool(head.outer.any()) for head in self.twist.heads.values())

    def steering(self, number: int, traces: Traces) -> Steering:
        """The twist of a text site, for executions that are at it."""
        stage = self.target.stages[number]
        contexts = Contexts.before(self.target, number).of(traces)
        if self.twist.num_groups == 1:
            # Fitted to one binding, it looks ahead alike for all.
            contexts = contexts % max(1, self.twist.heads[stage.name].context.shape[0])
        head = self.twist.heads[stage.name]
        if self.seen is None or stage.text is None:
            return LearnedTwist(head, contexts)
        seen = Seen.empty(traces.num_rows, stage.text.max_tokens, head)
        self.seen[number] = seen
        return LearnedTwist(head, contexts, seen)


def unembedding_of(stage: TextStage) -> Tensor:
    """The weights `[vocab, hidden]` that make logits of the hidden state of a text's model.

    Where a model has no such layer, its logits are all that is known of its state, and these
    weights are the identity.

    Raises:
        InferenceError: LMP419, it has none, and its vocabulary is large.
    """
    weight = getattr(stage.lm, "unembedding", None)
    if weight is not None:
        return cast(Tensor, weight)
    size = stage.lm.vocab.size
    if size > _LARGEST_VOCABULARY:
        raise InferenceError(
            [
                Diagnostic(
                    "LMP419",
                    "error",
                    f"the language model of `{stage.name}`, {stage.lm.name}, has no hidden state"
                    f" that a twist could be read from, and too many tokens ({size:,}) for its"
                    " probabilities to stand for one",
                    help="use a language model of transformers; for others, smc looks ahead by"
                    " what its factors say of unfinished texts",
                )
            ]
        )
    return torch.eye(size, device=stage.device)


def _text(target: Target, number: int) -> TextStage:
    text = target.stages[number].text
    assert text is not None
    return text
