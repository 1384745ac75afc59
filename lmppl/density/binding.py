"""Model plus data: loads language models and rewards and joins them into a Target.

The only step that loads weights. The parameter values were checked against the model's types
before.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from lmppl.builtins import distribution_of
from lmppl.builtins.loading import Place, load_reward
from lmppl.density.possible import impossibilities
from lmppl.density.spelling import spelled_tokens
from lmppl.density.stages.protocol import Stage
from lmppl.density.target import Target
from lmppl.errors import Diagnostic, InferenceError
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.values import evaluate
from lmppl.files import Files, Folder
from lmppl.ir.expr import Expr
from lmppl.ir.model import Model, Site
from lmppl.lm.loading import first_device
from lmppl.progress import ProgressEvent, ProgressListener
from lmppl.rewards import Scorer

_log = logging.getLogger(__name__)
Loaded = TypeVar("Loaded")


def bind(
    model: Model,
    bindings: Sequence[Mapping[str, object]],
    externs: Mapping[str, object],
    *,
    device: str | None = None,
    dtype: str | None = None,
    progress: ProgressListener | None = None,
    rewards: bool = True,
) -> Target:
    """The Target of a model for one or several bindings of its parameters.

    `bindings` give every parameter a value; `externs` hold the host's rewards, functions and
    language models by name. Without `rewards` none is loaded, and no factor can be evaluated.

    Raises:
        InferenceError: a language model or reward cannot be loaded (91x, 92x), or several bindings
            disagree on what a site's structure is made of (LMP926), or no text of a language
            model can meet what is required of it (LMP305) in any binding; where it can in some, the
            others are `impossible` in the target and not among its bindings.
    """
    complete = [with_defaults(model, values) for values in bindings]
    place = _device(device)

    def load(what: str, loaded: Callable[[], Loaded]) -> Loaded:
        if progress is not None:
            progress(ProgressEvent("loading", 0, None, what))
        began = time.perf_counter()
        found = loaded()
        _log.info("loaded %s in %.1f s", what, time.perf_counter() - began)
        return found

    stages = tuple(
        load(
            f"the prior of {site.name}",
            partial(bind_site, model, site, complete, externs, device, dtype),
        )
        for site in model.sites
    )
    called = {
        name: load(
            f"the reward {name}",
            partial(
                load_reward,
                reward,
                base_dir=model.base_dir,
                files=files_of(model),
                device=str(place),
                dtype=None,
                host=_host(externs, name),
            ),
        )
        for name, reward in model.rewards.items()
        if rewards
    }
    functions = {
        name: function
        for name, extern in model.externs.items()
        if extern.kind == "function" and callable(function := externs.get(name))
    }
    target = Target(
        model=model,
        bindings=tuple(complete),
        stages=stages,
        scorers=called,
        functions=functions,
        device=place,
        digests=_digests(model, stages, called),
    )
    sources = model.sources
    if spelled := spelled_tokens(target):
        raise InferenceError(spelled, sources)
    found = impossibilities(target)
    lost = found.bindings
    if len(lost) == len(complete):
        raise InferenceError(lost[0], sources)
    if not lost and not found.choices:
        return target
    kept = [group for group in range(len(complete)) if group not in lost]
    return Target(
        model=model,
        bindings=tuple(complete[group] for group in kept),
        stages=stages,
        scorers=called,
        functions=functions,
        device=place,
        digests=target.digests,
        impossible={group: InferenceError(why, sources) for group, why in lost.items()},
        ruled_out={n: found.choices.get(group, ()) for n, group in enumerate(kept)},
    )


def files_of(model: Model) -> Files:
    """What the program may read, now that it is bound."""
    return Folder.of(model.base_dir, model.allow)


def _device(name: str | None) -> torch.device:
    """The torch device of that name; for "auto" the one that spread models begin on.

    Raises:
        InferenceError: LMP932, torch knows no such device or this machine has none.
    """
    if name == "auto":
        return first_device()
    try:
        place = torch.device(name or "cpu")
        torch.empty(0, device=place)
    except (AssertionError, RuntimeError) as error:
        raise InferenceError(
            [
                Diagnostic(
                    "LMP932",
                    "error",
                    f"there is no device {name!r} to run on",
                    notes=(str(error).splitlines()[0],),
                    help="use device='cpu', or what `torch.cuda.is_available()` and torch allow",
                )
            ]
        ) from error
    return place


def _host(externs: Mapping[str, object], name: str) -> Callable[..., object] | None:
    found = externs.get(name)
    return found if callable(found) else None


def with_defaults(model: Model, values: Mapping[str, object]) -> dict[str, object]:
    """The values of all parameters."""
    complete = {}
    for parameter in model.parameters:
        if parameter.name in values:
            complete[parameter.name] = values[parameter.name]
        elif parameter.default is not None:
            complete[parameter.name] = _constant(model, parameter.default, complete)
    return complete


def _constant(model: Model, expr: Expr, values: Mapping[str, object]) -> object:
    """The value of an expression that depends on parameters only."""
    environment = Environment(
        num_rows=1,
        values=values,
        columns={},
        scorers={},
        functions={},
        lets={let.name: let.expr for let in model.lets},
    )
    value = evaluate(expr, environment)
    if isinstance(value, (str, tuple)):
        return value
    if isinstance(value, list):
        return value[0] if len(value) == 1 and expr.type.dimensions == 0 else tuple(value)
    assert isinstance(value, np.ndarray)
    item = value.reshape(-1)
    return item[0].item() if expr.type.dimensions == 0 else tuple(item.tolist())


def _argument(
    model: Model, site: Site, name: str, bindings: Sequence[Mapping[str, object]]
) -> object:
    """The value of a site's argument, the same for all bindings; its default if not written."""
    expr = site.distribution.argument(name)
    if expr is None:
        signature = distribution_of(site.distribution)
        return signature.default(name) if signature.argument(name) is not None else None
    found = [_constant(model, expr, values) for values in bindings]
    if any(value != found[0] for value in found):
        raise InferenceError(
            [
                Diagnostic(
                    "LMP926",
                    "error",
                    f"the bindings disagree on {name} of {site.name}: {found[0]!r} and others",
                    span=expr.span,
                    help="run the bindings one by one, or give them all the same value",
                )
            ],
            model.sources,
        )
    return found[0]


def bind_site(
    model: Model,
    site: Site,
    bindings: Sequence[Mapping[str, object]],
    externs: Mapping[str, object],
    device: str | None,
    dtype: str | None,
) -> Stage:
    """The stage of a site, its language model loaded."""

    def value(name: str) -> object:
        return _argument(model, site, name, bindings)

    described = distribution_of(site.distribution)
    known = {each.name: value(each.name) for each in described.arguments if each.known == "bind"}
    host = externs.get(site.distribution.extern or "")
    place = Place(model.base_dir, files_of(model), device, dtype, host=host)
    module, _, name = described.binder.partition(":")
    stage: Stage = getattr(importlib.import_module(module), name)(
        model, site, described, known, place
    )
    return stage


def _digests(
    model: Model, stages: Sequence[Stage], scorers: Mapping[str, Scorer]
) -> dict[str, str]:
    """What the manifest records so that a run can be repeated."""
    digests = {"model": model.digest}
    for stage in stages:
        for lm in stage.language_models:
            digests[f"lm {stage.name}"] = lm.digest
    for name, scorer in scorers.items():
        digests[f"reward {name}"] = scorer.digest
    return digests
