"""Executions of the prior with every potential evaluated, whether it rules them out or not."""

from __future__ import annotations

import torch

from lmppl.density import ChoiceStage, Target, Traces
from lmppl.inference.proposing import draw_choice_site
from lmppl.rng import Stream


def prior_draws(target: Target, num_rows: int, stream: Stream, group: int = 0) -> Traces:
    """Unconstrained draws of the prior of a binding, potentials evaluated, none dropped."""
    counters = torch.arange(num_rows, device=target.device)
    traces = target.start(torch.full((num_rows,), group, dtype=torch.long))
    for number, stage in enumerate(target.stages):
        uniforms = stream.child("site", number)
        if isinstance(stage, ChoiceStage):
            traces = draw_choice_site(target, number, traces, uniforms, counters)
        else:
            prompts = target.prompts(number, traces)
            # The full automaton is dead, and deaf to stop strings, once a constraint is broken.
            run = stage.begin(prompts, stage.stop_automata(prompts))
            step_number = 0
            while run.num_open:
                run, _ = stage.step(run, uniforms.uniforms(counters, step_number), masked=False)
                step_number += 1
            traces = traces.with_value(stage.name, stage.finish(run), run.log_prior)
        traces = target.apply_potentials(traces, number)
    return traces
