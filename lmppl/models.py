"""A program that was checked, and one that has its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmppl.checker import check_binding, check_constraints, describe, without_scalars
from lmppl.errors import Diagnostic, LmpError
from lmppl.ir.model import Model

if TYPE_CHECKING:
    from lmppl.density import Target
    from lmppl.progress import ProgressListener


@dataclass(frozen=True)
class CompiledModel:
    """A checked program, not yet bound to data.

    Calling it with parameters, extern rewards, extern functions and extern language models by
    name gives a `BoundModel`.
    """

    model: Model
    warnings: tuple[Diagnostic, ...] = ()

    def __call__(self, /, *positional: object, **values: object) -> BoundModel:
        """The model bound to values by name; what is missing takes its default.

        Raises:
            LmpError: an unknown name, a missing or ill-typed value, a value out of its range, a
                missing extern, or constraints that these values make impossible.
        """
        if positional:
            names = [each.name for each in self.model.parameters] + sorted(
                _extern_names(self.model)
            )
            written = ", ".join(f"{name}=…" for name in names)
            raise TypeError(
                f"values are given by name: model({written})"
                if names
                else f"the model {self.model.name} takes no values"
            )
        return _bound(self, values)

    @property
    def source(self) -> str:
        """The text of the program."""
        return self.model.source

    @property
    def path(self) -> str | None:
        """The file of the program; None where it was given as text."""
        return self.model.path

    def __repr__(self) -> str:
        return f"<CompiledModel {self.model.name} from {self.model.path or 'a text'}>"

    def check(self) -> list[Diagnostic]:
        """The warnings of the program; errors were raised when it was loaded."""
        return list(self.warnings)

    def describe(self) -> dict[str, Any]:
        """Parameters, sites, potentials with their facts, outputs and infer lines, for JSON."""
        return describe(self.model)

    @property
    def pyro_model(self) -> Any:
        """The program as an ordinary Pyro model, with every parameter at its default."""
        return self().pyro_model

    @property
    def pyro_guide(self) -> Any:
        """A trainable Pyro guide, with every parameter at its default; it starts at the prior."""
        return self().pyro_guide


@dataclass(frozen=True)
class BoundModel:
    """A program with its data: what inference runs on."""

    compiled: CompiledModel
    values: Mapping[str, object]
    externs: Mapping[str, object]

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"<BoundModel {self.model.name}({given})>"

    @property
    def model(self) -> Model:
        return self.compiled.model

    def target(self, *, device: str | None = None, dtype: str | None = None) -> Target:
        """The target density with its language models and rewards loaded."""
        return bind_target((self,), device, dtype)

    @cached_property
    def _lowered(self) -> tuple[Any, Any]:
        from lmppl.lowering import lower

        return lower(self.target())

    @property
    def pyro_model(self) -> Any:
        """The program as an ordinary Pyro model: `pyro.sample` per site, `pyro.factor` per
        potential. Any stock Pyro algorithm runs on it."""
        return self._lowered[0]

    @property
    def pyro_guide(self) -> Any:
        """A trainable Pyro guide for `pyro_model`; before training it is the (masked) prior."""
        return self._lowered[1]


Inferable = CompiledModel | BoundModel


def bound_model(model: Inferable, caller: str) -> BoundModel:
    """The model with its data; a loaded one with its defaults."""
    if isinstance(model, CompiledModel):
        return model()
    if not isinstance(model, BoundModel):
        several = ", or a list of them" if caller == "infer" else ""
        raise TypeError(
            f"{caller} takes a loaded model, or a model bound to values{several}, not"
            f" {type(model).__name__}"
        )
    return model


def _bound(compiled: CompiledModel, values: Mapping[str, object]) -> BoundModel:
    model = compiled.model
    hosts = _extern_names(model)
    given = {name: without_scalars(value) for name, value in values.items() if name not in hosts}
    externs = {name: value for name, value in values.items() if name in hosts}
    problems = list(check_binding(model, given, externs))
    if not problems:
        problems = [d for d in check_constraints(model, given) if d.severity == "error"]
    if problems:
        raise LmpError(problems, model.sources)
    return BoundModel(compiled, given, externs)


def _extern_names(model: Model) -> set[str]:
    rewards = {name for name, reward in model.rewards.items() if reward.source.is_extern}
    return rewards | set(model.externs)


def bind_target(
    bound: Sequence[BoundModel],
    device: str | None,
    dtype: str | None,
    progress: ProgressListener | None = None,
) -> Target:
    """The target of bindings of one program, with what it needs loaded."""
    from lmppl.density.binding import bind
    from lmppl.fence import within

    return within(
        lambda: bind(
            bound[0].model,
            [each.values for each in bound],
            bound[0].externs,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    )


def require_one_program(bound: Sequence[BoundModel]) -> None:
    """Refuses bindings that cannot be inferred in one batch.

    Raises:
        ValueError: they are of several programs.
        LmpError: LMP926, they give several objects for one extern.
    """
    if any(each.compiled is not bound[0].compiled for each in bound):
        raise ValueError("a batch of models must be bindings of one loaded program")
    # One batch calls one host function per name.
    first = bound[0].externs
    for each in bound[1:]:
        for name in first:
            if each.externs.get(name) is not first[name]:
                raise LmpError(
                    [
                        Diagnostic(
                            "LMP926",
                            "error",
                            f"the bindings disagree on the extern `{name}`",
                            help="run the bindings one by one, or give them all the same object",
                        )
                    ]
                )
