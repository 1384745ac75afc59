"""One token for a batch of rows through a Llama-style network, in as few operations as it takes.

At the sizes that run well on a CPU, a step of the general forward pass spends more time between its
matrix products than in them. Here the projections of a layer are one product, the rotation of
queries and keys is one, and the residual is added by the product that makes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmppl.lm.cache import KVStorage

_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
# Frequencies of other kinds change with the length of the text.
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
# The fused weights are copies; in larger networks the products dominate anyway.
_MAX_PARAMETERS = 64_000_000


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class LlamaDecoder:
    """The weights of a Llama-style model, laid out for single steps.

    They are copied when this is built, and `is_current` tells whether they have been changed
    in place since, as an optimiser does.
    """

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self._parameters = tuple(model.parameters())
        self._versions = self._count_changes()
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
        if not all(type(module) is nn.Linear for module in _projections(model)):
            # An adapter has been put around some projection.
            return None
        return cls(model)

    def _count_changes(self) -> int:
        return sum(parameter._version for parameter in self._parameters)

    @property
    def is_current(self) -> bool:
        """Whether the parameters are still those that were copied."""
        return self._versions == self._count_changes()

    def _prepare(self, num_columns: int) -> None:
        """Cosines and sines `[positions, head dim]` of at least so many positions."""
        if num_columns <= self._cos.shape[0]:
            return
        positions = torch.arange(2 * num_columns, device=self._embedding.device).unsqueeze(0)
        cos, sin = self._rotary(self._embedding[:1], positions)
        self._cos, self._sin = cos[0], sin[0]

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
    ) -> Tensor:
        """Logits `[rows, vocab]` after the tokens of `column`; writes their keys and values.

        `pads` `[rows]` is the first column of each row and `visible` `[rows, columns]` what it may
        see; both None where all rows begin at column 0.
        """
        self._prepare(column + 1)
        num_rows = last_row - first_row
        heads, kv_heads, dim = self._num_heads, self._num_kv_heads, self._head_dim
        num_turned = heads + kv_heads
        x = functional.embedding(storage.tokens[first_row:last_row, column], self._embedding)
        floor = self._floor
        bias = None
        if pads is None or visible is None:
            turn = self._rotation_at(column)
        else:
            positions = column - pads
            cos, sin = self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)
            bias = torch.where(visible, 0.0, -torch.inf).to(x.dtype)[:, None, None, :]
        for layer, kept in zip(self._layers, storage.kept, strict=True):
            qkv = _projected(_unit(x, floor), layer.qkv, layer.qkv_bias).view(num_rows, -1, dim)
            turned, value = qkv[:, :num_turned], qkv[:, num_turned:]
            if bias is None:
                turned = torch.matmul(turned, turn)
            else:
                low, high = turned.chunk(2, dim=-1)
                turned = torch.addcmul(turned * cos, torch.cat((-high, low), -1), sin)
            keys = kept.keys.narrow(0, first_row, num_rows)
            values = kept.values.narrow(0, first_row, num_rows)
            keys.select(2, column).copy_(turned[:, heads:])
            values.select(2, column).copy_(value)
            query = turned[:, :heads].reshape(num_rows, kv_heads, heads // kv_heads, dim)
            scores = torch.matmul(query, keys.narrow(2, 0, column + 1).transpose(2, 3))
            if bias is not None:
                scores = scores.add_(bias)
            mixed = torch.matmul(scores.softmax(-1), values.narrow(2, 0, column + 1))
            x = _added(x, mixed.view(num_rows, heads * dim), layer.out, layer.out_bias)
            gate_up = _projected(_unit(x, floor), layer.gate_up, layer.gate_up_bias)
            gate, up = gate_up.chunk(2, dim=-1)
            x = _added(x, functional.silu(gate).mul_(up), layer.down, layer.down_bias)
        return functional.linear(_unit(x, floor).mul_(self._norm), self._head, self._head_bias)


def _unit(x: Tensor, floor: Tensor) -> Tensor:
    """x / sqrt(|x|² + floor²), by row."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def _projected(h: Tensor, transposed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(h, transposed) if bias is None else torch.addmm(bias, h, transposed)


def _transposed(weight: Tensor) -> Tensor:
    """`[in, out]`, contiguous: products of few rows read it faster."""
    return weight.detach().t().contiguous()


def _projections(model: Any) -> Iterator[nn.Module]:
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    yield model.lm_head


def _added(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + h Wᵀ + b."""
    x = torch.addmm(x, h, weight.t())
    return x if bias is None else x.add_(bias)


def _fused(layer: Any, scaling: float) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    width = attention.q_proj.weight.shape[1]
    before_attention = layer.input_layernorm.weight * math.sqrt(width)
    before_mlp = layer.post_attention_layernorm.weight * math.sqrt(width)
    # The scale of the scores goes into the queries; rotation is linear, so it commutes.
    qkv = [attention.q_proj.weight * scaling, attention.k_proj.weight, attention.v_proj.weight]
    biases = [attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]
    has_bias = biases[0] is not None
    if has_bias:
        biases[0] = biases[0] * scaling
    gate_up_bias = None
    if mlp.gate_proj.bias is not None:
        gate_up_bias = torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias]).detach()
    return _Layer(
        qkv=_transposed(torch.cat(qkv) * before_attention),
        qkv_bias=torch.cat(biases).detach() if has_bias else None,
        out=attention.o_proj.weight.detach(),
        out_bias=_detached(attention.o_proj.bias),
        gate_up=_transposed(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * before_mlp),
        gate_up_bias=gate_up_bias,
        down=mlp.down_proj.weight.detach(),
        down_bias=_detached(mlp.down_proj.bias),
    )


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
