"""Keys and values of a batch of prefixes, in storage that is allocated once and moved in place.

Rows are aligned at the right: a batch has `columns` columns, row `i` starts at column `pads[i]`,
and every row ends at the last column.  A step therefore writes one column for all rows, a ragged
batch needs only the mask `column >= pads[row]`, and a sliding window over columns is a sliding
window over positions.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


def attention_windows(config: PreTrainedConfig) -> tuple[int | None, ...] | None:
    """The sliding window of every layer (None: full attention), in layer order.

    None as a whole where some layer keeps anything but keys and values of past tokens
    (state-space, convolution, compressed or shared layers): such prefixes cannot be cut or copied
    by row here and are recomputed.
    """
    layers = DynamicCache(config=config).layers
    if not layers:
        return None
    windows: list[int | None] = []
    for layer in layers:
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            windows.append(int(layer.sliding_window))
        else:
            return None
    return tuple(windows)


def cache_names(model: Any, outputs: Any) -> tuple[str, ...]:
    """Arguments by which the forward pass of `model` may take a cache, the likeliest first.

    It gives a cache back under the name by which it takes one; `outputs` is what it gave.
    """
    given = [name for name, value in outputs.items() if isinstance(value, Cache)]
    parameters = inspect.signature(model.forward).parameters.values()
    declared = [each.name for each in parameters if "Cache" in str(each.annotation)]
    known = [name for name in ("cache", "past_key_values") if name not in given + declared]
    return tuple(dict.fromkeys(given + declared + known))


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Keys and values of tokens that all rows of a batch begin with, held and read once.

    A pair `[kv heads, columns, head dim]` for every layer; no layer has a sliding window.
    """

    num_columns: int
    layers: tuple[tuple[Tensor, Tensor], ...]

    def __repr__(self) -> str:
        return f"<SharedPrefix: {self.num_columns} columns, {len(self.layers)} layers>"


# Batches of fewer rows have a place of their own on a shelf: every prompt begins as one row.
_FEW_ROWS = 16


class Shelf:
    """Memory of keys and values that outlives a batch, so that the next one lies where it lay.

    What is captured as a graph holds addresses. One batch at a time has the shelf, until its
    storage is gone; others, and batches of another shape, get new memory.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool], Tensor] = {}
        self._borrowers: dict[bool, weakref.ref[KVStorage]] = {}

    def take(
        self, borrower: KVStorage, number: int, shape: tuple[int, ...], like: Tensor
    ) -> Tensor:
        """Zeros of this shape `[rows, kv heads, columns, head dim]` for tensor `number`."""
        few = shape[0] < _FEW_ROWS
        holder = self._borrowers.get(few)
        owner = None if holder is None else holder()
        if owner is not None and owner is not borrower:
            return like.new_zeros(shape)
        known = self._kept.get((number, few))
        # A batch that grows asks for another shape than the one that it is copied from.
        if (
            known is None
            or known.shape != shape
            or known.dtype != like.dtype
            or known.device != like.device
        ):
            known = self._kept[number, few] = like.new_zeros(shape)
        else:
            known.zero_()
        self._borrowers[few] = weakref.ref(borrower)
        return known

    def clear(self) -> None:
        """Keep nothing any more; what is borrowed lives on with its borrower."""
        self._kept.clear()
        self._borrowers.clear()


class KVStorage(Cache):
    """Keys, values and token ids of up to `num_rows` rows and `num_columns` columns.

    With a `shared` prefix these are the columns after it: only a decoder that knows of it may step
    such rows. Memory comes from a `shelf` where there is one.

    A forward pass reads and writes the window set by `focus`.  `version` counts the writes, so that
    a batch that was written over is noticed when it is used again.
    """

    def __init__(
        self,
        windows: tuple[int | None, ...],
        num_rows: int,
        num_columns: int,
        device: torch.device,
        shared: SharedPrefix | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.shared = shared
        self.shelf = shelf
        self.num_columns = num_columns
        self.version = 0
        self.tokens = torch.zeros(num_rows, num_columns, dtype=torch.long, device=device)
        self.first_row = 0
        self.last_row = num_rows
        self.column = 0
        self.first_column = 0
        self.kept = [
            PreallocatedLayer(self, window, number) for number, window in enumerate(windows)
        ]
        super().__init__(layers=list(self.kept))

    def __repr__(self) -> str:
        rows, columns, layers = self.num_rows, self.num_columns, len(self.kept)
        return f"<KVStorage: {rows} rows, {columns} columns, {layers} layers>"

    @property
    def num_shared(self) -> int:
        """Tokens before the first column, the same in all rows."""
        return 0 if self.shared is None else self.shared.num_columns

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The sliding window of every layer."""
        return tuple(layer.window for layer in self.kept)

    def focus(self, first_row: int, last_row: int, column: int, first_column: int = 0) -> None:
        """Let the next forward pass write rows `first_row:last_row` from `column` on.

        It reads no column before `first_column`.
        """
        self.first_row, self.last_row, self.column = first_row, last_row, column
        self.first_column = first_column

    def reserve(self, num_rows: int, num_columns: int, filled_columns: int) -> None:
        """Grow to hold at least so many rows and columns, geometrically, keeping what is filled."""
        if num_rows <= self.num_rows and num_columns <= self.num_columns:
            return
        rows = self.num_rows if num_rows <= self.num_rows else num_rows
        columns = self.num_columns
        if num_columns > columns:
            columns = max(num_columns, columns + columns // 2)
        tokens = self.tokens.new_zeros(rows, columns)
        self.tokens = _copied(self.tokens[:, :, None], tokens[:, :, None], filled_columns)[:, :, 0]
        # Layer by layer, so that the old and the new storage never exist together in full.
        for layer in self.kept:
            if layer.keys is None:
                continue
            for name, stored in (("keys", layer.keys), ("values", layer.values)):
                new = layer.zeros(name, rows, columns, stored)
                setattr(layer, name, _copied(stored, new, filled_columns))
        self.num_rows, self.num_columns = rows, columns

    def copy_rows(self, targets: Tensor, sources: Tensor, num_columns: int) -> None:
        """Write rows `sources` over rows `targets`, the first `num_columns` columns of them.

        No target may be a source of another row; a row that stays is simply not mentioned.
        """
        columns = self.tokens[:, :num_columns]
        columns.index_copy_(0, targets, columns.index_select(0, sources))
        for layer in self.kept:
            for stored in (layer.keys, layer.values):
                view = stored.narrow(2, 0, num_columns)
                place = targets.to(view.device)
                view.index_copy_(0, place, view.index_select(0, sources.to(view.device)))

    def fanned_out(self, num_rows: int, filled_columns: int, num_columns: int) -> KVStorage:
        """New storage for `num_rows` continuations of row 0, which share all but its last column.

        Column 0 of every new row is column `filled_columns - 1` of this row; `num_columns` counts
        from there.
        """
        num_shared = filled_columns - 1
        shared = SharedPrefix(
            self.num_shared + num_shared,
            tuple(
                (
                    self._with_shared(number, 0, layer.keys[0, :, :num_shared]),
                    self._with_shared(number, 1, layer.values[0, :, :num_shared]),
                )
                for number, layer in enumerate(self.kept)
            ),
        )
        new = KVStorage(self.windows, num_rows, num_columns, self.tokens.device, shared)
        new.tokens[:, 0] = self.tokens[0, num_shared]
        for old_layer, new_layer in zip(self.kept, new.kept, strict=True):
            for name in ("keys", "values"):
                last = getattr(old_layer, name)[:1, :, num_shared]
                stored = last.new_zeros(num_rows, last.shape[1], num_columns, last.shape[2])
                stored[:, :, 0] = last
                setattr(new_layer, name, stored)
            new_layer.is_initialized = True
        return new

    def _with_shared(self, number: int, which: int, own: Tensor) -> Tensor:
        if self.shared is None:
            return own.contiguous()
        return torch.cat((self.shared.layers[number][which], own), dim=1)

    def realigned(
        self, rows: Tensor, starts: Tensor, *, num_columns: int, capacity: int
    ) -> KVStorage:
        """New storage whose row `i`, column `j` is row `rows[i]`, column `starts[i] + j` of this.

        The new storage has `num_columns` filled and room for `capacity`. Columns from outside, as
        those before a negative start, hold something finite that the caller must mask.
        """
        new = self.empty_like(rows.shape[0], max(capacity, num_columns), self.shared)
        self.copy_aligned(new, rows, starts, num_columns)
        return new

    def empty_like(self, num_rows: int, num_columns: int, shared: SharedPrefix | None) -> KVStorage:
        """Storage of zeros for the same model."""
        new = KVStorage(self.windows, num_rows, num_columns, self.tokens.device, shared)
        for old_layer, new_layer in zip(self.kept, new.kept, strict=True):
            if old_layer.keys is None:
                continue
            for name in ("keys", "values"):
                old = getattr(old_layer, name)
                shape = (num_rows, old.shape[1], num_columns, old.shape[3])
                setattr(new_layer, name, old.new_zeros(shape))
            new_layer.is_initialized = True
        return new

    def copy_aligned(
        self,
        target: KVStorage,
        rows: Tensor,
        starts: Tensor,
        num_columns: int,
        targets: Tensor | None = None,
    ) -> None:
        """As `realigned`, into the first columns of rows of other storage of the same model.

        These are the rows `targets`, or the first where it is None.
        """
        count = rows.shape[0]
        columns = torch.arange(num_columns, device=rows.device) + starts[:, None]
        columns.clamp_(0, self.num_columns - 1)
        if targets is None:
            target.tokens[:count, :num_columns] = self.tokens[rows[:, None], columns]
        else:
            target.tokens[targets, :num_columns] = self.tokens[rows[:, None], columns]
        for old_layer, new_layer in zip(self.kept, target.kept, strict=True):
            if old_layer.keys is None:
                continue
            device, heads = old_layer.keys.device, old_layer.keys.shape[1]
            # Places of vectors in the flat storage: one copy of whole vectors for ragged rows.
            place = rows[:, None] * heads + torch.arange(heads, device=rows.device)
            place = (place[:, :, None] * self.num_columns + columns[:, None, :]).view(-1)
            place = place.to(device)
            for old, new in (
                (old_layer.keys, new_layer.keys),
                (old_layer.values, new_layer.values),
            ):
                moved = old.view(-1, old.shape[3]).index_select(0, place)
                moved = moved.view(count, heads, num_columns, old.shape[3])
                filled = new.narrow(2, 0, num_columns)
                if targets is None:
                    filled[:count].copy_(moved)
                else:
                    filled.index_copy_(0, targets.to(device), moved)


@dataclass(frozen=True, slots=True)
class CachedPrefixes:
    """Prefixes in the first rows of `storage`, right-aligned in `columns` columns.

    `pads` `[U]` is the first column of each row; None when all are 0. They are spent when the
    storage's version is no longer `version`.
    """

    storage: KVStorage
    version: int
    columns: int
    pads: Tensor | None

    def __repr__(self) -> str:
        return f"<CachedPrefixes: {self.columns} columns of {self.storage!r}>"


class PreallocatedLayer(CacheLayerMixin):
    """One layer's keys and values, `[rows, kv heads, columns, head dim]` in the model's dtype."""

    is_sliding = False
    is_croppable = True
    # Tensors from the first write on; None before, when nobody reads them.
    keys: Any
    values: Any

    def __init__(self, storage: KVStorage, window: int | None, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Weakly: with a cycle gigabytes would wait for Python's collector.
        self._storage = weakref.ref(storage)
        self.window = window
        self.number = number
        self.is_sliding = window is not None

    @property
    def storage(self) -> KVStorage:
        storage = self._storage()
        assert storage is not None
        return storage

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self.storage.num_rows, self.storage.num_columns
        for name, states in (("keys", key_states), ("values", value_states)):
            setattr(self, name, self.zeros(name, rows, columns, states))
        self.is_initialized = True

    def zeros(self, name: str, num_rows: int, num_columns: int, like: Tensor) -> Tensor:
        """Room for "keys" or "values" of so many rows and columns, for heads as those of `like`.

        Zeros and not empty: columns before a row's first are masked, but NaN * 0 is NaN.
        """
        shape = (num_rows, like.shape[1], num_columns, like.shape[3])
        storage = self.storage
        if storage.shelf is None:
            return like.new_zeros(shape)
        return storage.shelf.take(storage, 2 * self.number + (name == "values"), shape, like)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        storage = self.storage
        keys, values = self.keys, self.values
        num_rows = storage.last_row - storage.first_row
        if num_rows != storage.num_rows:
            keys = keys.narrow(0, storage.first_row, num_rows)
            values = values.narrow(0, storage.first_row, num_rows)
        column, length = storage.column, key_states.shape[2]
        keys.narrow(2, column, length).copy_(key_states)
        values.narrow(2, column, length).copy_(value_states)
        first = self._first_visible_column()
        visible = column + length - first
        return keys.narrow(2, first, visible), values.narrow(2, first, visible)

    def _first_visible_column(self) -> int:
        first = self.storage.first_column
        return first if self.window is None else max(first, self.storage.column - self.window + 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        first = self._first_visible_column()
        return self.storage.column + query_length - first, first

    def get_seq_length(self) -> int:
        return self.storage.column

    def get_max_length(self) -> int:
        return -1 if self.window is None else self.window

    # Its name in earlier versions of transformers.
    get_max_cache_shape = get_max_length


def _copied(stored: Tensor, new: Tensor, filled_columns: int) -> Tensor:
    """`new`, larger and zero, with what `stored` `[rows, ..., columns, dim]` has filled."""
    time = stored.dim() - 2
    filled = min(filled_columns, stored.shape[time])
    new[: stored.shape[0]].narrow(time, 0, filled).copy_(stored.narrow(time, 0, filled))
    return new
