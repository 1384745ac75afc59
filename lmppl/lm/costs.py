"""What a step of a language model costs: its products counted, and timed without all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.timing import timer

# Bytes of weights up to which every product has its own, on a CPU and elsewhere.
_OWN_WEIGHTS = 2**28
_OWN_WEIGHTS_ON_DEVICE = 2**34


@dataclass(frozen=True, slots=True)
class Cost:
    """What one token of one row costs in the network, and what a step reads once for all rows.

    `matrix_flops` counts multiplications and additions of the projections and the head,
    `attention_flops` those over `context` kept tokens; `cache_bytes` are the keys and values read
    for them, `weight_bytes` the weights, read once a step.
    """

    num_parameters: int
    matrix_flops: int
    attention_flops: int
    cache_bytes: int
    weight_bytes: int
    shapes: tuple[tuple[int, int], ...]
    head: tuple[int, int] | None


def cost_of(lm: HuggingFaceLM, context: int) -> Cost:
    """The cost model of a language model at a context of so many tokens."""
    head = lm.model.get_output_embeddings()
    shapes: list[tuple[int, int]] = []
    for module in lm.model.modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            shapes.append((module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            shapes.append((int(module.weight.shape[0]), int(module.weight.shape[1])))
    head_shape = None
    if head is not None:
        head_shape = (int(head.weight.shape[1]), int(head.weight.shape[0]))
    config = lm.model.config.get_text_config(decoder=True)
    layers, heads = config.num_hidden_layers, getattr(config, "num_attention_heads", 0)
    dim = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    every = [*shapes, *([head_shape] if head_shape else [])]
    itemsize = next(lm.model.parameters()).element_size()
    return Cost(
        num_parameters=sum(parameter.numel() for parameter in lm.model.parameters()),
        matrix_flops=2 * sum(a * b for a, b in every),
        attention_flops=4 * layers * heads * dim * context,
        cache_bytes=2 * layers * kv_heads * dim * context * itemsize,
        weight_bytes=itemsize * sum(a * b for a, b in every),
        shapes=tuple(shapes),
        head=head_shape,
    )


class Products:
    """The bare products of a network's step, `[rows, in] @ [in, out]`, each with its own weights.

    Weights of one layer are not in the cache any more when it is their turn again, as in a step;
    beyond a quarter of a gigabyte (on a device 16 gigabytes) layers of the same shape share them.
    On a CUDA device the pass is a graph, so that a host that cannot keep up is no part of it.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._now = timer(device)
        make = partial(torch.randn, device=device, dtype=dtype)
        self._left = {width: make(rows, width) for width in {i for i, _ in shapes}}
        numel = sum(i * o for i, o in shapes)
        limit = _OWN_WEIGHTS if device.type == "cpu" else _OWN_WEIGHTS_ON_DEVICE
        share = numel * dtype.itemsize > limit
        kept = {shape: make(*shape) for shape in set(shapes)}
        self._right = [kept[shape] if share else kept[shape].clone() for shape in shapes]
        self._seconds, self._passes = 0.0, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self.run(1)
        if device.type == "cuda" and shapes:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(device), torch.cuda.graph(graph):
                self.run(1)
            self._graph = graph

    def run(self, passes: int) -> int:
        """Computes so many passes, and returns their number."""
        for _ in range(passes):
            if self._graph is not None:
                self._graph.replay()
                continue
            for right in self._right:
                torch.mm(self._left[right.shape[0]], right)
        return passes

    def measure(self, at_least: float = 0.3) -> None:
        """Runs passes for so many seconds, and counts them in the mean."""
        passes, spent = 1, 0.0
        while spent < at_least and self._right:
            began = self._now()
            self.run(passes)
            spent += self._now() - began
            self._passes += passes
            passes *= 2
        self._seconds += spent

    @property
    def seconds(self) -> float:
        """Mean seconds of a pass."""
        return self._seconds / max(1, self._passes)
