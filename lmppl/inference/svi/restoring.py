"""A fitted guide that was saved: read for its program again, and drawn from."""

from __future__ import annotations

from pathlib import Path

from lmppl.density import Target
from lmppl.inference.svi import SVI
from lmppl.inference.svi.engine import SVIEngine
from lmppl.lowering import Guide
from lmppl.lowering.fitted import FittedGuide, restore_guide
from lmppl.lowering.isolation import initialised
from lmppl.posterior import Posterior
from lmppl.rng import Stream


def restored(settings: SVI, target: Target, directory: Path) -> FittedGuide:
    """The guide that a run with these settings saved in a directory.

    Raises: ValueError, KeyError, TypeError, OSError or RuntimeError where it is of another program.
    """
    fresh_guide = initialised(
        lambda: Guide(target, kind=settings.guide, lora_rank=settings.lora_rank), _stream(settings)
    )
    return restore_guide(fresh_guide, directory)


def fresh(settings: SVI, target: Target, guide: FittedGuide, n: int, seed: int) -> Posterior:
    """`n` fresh draws of the guide."""
    return SVIEngine(settings, target, _stream(settings)).fresh(guide, n, seed)


def _stream(settings: SVI) -> Stream:
    return Stream.from_seed(settings.seed or 0)
