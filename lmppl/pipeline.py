"""load, compile, bind, infer: the one line that the whole house is built around.

text ──parse──▶ Program ──check──▶ Model ──bind──▶ Target ──infer──▶ Posterior
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmppl.checker import (
    analyse_text,
    check_binding,
    check_constraints,
    check_expression,
    check_query,
    describe,
    program_files,
    without_scalars,
)
from lmppl.errors import Diagnostic, InferenceError, LmpError
from lmppl.files import AnyPath
from lmppl.inference import (
    METHODS,
    Settings,
    check_method,
    default_method,
    method_named,
    settings_from_options,
)
from lmppl.inference.listening import listening
from lmppl.inference.methods import method_meant
from lmppl.inference.planning import Plan, plan_method
from lmppl.ir.model import InferSpec, Model, Site
from lmppl.progress import ProgressEvent
from lmppl.syntax import read_program, require_text

if TYPE_CHECKING:
    from lmppl.density import Target
    from lmppl.posterior import NoPosterior, Posterior
    from lmppl.progress import ProgressListener

_log = logging.getLogger(__name__)


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
        return _target((self,), device, dtype)

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


def load(
    path: str | Path, *, pedantic: bool = False, allow: AnyPath | Iterable[AnyPath] = ()
) -> CompiledModel:
    """The program in a `.lmp` file, parsed and checked.

    What it reads (`file`, `import`, `markov`, …) lies in its own folder, or beneath one of the
    folders of `allow`, links followed. Models (`lm`, `classifier`, `reward_model`) may lie
    anywhere. `pedantic` adds warnings about what is legal and often not meant (6xx).

    Raises:
        LmpError: the file cannot be read (LMP027), or every error of the file, at once.

    >>> lmppl.load("examples/upbeat.lmp").model.name  # doctest: +SKIP
    'upbeat'
    """
    content = read_program(path)
    return _compile(content, str(path), str(Path(path).parent), pedantic, allow)


def compile(
    source: str, *, base_dir: str | Path = ".", allow: AnyPath | Iterable[AnyPath] = ()
) -> CompiledModel:
    """A program given as text; files that it names are found relative to `base_dir`.

    They lie beneath `base_dir`, or beneath one of the folders of `allow`.

    Raises:
        LmpError: every error of the program, at once.
    """
    return _compile(require_text(source), None, str(base_dir), allow=allow)


def _compile(
    text: str | bytes,
    path: str | None,
    base_dir: str,
    pedantic: bool = False,
    allow: AnyPath | Iterable[AnyPath] = (),
) -> CompiledModel:
    began = time.perf_counter()
    allow = (allow,) if isinstance(allow, (str, os.PathLike)) else tuple(allow)
    analysis = analyse_text(text, path, program_files(base_dir, allow), pedantic=pedantic)
    model = analysis.checked()
    _log.info("checked %s in %.2f s", path or "a text", time.perf_counter() - began)
    return CompiledModel(model, analysis.diagnostics)


def _bound(compiled: CompiledModel, values: Mapping[str, object]) -> BoundModel:
    model = compiled.model
    hosts = _extern_names(model)
    given = {name: without_scalars(value) for name, value in values.items() if name not in hosts}
    externs = {name: value for name, value in values.items() if name in hosts}
    problems = list(check_binding(model, given, externs))
    if not problems:
        problems = [d for d in check_constraints(model, given) if d.severity == "error"]
    if problems:
        raise LmpError(problems, {model.path: model.source})
    return BoundModel(compiled, given, externs)


def _extern_names(model: Model) -> set[str]:
    rewards = {name for name, reward in model.rewards.items() if reward.source.kind == "extern"}
    return rewards | set(model.externs)


def _target(
    bound: Sequence[BoundModel],
    device: str | None,
    dtype: str | None,
    progress: ProgressListener | None = None,
) -> Target:
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


Inferable = CompiledModel | BoundModel


def explain(
    bound: Inferable, *, method: str | None = None, infer: str | None = None, **options: object
) -> Plan:
    """Whether a method would run on the model, and why not; nothing is loaded or run.

    What only the vocabulary of a language model tells, `target()` of a bound model says.
    """
    one = _bound_model(bound, "explain")
    settings = _settings(one.model, method, infer, options)
    return plan_method(one.model, settings, dict(one.values))


def unmet(bound: BoundModel) -> list[Diagnostic]:
    """What no text of its language models can meet (LMP305, LMP942), for which they are loaded.

    Nothing is loaded, and nothing said, where no text is required to be anything, where data or
    language models of the host are missing, or where a model is not on this machine.

    Raises:
        InferenceError: a language model is here and cannot be loaded.
    """
    model, values = bound.model, {n: without_scalars(v) for n, v in bound.values.items()}
    problems = check_binding(model, values, bound.externs)
    # A reward or function of the host is not needed to know what can be written.
    if any(each.code != _MISSING_EXTERN for each in problems) or not _requires_of_texts(model):
        return []
    if not all(_is_at_hand(model, site, bound.externs) for site in model.text_sites):
        return []
    from lmppl.density.binding import bind
    from lmppl.fence import within

    try:
        target = within(lambda: bind(model, [values], bound.externs, rewards=False))
    except InferenceError as error:
        if all(each.code in ("LMP305", "LMP942") for each in error.diagnostics):
            return list(error.diagnostics)
        raise
    return [Diagnostic("LMP305", "warning", each) for each in target.ruled_out.get(0, ())]


_MISSING_EXTERN = "LMP133"


def _requires_of_texts(model: Model) -> bool:
    texts = {site.name for site in model.text_sites}
    required = [p for p in model.potentials if p.kind == "require"]
    return any(texts & model.sites_of(each.expr, each.when) for each in required)


def _is_at_hand(model: Model, site: Site, externs: Mapping[str, object]) -> bool:
    """Whether the language model of a text site can be had without asking for it elsewhere."""
    from lmppl.lm.names import is_at_hand

    distribution = site.distribution
    if distribution.extern is not None:
        return distribution.extern in externs
    name = getattr(distribution.argument("model"), "value", None)
    return distribution.kind != "lm" or (isinstance(name, str) and is_at_hand(name, model.base_dir))


def infer(
    bound: Inferable | Sequence[Inferable],
    *,
    method: str | None = None,
    infer: str | None = None,
    progress: ProgressListener | bool | None = None,
    budget: float | str | None = None,
    **options: object,
) -> Any:
    """The posterior of a model under a method: the file's own, a named `infer`, or any other.

    `method` picks a method by name, with its options as keywords (`num_particles=256`, `seed=0`);
    `infer` picks a named `infer` line of the file. When the method differs from the file's, only
    the seed and the number of draws carry over. `budget` ends a run early: seconds, or a string
    such as "30s" or "100000 tokens". `progress` is a function of `ProgressEvent`, or says whether
    to show how far the run is; by default on a terminal only. A list of models bound from one
    program is inferred in one batch and gives a list; where some of them have no posterior, a
    `NoPosterior` with its error stands in their place.

    Raises:
        LmpError: unknown method or option, or a method that cannot do this model (4xx).
        InferenceError: no probability is left, a reward is not a number, and the like (9xx).

    >>> post = lmppl.infer(model, method="smc", num_particles=64, seed=0)  # doctest: +SKIP
    """
    if isinstance(bound, Sequence) and not isinstance(bound, str):
        return _infer_many(list(bound), method, infer, progress, budget, options)
    return _infer_many([bound], method, infer, progress, budget, options)[0]


def _infer_many(
    models: list[Inferable],
    method: str | None,
    infer: str | None,
    progress: ProgressListener | bool | None,
    budget: float | str | None,
    options: Mapping[str, object],
) -> list[Posterior | NoPosterior]:
    bound = [_bound_model(each, "infer") for each in models]
    if not bound:
        return []
    if any(each.compiled is not bound[0].compiled for each in bound):
        raise ValueError("a batch of models must be bindings of one loaded program")
    model = bound[0].model
    _require_same_externs(bound)
    settings = _settings(model, method, infer, options)
    refusals = [
        refusal
        for each in bound
        for refusal in plan_method(model, settings, dict(each.values)).refusals
    ]
    if refusals:
        raise InferenceError(_unique(refusals), {model.path: model.source})

    _log.info("%s of %s by %s", model.name, model.path or "a text", settings)
    with ExitStack() as ending:
        with listening(progress) as listener:
            if listener is not None:
                listener(ProgressEvent("loading", 0, None, "libraries"))
            from lmppl.diagnostics import judge
            from lmppl.inference.execution import execute

            target = _target(bound, settings.device, settings.dtype, listener)
            found = execute(
                target,
                settings,
                progress=listener or False,
                budget=budget,
                parse=_Language(model),
                ending=ending,
            )
        left = iter(found)
        results = [
            target.impossible[number] if number in target.impossible else next(left)
            for number in range(len(bound))
        ]
        return [
            _absent(each, bound, number)
            if isinstance(each, InferenceError)
            else judge(each, settings)
            for number, each in enumerate(results)
        ]


def _absent(error: InferenceError, bound: Sequence[BoundModel], number: int) -> NoPosterior:
    """What stands for the posterior of a binding that has none, beside others that have one."""
    from lmppl.density.binding import with_defaults
    from lmppl.posterior.absent import NoPosterior

    first, *others = error.diagnostics
    note = f"this is binding {number + 1} of {len(bound)}; the others have their results"
    named = replace(first, notes=(*first.notes, note))
    parameters = with_defaults(bound[number].model, bound[number].values)
    return NoPosterior(InferenceError([named, *others], error.sources), parameters)


@dataclass(frozen=True)
class _Language:
    """What expressions mean for the draws of a model."""

    model: Model

    def __call__(self, text: str) -> Any:
        return check_expression(self.model, text)

    def asked(self, text: str) -> tuple[Any, str, float | None]:
        query = check_query(self.model, text)
        return query.statistic, query.inner, query.q


def _bound_model(model: Inferable, caller: str) -> BoundModel:
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


def _require_same_externs(bound: Sequence[BoundModel]) -> None:
    """One batch calls one host function per name: bindings that give several are refused."""
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


def _unique(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    return list(dict.fromkeys(diagnostics))


def _settings(
    model: Model, method: str | None, infer: str | None, options: Mapping[str, object]
) -> Settings:
    """Python keyword, then the file's `infer`, then the method's defaults."""
    spec = _spec(model, method, infer)
    name = method or (spec.method if spec else None)
    if name is None:
        name = default_method(model).name
    if not isinstance(name, str):
        raise TypeError(f"method must be the name of a method, not {name!r}")
    options = {name: without_scalars(value) for name, value in options.items()}
    unknown = check_method(name)
    if unknown is not None:
        # The options are those of the method that was probably meant.
        meant = method_meant(name)
        problems = () if meant is None else settings_from_options(meant, options)[1]
        raise LmpError([unknown, *problems])
    kind = method_named(name)
    assert kind is not None
    values = {**_carried(spec, kind, options), **options}
    settings, problems = settings_from_options(kind, values)
    if problems:
        raise LmpError(problems)
    assert settings is not None
    return settings


def _spec(model: Model, method: str | None, infer: str | None) -> InferSpec | None:
    """The infer line that is asked for, or the file's default one."""
    if infer is not None:
        for spec in model.infers:
            if infer in (spec.name, spec.method if spec.name is None else None):
                return spec
        names = [spec.name or spec.method for spec in model.infers]
        raise LmpError(
            [
                Diagnostic(
                    "LMP404",
                    "error",
                    f"the file has no infer named {infer!r}",
                    help=f"it has {', '.join(names) or 'none'}",
                )
            ]
        )
    default = next((spec for spec in model.infers if spec.name is None), None)
    default = default or next(iter(model.infers), None)
    if method is not None:
        # The same method's own line beats the default of another method.
        mine = [spec for spec in model.infers if spec.method == method]
        unnamed = [spec for spec in mine if spec.name is None]
        return next(iter(unnamed or mine), default)
    return default


def _carried(
    spec: InferSpec | None, kind: type[Settings], options: Mapping[str, object]
) -> dict[str, object]:
    """The file's options for a method; of another method only the seed and the number of draws."""
    if spec is None:
        return {}
    if spec.method == kind.name:
        return dict(spec.options)
    carried: dict[str, object] = {}
    other = method_named(spec.method)
    if "seed" in spec.options:
        carried["seed"] = spec.options["seed"]
    draws = spec.options.get(other.num_draws_option) if other else None
    if draws is not None and kind.num_draws_option in {f.name for f in fields(kind)}:
        assert other is not None and isinstance(draws, int)
        total = draws * other.draws_per_option(spec.options)
        carried[kind.num_draws_option] = kind.option_for_draws(total, options)
    return carried


__all__ = ["METHODS", "BoundModel", "CompiledModel", "compile", "explain", "infer", "load"]
