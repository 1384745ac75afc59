"""Progress of long work: what an engine reports and what listens to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a stage of a run has come.

    `stage` names the work ("loading", "steps", "draws", …), `done` counts what is finished out of
    `total`, which is None where the end is not known. `message` is for people and may be empty.
    """

    stage: str
    done: int
    total: int | None
    message: str = ""


class ProgressListener(Protocol):
    """Called by the engine between steps; what it raises ends the run."""

    def __call__(self, event: ProgressEvent) -> None: ...
