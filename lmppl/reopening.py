"""A saved posterior with its program: expressions, the fitted guide, fresh draws.

The program is compiled again from the source that was saved, and runs only if it is what it was:
the digests of the model, with the files that it read, and of its tables, rewards and language
models must be those of the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import Diagnostic, LmpError, StorageError
from lmppl.posterior import Posterior
from lmppl.posterior.deferred import DeferredGuide
from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.expectation import MEAN
from lmppl.posterior.storage import guide_directory, load_draws

if TYPE_CHECKING:
    from lmppl.density import Target
    from lmppl.inference.settings import Settings
    from lmppl.models import CompiledModel
    from lmppl.posterior.cells import Cells


def load_posterior(
    directory: str | os.PathLike[str],
    *,
    externs: Mapping[str, object] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
) -> Posterior:
    """The posterior that `Posterior.save` wrote: equal to the bit, and with its program.

    Expressions of the language are evaluated as before; a fitted guide is loaded when `guide` or
    `sample` first asks for it. `externs` gives what the program takes from its host by name, where
    an expression or the guide needs it. Files that the program reads are found where they were, or
    in `base_dir`; they must not have changed.

    Raises:
        FileNotFoundError: the directory holds no posterior, or not all of it.
        StorageError: what it holds is damaged (LMP960) or in an unknown format (LMP961); later,
            when it is needed, the program is another one (LMP962) or an extern is missing (LMP963).
    """
    draws = load_draws(directory)
    if draws.program is None:
        return Posterior.of(draws)
    program = _Program(draws, dict(externs or {}), base_dir)
    changes: dict[str, Any] = {"evaluator": program}
    place = guide_directory(directory)
    if place is not None and program.has_guide:
        changes["guide"] = DeferredGuide(place.absolute(), program.guide)
        changes["sampler"] = partial(_sample, program, changes["guide"])
    return Posterior.of(draws.replace(**changes))


def unpickled(fields: Mapping[str, Any]) -> Posterior:
    """The posterior of pickled fields, with its program where that was kept."""
    draws = WeightedDraws(**fields)
    if draws.program is not None:
        draws = draws.replace(evaluator=_Program(draws, {}, None))
    return Posterior.of(draws)


def _sample(program: _Program, guide: DeferredGuide, n: int, seed: int) -> Posterior:
    return program.sample(guide.loaded(), n, seed)


class _Program:
    """The program of a loaded posterior, compiled and bound when it is needed."""

    def __init__(
        self,
        draws: WeightedDraws,
        externs: Mapping[str, object],
        base_dir: str | os.PathLike[str] | None,
    ) -> None:
        self.draws, self.externs = draws, externs
        assert draws.program is not None
        self.kept = draws.program
        self.base_dir = str(self.kept["base_dir"] if base_dir is None else base_dir)
        self.digests: Mapping[str, str] = draws.manifest.get("digests", {})
        self.values: Mapping[str, object] = draws.manifest.get("parameters", {})

    @cached_property
    def compiled(self) -> CompiledModel:
        from lmppl.pipeline import compile

        try:
            found = compile(self.kept["source"], base_dir=self.base_dir, allow=self.kept["allow"])
        except LmpError as error:
            raise _changed(
                f"the program cannot be read again in {self.base_dir}",
                tuple(each.message for each in error.diagnostics),
            ) from error
        self._require_same({"model": found.model.digest})
        return found

    def _require_same(self, digests: Mapping[str, str]) -> None:
        hosts = {*self.compiled_externs(digests)}
        for name, digest in digests.items():
            if name not in hosts and self.digests.get(name) != digest:
                what = "the program, or a file that it reads," if name == "model" else name
                raise _changed(f"{what} is not what it was when this posterior was saved", ())

    def compiled_externs(self, digests: Mapping[str, str]) -> list[str]:
        """Names of digests that are of what the host gives, which only the host can vouch for."""
        if set(digests) == {"model"}:
            return []
        model = self.compiled.model
        names = [f"reward {n}" for n, r in model.rewards.items() if r.source.is_extern]
        return names + [
            f"lm {site.name}" for site in model.sites if site.distribution.extern is not None
        ]

    def _require_externs(self, needed: set[str], what: str) -> None:
        missing = sorted(name for name in needed if name not in self.externs)
        if missing:
            given = ", ".join(f"{name!r}: …" for name in missing)
            raise StorageError(
                [
                    Diagnostic(
                        "LMP963",
                        "error",
                        f"{what} needs {', '.join(missing)} from the host program, which was not"
                        " saved",
                        help=f"give it: lmppl.load_posterior(directory, externs={{{given}}})",
                    )
                ]
            )

    def asked(self, source: str) -> tuple[Any, str, float | None]:
        """The statistic that a text asks for, the expression that it is of, and its level."""
        from lmppl.checker import check_query

        if source.strip() in self.draws:
            return MEAN, source, None
        query = check_query(self.compiled.model, source)
        return query.statistic, query.inner, query.q

    def __call__(self, source: str) -> NDArray[Any]:
        """The values of an expression on the draws, `[draws]`."""
        if source.strip() in self.draws:
            found = self.draws.column(source.strip())
            if isinstance(found, np.ndarray):
                return found
        from lmppl.fence import within

        return within(partial(self._evaluate, source))

    def range_of(self, source: str) -> tuple[float, float]:
        """The least and largest value that an expression can have."""
        from lmppl.checker import check_expression
        from lmppl.density.reach import KeptRanges
        from lmppl.evaluation.ranges import range_of

        model = self.compiled.model
        texts = KeptRanges(self.kept.get("ranges", {}))
        return range_of(check_expression(model, source), model, self.values, texts)

    def cells_of(self, source: str) -> tuple[Cells, ...]:
        """What an expression can be where draws are heavy."""
        from lmppl.checker import check_expression
        from lmppl.density.reach import KeptRanges
        from lmppl.evaluation.joint import joint_ranges
        from lmppl.posterior.cells import Cells

        model = self.compiled.model
        texts = KeptRanges(self.kept.get("ranges", {}))
        return tuple(
            Cells.of([(cell.value.lower, cell.value.upper, cell.below) for cell in cells])
            for cells in joint_ranges(check_expression(model, source), model, self.values, texts)
        )

    def _evaluate(self, source: str) -> NDArray[Any]:
        from lmppl.checker import check_expression
        from lmppl.density.reopening import evaluating_target, names_called, traces_of

        model = self.compiled.model
        expr = check_expression(model, source)
        rewards, functions = names_called(model, expr)
        hosted = {name for name in rewards if model.rewards[name].source.is_extern}
        self._require_externs(hosted | functions, f"`{source}`")
        target = evaluating_target(model, self.values, self.externs, rewards, functions)
        self._require_same(target.digests)
        draws = self.draws
        texts, costs = self.kept["texts"], draws.log_priors
        traces = traces_of(target, draws.sites, draws.tokens, texts, costs, len(draws))
        values = target.evaluate(expr, traces)
        return values.astype(bool) if expr.type.kind == "bool" else values

    @cached_property
    def method(self) -> type[Settings] | None:
        """The method that the draws were made by; None where this version knows it no more."""
        from lmppl.inference.methods import method_named

        return method_named(self.draws.method)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the run, as far as this version knows them."""
        assert self.method is not None
        known = {field.name for field in fields(self.method)}
        saved = self.draws.manifest["settings"]
        return self.method(**{name: value for name, value in saved.items() if name in known})

    @cached_property
    def target(self) -> Target:
        model = self.compiled.model
        hosted = {n for n, reward in model.rewards.items() if reward.source.is_extern}
        self._require_externs(hosted | set(model.externs), "the guide")
        names = hosted | set(model.externs)
        given = {name: value for name, value in self.externs.items() if name in names}
        bound = self.compiled(**dict(self.values), **given)
        target = bound.target(device=self.settings.device, dtype=self.settings.dtype)
        self._require_same(target.digests)
        return target

    @property
    def has_guide(self) -> bool:
        """Whether the method fits guides, and can read them again."""
        return self.method is not None and bool(self.method.restoring)

    def guide(self, directory: Path) -> Any:
        """The fitted guide that was saved in a directory."""
        settings, target = self.settings, self.target
        try:
            return self._restoring().restored(settings, target, directory)
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            raise _changed(f"the guide in {directory} is not of this program", (str(error),)) from (
                error
            )

    def sample(self, guide: Any, n: int, seed: int) -> Posterior:
        """`n` fresh draws of the guide."""
        found: Posterior = self._restoring().fresh(self.settings, self.target, guide, n, seed)
        return found

    def _restoring(self) -> Any:
        assert self.method is not None
        return import_module(self.method.restoring)


def _changed(message: str, notes: tuple[str, ...]) -> StorageError:
    return StorageError(
        [
            Diagnostic(
                "LMP962",
                "error",
                message,
                notes=notes,
                help="what was saved can still be read by name; for more, restore the files, or"
                " say where they are: lmppl.load_posterior(directory, base_dir=…)",
            )
        ]
    )
