"""How many threads the tensors of a run use: chosen, and reported with the result."""

from __future__ import annotations

import os

from lmppl.cli.outcome import UsageError

# More than the processors is slow and allowed; far more brings the process down.
_MOST = 256


def choose_threads(asked: int | None, default: int, num_cpus: int, load: float) -> int:
    """What was asked for, or as many as there are idle processors, up to torch's own choice.

    A product that is split over threads waits for the slowest of them. Where other work holds the
    processors that wait is long: on two busy ones, two threads were 14 times slower than one.
    `load` is the mean number of processes that want a processor.
    """
    if asked is not None:
        return asked
    return max(1, min(default, num_cpus - round(load)))


def use_threads(asked: int | None) -> int:
    """Sets torch's threads by `choose_threads`; a set OMP_NUM_THREADS counts as a choice.

    Raises: UsageError for far more threads than there are processors.
    """
    import torch

    num_cpus = os.cpu_count() or 1
    if asked is not None and asked > max(num_cpus, _MOST):
        raise UsageError(f"--threads {asked} is too many: this machine has {num_cpus} processors")
    default = torch.get_num_threads()
    if asked is None and os.environ.get("OMP_NUM_THREADS"):
        return default
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = 0.0
    chosen = choose_threads(asked, default, num_cpus, load)
    torch.set_num_threads(chosen)
    return chosen
