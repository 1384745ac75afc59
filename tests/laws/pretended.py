"""A device that is none: tensors that say they are elsewhere, and are held to the rules of a GPU.

What a GPU refuses is refused here on a CPU: operations that mix its tensors with the host's, and
reading them as numpy arrays. What makes a host wait for a GPU is counted by the line that asked.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.utils.backend_registration
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import lmppl

DEVICE = "pretended"
torch.utils.backend_registration._setup_privateuseone_for_python_backend(DEVICE)
_HERE = str(Path(lmppl.__file__).parent)
_ops = torch.ops.aten
# These tell the host something: a number, a size, or where true entries are.
_WAITS = {
    _ops._local_scalar_dense, _ops.nonzero, _ops.equal, _ops.masked_select, _ops._unique,
    _ops._unique2, _ops.unique_dim, _ops.unique_consecutive, _ops.bincount,
}  # fmt: skip
# Positions may be the host's, which costs a copy; the rest of an index may not.
_INDEXING = {_ops.index, _ops.index_put, _ops.index_put_, _ops._index_put_impl_}
_COPIES = {_ops._to_copy, _ops.copy_, _ops._copy_from}


class Elsewhere(Tensor):
    """A tensor of that device; `inner` is the one on the CPU that holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=DEVICE,
            requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, *, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of its device")


class Pretended(TorchDispatchMode):
    """While it is entered, the device is there. `waits` counts by file and line of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._tensor = torch.tensor

    def __enter__(self):
        def tensor(data, *, device=None, **options):
            # torch makes it on the device at once, below every mode.
            made = self._tensor(data, **options)
            return made if device is None else made.to(device)

        torch.tensor = tensor
        return super().__enter__()

    def __exit__(self, *raised):
        torch.tensor = self._tensor
        return super().__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves, shape = tree_flatten((args, dict(kwargs or {})))
        there = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
        asked = (kwargs or {}).get("device")
        goes_there = asked is not None and torch.device(asked).type == DEVICE
        packet = func._overloadpacket
        if there:
            self._require_one_device(func, packet, args, leaves)
            leaves_host = asked is not None and not goes_there and packet is _ops._to_copy
            onto_host = packet is _ops.copy_ and not isinstance(args[0], Elsewhere)
            if packet in _WAITS or leaves_host or onto_host or _by_truth(packet, args):
                self.waits[f"{_place()} {packet.__name__}"] += 1
        known = {id(each.inner): each for each in there}
        inner = [leaf.inner if isinstance(leaf, Elsewhere) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(inner, shape)
        if goes_there:
            kwargs["device"] = torch.device("cpu")
        out = func(*args, **kwargs)
        if packet is _ops.copy_ and not isinstance(leaves[0], Elsewhere):
            return leaves[0]
        if asked is not None:
            stays = goes_there
        else:
            stays = bool(there)
        if not stays:
            return out

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else Elsewhere(value)

        return tree_map(wrapped, out)

    @staticmethod
    def _require_one_device(func, packet, args, leaves) -> None:
        hosts = [
            leaf
            for leaf in leaves
            if isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere) and leaf.dim() > 0
        ]
        if not hosts or packet in _COPIES:
            return
        if packet in _INDEXING and isinstance(args[0], Elsewhere):
            if len(args) < 3 or isinstance(args[2], Elsewhere) or args[2].dim() == 0:
                return
        raise RuntimeError(f"expected all tensors to be on the same device, in {func}")


def _by_truth(packet: Any, args: Any) -> bool:
    """Whether an index has truth values, whose number the host must know."""
    return packet in _INDEXING and any(
        isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    )


def _place() -> str:
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_HERE):
            name = Path(frame.f_code.co_filename).relative_to(_HERE).as_posix()
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
