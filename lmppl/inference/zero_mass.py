"""All mass lost: an error that names the constraint which killed it."""

from __future__ import annotations

import math

import torch

from lmppl.density import Target
from lmppl.errors import Diagnostic, InferenceError, Label
from lmppl.inference.tracing import prior_draws
from lmppl.rng import Stream

PROBES = 200


def zero_mass(
    target: Target, what: str, group: int = 0, num_probes: int = PROBES
) -> InferenceError:
    """LMP901 with, for every constraint, how many unconstrained draws of the prior break it.

    With one probe only, which tells of a requirement that always fails, nothing is counted.
    """
    stream = Stream.from_seed(0).child("zero mass")
    traces = prior_draws(target, num_probes, stream, group)
    notes, labels = [], []
    for potential in target.model.potentials:
        value = traces.log_potential.get(potential.label)
        if value is None:
            continue
        broken = int((value == -math.inf).sum())
        if broken:
            notes.append(
                f"{potential.title} rules out {broken} of {traces.num_rows} draws of the prior"
            )
            labels.append((broken, potential))
    together = traces.total_log_potential()
    alive = int(torch.isfinite(together).sum())
    notes.append(f"{alive} of {traces.num_rows} draws of the prior satisfy all of them")
    if num_probes == 1:
        notes.clear()
    # A constraint that most draws meet is not what lost the mass.
    culprits = [pair for pair in labels if 2 * pair[0] > traces.num_rows]
    worst = max(culprits, key=lambda pair: pair[0])[1] if culprits else None
    return InferenceError(
        [
            Diagnostic(
                "LMP901",
                "error",
                f"no probability is left: {what}"
                + ("" if worst is None else f"; the constraint that kills most is {worst.title}"),
                span=None if worst is None else worst.span,
                labels=tuple(Label(p.span, "also rules draws out") for _, p in culprits[1:2]),
                notes=tuple(notes),
                help="more particles or attempts help where the posterior is rare but not empty;"
                " relax the constraint or allow more tokens where it is",
            )
        ],
        target.model.sources,
    )
