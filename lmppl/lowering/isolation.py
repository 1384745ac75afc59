"""Pyro's globals as if they were our own, and random numbers that are nobody else's.

Pyro keeps one stack of handlers, one allocator of plates and one parameter store for the whole
process, threads included. A call that uses them has them to itself and empty; a lock keeps other
threads' calls of ours out meanwhile. Random numbers of such a call come from generators of its own:
torch's global one is neither read nor rewound under other threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine import runtime
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmppl.rng import Stream

T = TypeVar("T")

_lock = threading.RLock()
_ambient = threading.local()
_SETTINGS = {"validate_poutine": True, "validate_infer": True, "module_local_params": False}


class Generators:
    """Generators of one seed, one for each device that asks."""

    def __init__(self, stream: Stream) -> None:
        self._seed = stream.key & (2**63 - 1)
        self._by_device: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        if device not in self._by_device:
            self._by_device[device] = torch.Generator(device).manual_seed(self._seed)
        return self._by_device[device]


def generator(device: torch.device | str = "cpu") -> torch.Generator | None:
    """What random numbers of this thread come from now; None: torch's global generator."""
    found: Generators | None = getattr(_ambient, "generators", None)
    return None if found is None else found.on(torch.device(device))


def isolated(call: Callable[[], T], stream: Stream | None = None) -> T:
    """What `call` returns, run with Pyro's globals fresh and, with a `stream`, random numbers of
    it alone."""
    again = False
    with _lock:
        outside = _Globals()
        try:
            outside.refresh(None if stream is None else Generators(stream))
            return call()
        finally:
            # See `fence.within`.
            while True:
                try:
                    outside.restore()
                    break
                except KeyboardInterrupt:
                    again = True
            if again:
                raise KeyboardInterrupt


class _Globals:
    """Pyro's globals as they were when this was made."""

    def __init__(self) -> None:
        self._store: Any = pyro.get_param_store()
        self._parameters = dict(vars(self._store))
        self._handlers = list(runtime._PYRO_STACK)
        self._plates = list(runtime._DIM_ALLOCATOR._stack)
        self._enumerated = dict(vars(runtime._ENUM_ALLOCATOR))
        self._settings = {name: pyro.settings.get(name) for name in _SETTINGS}
        self._generators = getattr(_ambient, "generators", None)

    def refresh(self, generators: Generators | None) -> None:
        # The store's dictionaries are exchanged and not copied: parameters stay the objects that
        # an optimiser of the caller knows.
        vars(self._store).update(vars(type(self._store)()))
        runtime._PYRO_STACK.clear()
        runtime._DIM_ALLOCATOR._stack.clear()
        if self._settings != _SETTINGS:
            pyro.settings.set(**_SETTINGS)
        _ambient.generators = generators

    def restore(self) -> None:
        _ambient.generators = self._generators
        runtime._PYRO_STACK[:] = self._handlers
        runtime._DIM_ALLOCATOR._stack[:] = self._plates
        vars(runtime._ENUM_ALLOCATOR).clear()
        vars(runtime._ENUM_ALLOCATOR).update(self._enumerated)
        vars(self._store).update(self._parameters)
        if self._settings != _SETTINGS:
            pyro.settings.set(**self._settings)


class Choice(dist.Categorical):
    """A categorical distribution that draws from `generator`."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        probs: Tensor = self.probs.reshape(-1, self._num_events)
        drawn = torch.multinomial(
            probs, shape.numel(), replacement=True, generator=generator(probs.device)
        )
        return drawn.T.reshape(self._extended_shape(shape))


def initialised(make: Callable[[], T], stream: Stream) -> T:
    """What `make` returns, with the weights of new modules drawn from `stream`."""
    with _Initialising(Generators(stream)):
        return make()


_INITIALISERS = {
    Tensor.uniform_,
    Tensor.normal_,
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.trunc_normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
    nn.init.xavier_uniform_,
    nn.init.xavier_normal_,
    nn.init.orthogonal_,
}


class _Initialising(TorchFunctionMode):
    """Hands a generator to every initialiser; torch's modules take none."""

    def __init__(self, generators: Generators) -> None:
        super().__init__()
        self._generators = generators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _INITIALISERS and kwargs.get("generator") is None:
            tensor = args[0] if args else kwargs["tensor"]
            kwargs["generator"] = self._generators.on(tensor.device)
        return func(*args, **kwargs)
