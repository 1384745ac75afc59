"""From the declaration of a reward to what scores texts, and where files and models are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmppl.builtins import source_of
from lmppl.errors import Diagnostic, InferenceError
from lmppl.files import Files, Folder
from lmppl.ir.model import Reward, RewardSource
from lmppl.rewards.scorer import Scorer, Source


@dataclass(frozen=True, slots=True)
class Place:
    """Where a built-in is loaded: its program's folder, what may be read, and on which device.

    `host` is what the host program gave for an extern, and `reward` is there for sources.
    """

    base_dir: str
    files: Files
    device: str | None = None
    dtype: str | None = None
    reward: Reward | None = None
    host: object | None = None

    @property
    def one_device(self) -> str:
        """The device, the first of them where models are spread over several."""
        from lmppl.lm.loading import first_device

        return str(first_device()) if self.device == "auto" else self.device or "cpu"

    def model(self, given: str) -> str:
        """A local path if there is anything, seen from `base_dir`; else the id of a hub."""
        local = Path(self.base_dir) / Path(given).expanduser()
        try:
            return str(local) if local.exists() else given
        except (OSError, ValueError):
            # Too long or with a NUL: no path, and no hub id either, which the hub says.
            return given


def load_reward(
    reward: Reward,
    *,
    base_dir: str,
    files: Files | None = None,
    device: str | None = None,
    dtype: str | None = None,
    host: Callable[..., Any] | None = None,
) -> Scorer:
    """The scorer of a declared reward, its files and models loaded.

    Paths are relative to `base_dir`. `files` says what may be read: by default what is beneath
    `base_dir`; models may lie anywhere. `device` and `dtype` concern language models that score;
    without them they run on the CPU in the precision they were saved in. `host` is the function
    that the host program gave for an extern reward.

    Raises:
        InferenceError: a file or model cannot be loaded, or does not fit (LMP919).
    """
    try:
        reads = Folder.of(base_dir) if files is None else files
        source = _loaded(reward.source, Place(base_dir, reads, device, dtype, reward, host))
    except InferenceError as error:
        raise _located(error, reward) from error
    return Scorer(reward, source)


def _loaded(described: RewardSource, place: Place) -> Source:
    builtin = source_of(described)
    given = dict(described.arguments)
    for argument in builtin.accepting("sources"):
        given[argument.name] = tuple(_loaded(member, place) for member in described.members)
    return builtin.load(place, **builtin.complete(given))


def _located(error: InferenceError, reward: Reward) -> InferenceError:
    """The error with the place where the reward is declared."""
    span = reward.source.span or reward.span
    return InferenceError(
        [
            Diagnostic(
                each.code,
                each.severity,
                f"reward `{reward.name}`: {each.message}",
                each.span or span,
                each.labels,
                each.notes,
                each.help,
            )
            for each in error.diagnostics
        ],
        error.sources,
    )
