"""One token for a batch of rows through a Llama-style network, in as few operations as it takes.

At the sizes that run well on a CPU, a step of the general forward pass spends more time between its
matrix products than in them. Here the projections of a layer are one product, the rotation of
queries and keys is one, and the residual is added by the product that makes it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmppl.lm.cache import KVStorage
from lmppl.records import brief

_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
# Frequencies of other kinds change with the length of the text.
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
# The fused weights are copies; in larger networks the products dominate anyway.
_MAX_PARAMETERS = 64_000_000
# On a CPU torch has a kernel of its own for batched products of fewer multiplications a matrix
# (bmm_out_or_baddbmm_ in ATen/native/LinearAlgebra.cpp); elementwise sums are faster than that.
_NAIVE_PRODUCT = 400


@dataclass(frozen=True, slots=True)
class _Projection:
    """x W + b with W `[in, out]`, contiguous: products of few rows read it faster."""

    weight: Tensor
    bias: Tensor | None

    __repr__ = brief

    @classmethod
    def of(cls, *scaled: tuple[Any, float], gain: Tensor | None = None) -> _Projection:
        """One product for some linear maps side by side, each times its scale.

        `gain` `[in]` scales the input.
        """
        weight = torch.cat([_weight_of(linear) * scale for linear, scale in scaled])
        if gain is not None:
            weight = weight * gain
        biases = [linear.bias * scale for linear, scale in scaled if linear.bias is not None]
        bias = torch.cat(biases).detach() if biases else None
        return cls(weight.detach().t().contiguous(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The projections of a layer, each `[in, out]` with its bias."""

    query_key: _Projection
    value: _Projection
    out: _Projection
    gate: _Projection
    up: _Projection
    down: _Projection

    __repr__ = brief


class LlamaDecoder:
    """The weights of a Llama-style model, laid out for single steps; low-rank adapters merged.

    They are copied when this is built, and `is_current` tells whether they have been changed
    in place since, as an optimiser does.
    """

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self._parameters = tuple(model.parameters())
        self._adapted = tuple(each for each in _projections(model) if _is_adapted(each))
        self._versions = self._count_changes()
        self._adapters = self._adapters_in_use()
        self._num_heads = config.num_attention_heads
        self._num_kv_heads = config.num_key_value_heads
        first = body.layers[0].self_attn
        self._head_dim = first.head_dim
        self._embedding = body.embed_tokens.weight.detach()
        width = self._embedding.shape[1]
        # x / sqrt(mean(x²) + eps) = √width · x / hypot(|x|, √(width · eps)); √width and the gain of
        # a norm go into the projection after it, or into the final gain.
        self._floor = self._embedding.new_tensor(math.sqrt(width * config.rms_norm_eps))
        self._norm = body.norm.weight.detach() * math.sqrt(width)
        self._head = model.lm_head.weight.detach()
        self._head_bias = None if model.lm_head.bias is None else model.lm_head.bias.detach()
        self._rotary = body.rotary_emb
        self._layers = [_fused(layer, first.scaling) for layer in body.layers]
        self._cos = self._sin = self._embedding.new_empty(0, self._head_dim)
        self._rotation: tuple[int, Tensor] = (-1, self._cos)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, model: Any, windows: tuple[int | None, ...]) -> LlamaDecoder | None:
        """A decoder for `model`, or None where this is not known to compute the same."""
        if type(model).__name__ not in _ARCHITECTURES or any(windows):
            return None
        config = model.config
        rotation = getattr(model.model.rotary_emb, "rope_type", "default")
        parameters = list(model.parameters())
        if (
            getattr(config, "hidden_act", None) != "silu"
            or rotation not in _FIXED_ROTATIONS
            or sum(parameter.numel() for parameter in parameters) > _MAX_PARAMETERS
            or {parameter.dtype for parameter in parameters} - {torch.float32, torch.float64}
            or len({(parameter.dtype, parameter.device) for parameter in parameters}) != 1
        ):
            return None
        if not all(type(each) is nn.Linear or _is_adapted(each) for each in _projections(model)):
            return None
        return cls(model)

    @property
    def adapters(self) -> tuple[nn.Parameter, ...]:
        """The parameters of low-rank adapters around projections."""
        return tuple(
            parameter
            for each in self._adapted
            for name, parameter in each.named_parameters()
            if not name.startswith("base_layer.")
        )

    def _count_changes(self) -> int:
        # Changed in place, or given other memory.
        return sum(each._version + each.data_ptr() for each in self._parameters)

    @property
    def is_current(self) -> bool:
        """Whether the parameters are still those that were copied."""
        return self._versions == self._count_changes() and self._adapters == self._adapters_in_use()

    def _adapters_in_use(self) -> list[tuple[object, ...]]:
        # Adapters are switched without a change of any parameter.
        return [_adapters_of(each) for each in self._adapted]

    def _prepare(self, num_columns: int) -> None:
        """Cosines and sines `[positions, head dim]` of at least so many positions."""
        if num_columns <= self._cos.shape[0]:
            return
        with self._lock:
            if num_columns <= self._cos.shape[0]:
                # Another thread came first.
                return
            positions = torch.arange(2 * num_columns, device=self._embedding.device).unsqueeze(0)
            cos, sin = self._rotary(self._embedding[:1], positions)
            # Whoever sees the cosines finds the sines.
            self._sin = sin[0]
            self._cos = cos[0]

    def _rotation_at(self, position: int) -> Tensor:
        """`[head dim, head dim]`: the map that turns a query or key as this position asks."""
        known, rotation = self._rotation
        if known != position:
            half = self._head_dim // 2
            cos, sin = self._cos[position], self._sin[position]
            rotation = torch.diag(cos)
            # rotate_half: component i of the first half becomes minus its partner in the second.
            rotation.diagonal(half).copy_(sin[half:])
            rotation.diagonal(-half).copy_(-sin[:half])
            self._rotation = (position, rotation)
        return rotation

    def step(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        column: int,
        pads: Tensor | None,
        visible: Tensor | None,
        first_column: int = 0,
    ) -> Tensor:
        """Logits `[rows, vocab]` after the tokens of `column`; writes their keys and values.

        Columns count from the end of the prefix that all rows share. `pads` `[rows]` is the first
        column of each row, none before `first_column`, and `visible` `[rows, columns from there]`
        what it may see; both None where all rows begin at column 0.
        """
        position = storage.num_shared + column
        self._prepare(position + 1)
        num_rows = last_row - first_row
        heads, kv_heads, dim = self._num_heads, self._num_kv_heads, self._head_dim
        num_turned = heads + kv_heads
        num_seen = column + 1 - first_column
        x = functional.embedding(storage.tokens[first_row:last_row, column], self._embedding)
        floor = self._floor
        bias = None
        if pads is None or visible is None:
            turn = self._rotation_at(position)
        else:
            positions = position - pads
            cos, sin = self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)
            bias = torch.where(visible, 0.0, -torch.inf).to(x.dtype)[:, None, None, :]
        for number, (layer, kept) in enumerate(zip(self._layers, storage.kept, strict=True)):
            h = _unit(x, floor)
            turned = layer.query_key(h).view(num_rows, num_turned, dim)
            if bias is None:
                turned = torch.mm(turned.view(-1, dim), turn).view(num_rows, num_turned, dim)
            else:
                low, high = turned.chunk(2, dim=-1)
                turned = torch.addcmul(turned * cos, torch.cat((-high, low), -1), sin)
            keys = kept.keys.narrow(0, first_row, num_rows)
            values = kept.values.narrow(0, first_row, num_rows)
            keys.select(2, column).copy_(turned[:, heads:])
            values.select(2, column).copy_(layer.value(h).view(num_rows, kv_heads, dim))
            query = turned[:, :heads].reshape(num_rows, kv_heads, heads // kv_heads, dim)
            scores = _scores(query, keys.narrow(2, first_column, num_seen))
            if bias is not None:
                scores = scores.add_(bias)
            values = values.narrow(2, first_column, num_seen)
            if storage.shared is None:
                mixed = _mixed(scores.softmax(-1), values)
            else:
                mixed = _mixed_with_shared(query, scores, values, *storage.shared.layers[number])
            x = layer.out(mixed.view(num_rows, heads * dim)).add_(x)
            h = _unit(x, floor)
            x = layer.down(functional.silu(layer.gate(h)).mul_(layer.up(h))).add_(x)
        return functional.linear(_unit(x, floor).mul_(self._norm), self._head, self._head_bias)


@contextmanager
@torch.no_grad()
def perturbed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Adds a tenth of a standard normal draw (the same each time) while the block runs."""
    generator = torch.Generator().manual_seed(0)
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=0.1)
        yield
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)


def _unit(x: Tensor, floor: Tensor) -> Tensor:
    """x / sqrt(|x|² + floor²), by row."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def _is_naive(group: int, values: Tensor) -> bool:
    """Whether torch would multiply such a batch of small matrices without BLAS, and slowly."""
    small = values.shape[2] * values.shape[3] < _NAIVE_PRODUCT
    return small and group == 1 and values.device.type == "cpu"


def _scores(query: Tensor, keys: Tensor) -> Tensor:
    """`[rows, kv heads, group, columns]`: every query times the keys of its row."""
    if _is_naive(query.shape[2], keys):
        return (query * keys).sum(-1).unsqueeze(2)
    return torch.matmul(query, keys.transpose(2, 3))


def _mixed(weights: Tensor, values: Tensor) -> Tensor:
    """`[rows, kv heads, group, head dim]`: the values of a row by weight."""
    if _is_naive(weights.shape[2], values):
        return (weights.transpose(2, 3) * values).sum(2, keepdim=True)
    return torch.matmul(weights, values)


def _mixed_with_shared(
    query: Tensor, scores: Tensor, values: Tensor, shared_keys: Tensor, shared_values: Tensor
) -> Tensor:
    """`[rows, kv heads, group, dim]`: attention over a prefix of all rows and over their own.

    What the rows share is one product for all of them: its keys and values are read once.
    """
    num_rows, kv_heads, group, dim = query.shape
    num_shared = shared_keys.shape[1]
    by_head = query.transpose(0, 1).reshape(kv_heads, num_rows * group, dim)
    before = torch.bmm(by_head, shared_keys.transpose(1, 2))
    before = before.view(kv_heads, num_rows, group, num_shared).transpose(0, 1)
    weights = torch.cat((before, scores), -1).softmax(-1)
    own = _mixed(weights[..., num_shared:], values)
    weights = weights[..., :num_shared].transpose(0, 1).reshape(kv_heads, -1, num_shared)
    mixed = torch.bmm(weights, shared_values).view(kv_heads, num_rows, group, dim)
    return own.add_(mixed.transpose(0, 1))


def _is_adapted(module: Any) -> bool:
    """Whether this is a linear layer of peft plus scaled products of two matrices, and no more."""
    return (
        hasattr(module, "get_delta_weight")
        and hasattr(module, "lora_A")
        and type(getattr(module, "base_layer", None)) is nn.Linear
        and not getattr(module, "lora_variant", None)
        and all(getattr(each, "bias", None) is None for each in module.lora_B.values())
    )


def _adapters_of(module: Any) -> tuple[object, ...]:
    """The names of the adapters that the module adds to its own weight."""
    if module.disable_adapters or module.merged:
        return (module.merged,)
    return tuple(name for name in module.active_adapters if name in module.lora_A)


def _weight_of(linear: Any) -> Tensor:
    """The weight `[out, in]` of a projection, its adapters merged."""
    if type(linear) is nn.Linear:
        return linear.weight
    weight: Tensor = linear.base_layer.weight
    for name in _adapters_of(linear):
        if isinstance(name, str):
            weight = weight + linear.get_delta_weight(name)
    return weight


def _projections(model: Any) -> Iterator[nn.Module]:
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    yield model.lm_head


def _fused(layer: Any, scaling: float) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    width = layer.input_layernorm.weight.shape[0]
    before_attention = layer.input_layernorm.weight * math.sqrt(width)
    before_mlp = layer.post_attention_layernorm.weight * math.sqrt(width)
    # The scale of the scores goes into the queries; rotation is linear, so it commutes.
    query_key = [(attention.q_proj, scaling), (attention.k_proj, 1.0)]
    return _Layer(
        query_key=_Projection.of(*query_key, gain=before_attention),
        value=_Projection.of((attention.v_proj, 1.0), gain=before_attention),
        out=_Projection.of((attention.o_proj, 1.0)),
        gate=_Projection.of((mlp.gate_proj, 1.0), gain=before_mlp),
        up=_Projection.of((mlp.up_proj, 1.0), gain=before_mlp),
        down=_Projection.of((mlp.down_proj, 1.0)),
    )
