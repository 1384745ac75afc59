"""The program of a saved result: what is kept of it, and expressions evaluated on its draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmppl.builtins import distribution_of
from lmppl.builtins.loading import load_reward
from lmppl.density.binding import bind_site, files_of, with_defaults
from lmppl.density.stages.text_batch import TextBatch
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.ir.expr import Expr, ExternCall, RewardCall
from lmppl.ir.model import Model


def kept_program(target: Target, traces: Traces) -> dict[str, Any]:
    """What a posterior keeps of its program, so that expressions can be evaluated on it later.

    The source, where its files lie, what the ids of each text do not tell, and the ranges that
    follow from the language models.
    """
    model = target.model
    return {
        "source": model.source,
        "path": model.path,
        "base_dir": os.path.abspath(model.base_dir),
        "allow": list(model.allow),
        "ranges": target.text_ranges.to_dict(),
        "texts": {
            name: dict(kept) for name, value in traces.values.items() if (kept := value.kept())
        },
    }


def names_called(model: Model, expr: Expr) -> tuple[set[str], set[str]]:
    """The rewards and the functions of the host that an expression calls."""
    nodes = list(model.nodes(expr))
    rewards = {node.reward for node in nodes if isinstance(node, RewardCall)}
    functions = {node.function for node in nodes if isinstance(node, ExternCall)}
    return rewards, functions


def evaluating_target(
    model: Model,
    values: Mapping[str, object],
    externs: Mapping[str, object],
    rewards: set[str],
    functions: set[str],
) -> Target:
    """A target that evaluates expressions which call these; it has no language models."""
    complete = with_defaults(model, values)
    scorers = {}
    for name in rewards:
        host = externs.get(name)
        scorers[name] = load_reward(
            model.rewards[name],
            base_dir=model.base_dir,
            files=files_of(model),
            device="cpu",
            dtype=None,
            host=host if callable(host) else None,
        )
    called: dict[str, Callable[..., object]] = {
        name: function for name in functions if callable(function := externs[name])
    }
    digests = {f"reward {name}": scorer.digest for name, scorer in scorers.items()}
    stages = []
    for site in model.sites:
        distribution = distribution_of(site.distribution)
        # Language models that are read from files of the program are small.
        if site.is_text and not any(distribution.accepting("path")):
            continue
        stage = bind_site(model, site, [complete], externs, None, None)
        # That the draws came from these tables is looked at; nothing is drawn from them.
        digests |= {f"lm {site.name}": lm.digest for lm in stage.language_models}
        if stage.text is None:
            stages.append(stage)
    return Target(
        model=model,
        bindings=(complete,),
        stages=tuple(stages),
        scorers=scorers,
        functions=called,
        device=torch.device("cpu"),
        digests=digests,
    )


def traces_of(
    target: Target,
    sites: Mapping[str, Sequence[Any] | NDArray[Any]],
    tokens: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
    texts: Mapping[str, Mapping[str, NDArray[Any]]],
    log_priors: Mapping[str, NDArray[np.float64]],
    num_rows: int,
) -> Traces:
    """The draws of a posterior as executions, without their potentials.

    `log_priors` has what the values of each site cost.

    Raises: ValueError, KeyError where a value is none that its site can have.
    """
    traces = Traces(group=torch.zeros(num_rows, dtype=torch.long))
    costs = {name: torch.from_numpy(np.array(column)) for name, column in log_priors.items()}
    for stage in target.stages:
        column = sites[stage.name]
        plain = column.tolist() if isinstance(column, np.ndarray) else list(column)
        traces = traces.with_value(stage.name, stage.given(plain), costs.get(stage.name))
    for name, (ids, lengths) in tokens.items():
        known = texts[name]
        text = TextBatch(
            tokens=torch.from_numpy(ids.copy()),
            lengths=torch.from_numpy(lengths.copy()),
            finished=torch.from_numpy(np.array(known["finished"], dtype=bool)),
            num_tokens=torch.from_numpy(np.array(known["num_tokens"], dtype=np.int64)),
            strings=tuple(sites[name]),
        )
        traces = traces.with_value(name, text, costs.get(name))
    return traces
