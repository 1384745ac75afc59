"""Work on fixed memory that is recorded once and done again: CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor


class Capture(Protocol):
    """Work that was recorded once, on fixed memory, and is done again without running its code."""

    def replay(self) -> None:
        """Do the recorded work again on what the same memory holds now."""
        ...


Recorder = Callable[[Callable[[], Tensor]], tuple[Capture, Tensor]]


class CudaRecorder:
    """Captures work as CUDA graphs that share one memory pool and one stream.

    Graphs of a pool may overwrite each other's results, so these must be copied after each replay.
    All graphs of a recorder should be dropped together: releasing one graph may release the
    workspace that cuBLAS gave to others on the same stream (pytorch issue 193402).

    `torch.cuda.graph` would give all memory that is cached back to the driver before each capture,
    and getting it again takes longer than the capture; here that is done where memory is short.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Capture, Tensor]:
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            # Lazy set-up (handles, workspaces, chosen kernels) is not allowed inside a capture.
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    work()
                    torch.cuda.synchronize()
                    return self._captured(work)
            finally:
                # A capture that fails leaves its own stream current.
                torch.cuda.set_stream(current)
                current.wait_stream(self._stream)

    def _captured(self, work: Callable[[], Tensor]) -> tuple[Capture, Tensor]:
        try:
            return self._once(work)
        except torch.OutOfMemoryError:
            # Memory that is cached for other streams cannot be had while something is captured.
            torch.cuda.empty_cache()
            return self._once(work)

    def _once(self, work: Callable[[], Tensor]) -> tuple[Capture, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # An old graph that Python's collector dropped now would break the new one.
        collects = gc.isenabled()
        gc.disable()
        try:
            # Other threads may allocate meanwhile; only this one is recorded.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            except BaseException:
                # The end of a capture that failed fails too, and says less of the cause.
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        finally:
            if collects:
                gc.enable()
        return graph, result


def replayed(capture: Capture, result: Tensor) -> Tensor:
    capture.replay()
    # The next replay writes over it, and so may other graphs of the same pool.
    return result.clone()
