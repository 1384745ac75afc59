"""Which of torch's attention kernels a language model may run on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch


class _Placed(Protocol):
    @property
    def device(self) -> torch.device: ...


Owner = TypeVar("Owner", bound=_Placed)
Given = ParamSpec("Given")
Found = TypeVar("Found")


def without_plans(
    method: Callable[Concatenate[Owner, Given], Found],
) -> Callable[Concatenate[Owner, Given], Found]:
    """The method without cuDNN's attention on a CUDA device.

    cuDNN plans each shape anew, which takes some 50 ms, and a step has another shape than the one
    before: a column more, and a row less wherever a text has ended.
    """

    @wraps(method)
    def call(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        kernels: Any = torch.backends.cuda
        if self.device.type != "cuda" or not kernels.cudnn_sdp_enabled():
            return method(self, *args, **kwargs)
        kernels.enable_cudnn_sdp(False)
        try:
            return method(self, *args, **kwargs)
        finally:
            kernels.enable_cudnn_sdp(True)

    return call
