"""The ranges of numbers on texts that follow from the language models and rewards of a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lmppl.automata.reach import Reach
from lmppl.builtins import every
from lmppl.builtins.kinds import Measure
from lmppl.density.stages.protocol import Stage
from lmppl.ir.types import Interval
from lmppl.rewards import Scorer
from lmppl.rewards.scorer import Ranged, Summed

_MEASURES = tuple(every(Measure).values())
_REWARD = "reward"
# Stands for any text, where ranges are kept by the names of sites.
_ANY = ""


def _written(arguments: Mapping[str, object]) -> str:
    """The arguments of a measure as one word of a saved result."""
    return ",".join(map(str, arguments.values()))


def _ways(measure: Measure) -> Iterator[Mapping[str, object]]:
    """The arguments with which a measure can be asked, where they are few."""
    others = measure.arguments[1:]
    for values in product(*(each.choices for each in others)):
        yield dict(zip((each.name for each in others), values, strict=True))


class BoundRanges:
    """What a target knows; each range is found when it is first asked for."""

    def __init__(self, stages: tuple[Stage, ...], scorers: Mapping[str, Scorer]) -> None:
        self._stages = {stage.name: stage.text for stage in stages if stage.text is not None}
        self._scorers = scorers
        self._found: dict[tuple[str, str, str], Interval | None] = {}

    def reward(self, name: str, site: str | None) -> Interval | None:
        """The range of a reward on the text of a site, or on any text."""
        key = (_REWARD, name, site or _ANY)
        if key not in self._found:
            scorer = self._scorers.get(name)
            source = None if scorer is None else scorer.source
            self._found[key] = None
            if isinstance(source, Ranged):
                self._found[key] = source.range(None if site is None else self._reach(site))
        return self._found[key]

    def measure(
        self, measure: Measure, arguments: Mapping[str, object], site: str
    ) -> Interval | None:
        """The range of a number on the text of a site."""
        key = (measure.name, _written(arguments), site)
        if key not in self._found:
            reach = self._reach(site)
            self._found[key] = None if reach is None else measure.reach(reach, **arguments)
        return self._found[key]

    def summands(self, name: str) -> Sequence[tuple[float, Mapping[str, object]]] | None:
        """What a reward is a sum of, where it is one."""
        scorer = self._scorers.get(name)
        source = None if scorer is None else scorer.source
        return source.summands() if isinstance(source, Summed) else None

    def _reach(self, site: str) -> Reach | None:
        stage = self._stages.get(site)
        return None if stage is None else Reach(stage.lm.vocab.sizes, stage.max_tokens)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as plain numbers: what a saved posterior keeps."""
        for site in self._stages:
            for measure in _MEASURES:
                for arguments in _ways(measure):
                    self.measure(measure, arguments, site)
        for name in self._scorers:
            for place in (None, *self._stages):
                self.reward(name, place)
        found: dict[str, dict[str, dict[str, list[float]]]] = {_REWARD: {}}
        for (what, name, site), range in self._found.items():
            if range is not None:
                found.setdefault(what, {}).setdefault(name, {})[site] = [range.lower, range.upper]
        return found


class KeptRanges:
    """What a saved posterior knows, without its language models."""

    def __init__(self, kept: Mapping[str, Any]) -> None:
        self._kept = kept

    def reward(self, name: str, site: str | None) -> Interval | None:
        """The range of a reward on the text of a site, or on any text."""
        return self._of(_REWARD, name, site or _ANY)

    def measure(
        self, measure: Measure, arguments: Mapping[str, object], site: str
    ) -> Interval | None:
        """The range of a number on the text of a site."""
        return self._of(measure.name, _written(arguments), site)

    def summands(self, name: str) -> Sequence[tuple[float, Mapping[str, object]]] | None:
        """Rewards are not loaded."""
        return None

    def _of(self, what: str, name: str, site: str) -> Interval | None:
        range = self._kept.get(what, {}).get(name, {}).get(site)
        return None if range is None else Interval(float(range[0]), float(range[1]))
