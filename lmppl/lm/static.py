"""One token for a batch of rows with fixed shapes, so that the step can be compiled or captured.

A step in general grows by a column at a time: its shapes change at every token, which a compiler
answers by compiling again and a CUDA graph cannot express at all. Here the rows are padded to a
bucket, attention runs over a fixed number of columns under a mask, and the column is a tensor.
What changes from token to token is then data: token ids, first columns and the column.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from lmppl.lm.cache import KVStorage, Shelf
from lmppl.lm.graphs import CudaRecorder, Recorder, replayed
from lmppl.lm.grouped import grouping, shares_heads

# Columns are taken in blocks: few shapes, and at most so many columns read for nothing.
_BLOCK = 64
_FEWEST_ROWS = 16
# Compiling takes seconds to minutes a shape; past this many a run would do nothing else.
_MAX_COMPILED = 12
_MAX_GRAPHS = 64
# Shapes that pass by in a step or two, as rows end, are not worth a capture.
_PATIENCE = 2


class WindowLayer(CacheLayerMixin):
    """A block of rows and columns of one layer's storage; a token is written where `column` says.

    `keys` and `values` `[rows, kv heads, columns, head dim]` are views of the storage.
    """

    is_sliding = False
    is_compileable = True

    def __init__(self, column: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.column = column
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the storage exists before a step."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.keys is not None
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        # Not known on the host; positions and mask are given to the model.
        return 0

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]

    # Its name in earlier versions of transformers.
    get_max_cache_shape = get_max_length


@dataclass(frozen=True, slots=True)
class _Program:
    """One shape of the step: inputs that are fixed in memory, and what runs on them.

    `tokens` and `starts` (first columns) are `[rows]`, `column` is `[1]`; `run` gives logits
    `[rows, vocab]`.
    """

    tokens: Tensor
    starts: Tensor
    column: Tensor
    window: Cache
    run: partial[Tensor]


_Key = tuple[object, ...]


class StaticStep:
    """Steps of `model` of fixed shapes: compiled by torch, or captured as CUDA graphs.

    Each shape is compared with the model's own forward pass at its first use. `failure` says why
    nothing is stepped so any more; what a failed step has written must be computed again.

    `cache_name` is the argument of the forward pass that takes a cache. `backend` is
    torch.compile's; `recorder` makes what records work (CUDA graphs by default).
    `adds_mask` is true of attention that adds its mask to the scores.
    """

    def __init__(
        self,
        model: Any,
        num_layers: int,
        *,
        mode: str,
        name: str,
        device: torch.device,
        keeps_logits: bool,
        cache_name: str,
        adds_mask: bool,
        backend: str = "inductor",
        recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        self.failure: str | None = None
        self.notes: tuple[str, ...] = ()
        self._model = model
        self._num_layers = num_layers
        self._captures = mode == "cuda-graph"
        # Graphs hold addresses: batches that lie where others lay find theirs again.
        self.shelf = Shelf() if self._captures else None
        self._name = name
        self._device = device
        self._keeps_logits = keeps_logits
        self._cache_name = cache_name
        self._groups_heads = shares_heads(model)
        self._adds_mask = adds_mask or self._groups_heads
        self._backend = backend
        self._new_recorder = recorder or (lambda: CudaRecorder(device))
        self._recorder: Recorder | None = None
        self._programs: dict[_Key, _Program] = {}
        self._seen: dict[_Key, int] = {}
        self._parameters: tuple[Tensor, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = f"{self.num_programs} shapes" if self.failure is None else self.failure
        return f"<StaticStep of {self._name}: {state}>"

    @property
    def num_programs(self) -> int:
        """How many shapes are compiled or captured."""
        return len(self._programs)

    @staticmethod
    def room_for(num_columns: int) -> int:
        """Columns to allocate where so many are needed: whole blocks, so that shapes recur."""
        return -(-num_columns // _BLOCK) * _BLOCK

    def forget(self) -> None:
        """Drop all programs and the memory that they hold."""
        with self._lock:
            self._programs.clear()
            self._seen.clear()
            self._recorder = None
            if self.shelf is not None:
                self.shelf.clear()

    def step(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        column: int,
        pads: Tensor | None,
        expected: Callable[[], Tensor],
    ) -> Tensor | None:
        """Logits `[rows, vocab]` after the tokens of `column`, or None: step in the general way.

        `pads` are the first columns of the storage's rows (None: all 0). `expected()` gives the
        same logits by the general way, and writes the same keys and values.
        """
        # Inputs of a shape are one place in memory, and runs of several threads may want it.
        with self._lock:
            return self._step(storage, first_row, last_row, column, pads, expected)

    def _step(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        column: int,
        pads: Tensor | None,
        expected: Callable[[], Tensor],
    ) -> Tensor | None:
        if self.failure is not None:
            return None
        num_rows = min(_bucket(last_row - first_row), storage.num_rows)
        # The last window of a batch reaches back into the one before: rows computed twice are
        # cheaper than another shape.
        start = min(first_row, storage.num_rows - num_rows)
        num_live, wanted = last_row - start, slice(first_row - start, last_row - start)
        num_columns = storage.num_columns
        if self._captures:
            self._drop_stale()
            num_columns = min(num_columns, self.room_for(column + 1))
        key = (num_rows, num_columns, *self._place(storage, start))
        program = self._programs.get(key)
        if program is None:
            if not self._is_worth_it(key):
                return None
            general = expected()
            program = self._prepared(num_rows)
            _fill(program, storage, start, num_live, column, pads)
            _show(program, storage, start, num_columns)
            return self._first_run(key, program, wanted, general)
        _fill(program, storage, start, num_live, column, pads)
        if not self._captures:
            _show(program, storage, start, num_columns)
        return program.run()[wanted]

    def _first_run(
        self, key: _Key, program: _Program, wanted: slice, general: Tensor
    ) -> Tensor | None:
        """The logits of a new program, kept if its `wanted` rows are `general`; None where not."""
        try:
            # Compilers warn of their own parts, which is nothing to a user of ours.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = self._finished(program)
                found = program.run()[wanted]
        except Exception as error:
            # Compilers and captures fail in ways of their own, by version, device and model.
            self.give_up(in_a_line(error))
            return None
        if not agrees(found, general):
            self.give_up("its logits differ from those of the general forward pass")
            return None
        self._programs[key] = program
        how = "CUDA graphs" if self._captures else "a compiled step"
        self._note(f"{self._name} is stepped by {how} of fixed shapes")
        return found

    def _place(self, storage: KVStorage, first_row: int) -> _Key:
        """What of the storage is baked into a program.

        Compiled code holds strides and types. A graph holds addresses too, so that it fits new
        storage that lies where the old one lay, and no other.
        """
        capacity, dtype = storage.num_columns, storage.kept[0].keys.dtype
        if not self._captures:
            return (capacity, dtype)
        stored = (tensor for layer in storage.kept for tensor in (layer.keys, layer.values))
        return (capacity, dtype, first_row, *(tensor.data_ptr() for tensor in stored))

    def _drop_stale(self) -> None:
        """Graphs read the parameters where they were; drop all where one has moved since."""
        if self._programs and self._addresses != _addresses(self._parameters):
            self.forget()

    def _is_worth_it(self, key: _Key) -> bool:
        if not self._captures:
            if len(self._programs) < _MAX_COMPILED:
                return True
            self._note(
                f"{self._name} has been compiled for {_MAX_COMPILED} shapes; where others come up"
                " it is stepped in the general way"
            )
            return False
        if len(self._programs) >= _MAX_GRAPHS or len(self._seen) >= 8 * _MAX_GRAPHS:
            self.forget()
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] > _PATIENCE

    def _prepared(self, num_rows: int) -> _Program:
        """The inputs of a program, which does not run yet."""
        tokens, starts = (
            torch.zeros(num_rows, dtype=torch.long, device=self._device) for _ in range(2)
        )
        column = torch.zeros(1, dtype=torch.long, device=self._device)
        window = Cache(layers=[WindowLayer(column) for _ in range(self._num_layers)])
        forward = _forward_of(self._model, self._keeps_logits, self._cache_name, self._adds_mask)
        return _Program(tokens, starts, column, window, partial(forward, tokens, starts, window))

    def _finished(self, program: _Program) -> _Program:
        """The program compiled (at its first run) or captured."""
        work = program.run
        if not self._captures:
            forward = torch.compile(
                _with_own_code(work.func), fullgraph=True, dynamic=False, backend=self._backend
            )
            return replace(program, run=self._grouped(partial(forward, *work.args)))
        if self._recorder is None:
            self._recorder = self._new_recorder()
            self._parameters = tuple(self._model.parameters())
            self._addresses = _addresses(self._parameters)
        return replace(program, run=partial(replayed, *self._recorder(self._grouped(work))))

    def _grouped(self, work: partial[Tensor]) -> partial[Tensor]:
        """The same work with keys and values that are read once for all heads of a group."""
        if not self._groups_heads:
            return work
        return partial(_run_grouped, self._model.config, work)

    def give_up(self, reason: str) -> None:
        """Step nothing any more, and say why."""
        self.forget()
        self.failure = reason
        how = "captured as CUDA graphs" if self._captures else "compiled"
        self._note(f"the steps of {self._name} are not {how}: {reason}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes += (text,)


def agrees(found: Tensor, expected: Tensor, *, num_roundings: int = 8) -> bool:
    """Whether logits `[rows, vocab]` are the same but for rounding, by row.

    |found − expected| is at most a thousandth of the spread of `expected`, or `num_roundings` times
    the precision of the dtype, as Euclidean norms. NaN agrees with nothing.
    """
    tolerance = max(1e-3, num_roundings * torch.finfo(expected.dtype).eps)
    found, expected = found.float(), expected.float()
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    return bool(((found - expected).norm(dim=-1) <= tolerance * (spread + 1e-3)).all())


def _bucket(num_rows: int) -> int:
    """The next power of two."""
    return max(_FEWEST_ROWS, 1 << (num_rows - 1).bit_length())


def _fill(
    program: _Program,
    storage: KVStorage,
    first_row: int,
    num_live: int,
    column: int,
    pads: Tensor | None,
) -> None:
    """Write the inputs of a step, in place."""
    num_rows = program.tokens.shape[0]
    program.tokens.copy_(storage.tokens[first_row : first_row + num_rows, column])
    # A row that only fills the bucket begins at this column: position 0, seeing itself alone.
    program.starts.fill_(column)
    if pads is None:
        program.starts[:num_live].zero_()
    else:
        program.starts[:num_live].copy_(pads[first_row : first_row + num_live])
    program.column.fill_(column)


def _show(program: _Program, storage: KVStorage, first_row: int, num_columns: int) -> None:
    """Let the program see its rows and the first columns of the storage."""
    num_rows = program.tokens.shape[0]
    layers: list[Any] = program.window.layers
    for layer, kept in zip(layers, storage.kept, strict=True):
        layer.keys = kept.keys.narrow(0, first_row, num_rows).narrow(2, 0, num_columns)
        layer.values = kept.values.narrow(0, first_row, num_rows).narrow(2, 0, num_columns)


def _forward_of(
    model: Any, keeps_logits: bool, cache_name: str, adds_mask: bool
) -> Callable[[Tensor, Tensor, Any], Tensor]:
    options: dict[str, Any] = {"logits_to_keep": 1} if keeps_logits else {}

    def forward(tokens: Tensor, starts: Tensor, window: Any) -> Tensor:
        column, keys = window.layers[0].column, window.layers[0].keys
        columns = torch.arange(keys.shape[2], device=keys.device)
        mask = (columns >= starts[:, None]) & (columns <= column)
        if adds_mask:
            mask = torch.where(mask, 0.0, torch.finfo(keys.dtype).min).to(keys.dtype)
        logits: Tensor = model(
            input_ids=tokens[:, None],
            attention_mask=mask[:, None, None, :],
            position_ids=(column - starts)[:, None],
            use_cache=True,
            **{cache_name: window},
            **options,
        ).logits
        return logits[:, -1]

    return forward


def _run_grouped(config: Any, work: Callable[[], Tensor]) -> Tensor:
    with grouping(config):
        return work()


def _with_own_code(function: Any) -> Any:
    """The function with a copy of its code: torch counts what it has compiled by code object."""
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _addresses(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def in_a_line(error: Exception) -> str:
    """What an error says first; compilers put the cause on the line after "raised:"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += " " + lines[1]
    return f"{type(error).__name__}: {lines[0]}"[:240] if lines else type(error).__name__
