"""What the statements of a model come to, in program order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from lmppl.ir.model import Expectation, Let, Output, Parameter, Potential, Site
from lmppl.records import dataclass


@dataclass(slots=True)
class Body:
    """What a model's statements came to, in program order."""

    parameters: tuple[Parameter, ...] = ()
    sites: list[Site] = field(default_factory=list)
    lets: list[Let] = field(default_factory=list)
    potentials: list[Potential] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)

    def stage(self, names: Iterable[str]) -> int:
        """The index of the last of these choices; −1 where there is none."""
        order = {site.name: index for index, site in enumerate(self.sites)}
        return max((order[name] for name in names if name in order), default=-1)
