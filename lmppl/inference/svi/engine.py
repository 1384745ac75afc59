"""Stochastic variational inference: a trainable copy of the prior fitted to the posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.bounds import WeightBound, weight_bound
from lmppl.inference.coverage import Coverage, check_coverage, num_check_draws
from lmppl.inference.descent import Trained
from lmppl.inference.failures import by_binding
from lmppl.inference.keeping import Best, is_sound, length_of
from lmppl.inference.loop import Draws, Info, Outcome
from lmppl.inference.results import posterior_of
from lmppl.inference.svi import SVI
from lmppl.inference.zero_mass import zero_mass
from lmppl.ir.model import Potential
from lmppl.lowering import Guide, LeaveOneOutELBO, PyroGuide, PyroModel
from lmppl.lowering.execution import Execution
from lmppl.lowering.fitted import FittedGuide
from lmppl.lowering.isolation import initialised, isolated
from lmppl.lowering.objective import Batch
from lmppl.posterior import Estimate, Posterior, Unseen
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class State:
    """What is trained of a guide so far, and how far the fit is.

    `form` is a guide to try the values in: whoever uses it writes them into it first, so that what
    it holds between two steps means nothing. `elbo` and `elbo_error` hold, for every step so far,
    the ELBO of each binding `[bindings]` before the step and its standard error. `best` is the
    guide to go back to, `length` that of its parameters at the start, `program` the model as Pyro
    runs it, and `diverged` says why the fit was given up, where it was.
    """

    form: Guide
    trained: Trained
    num_done: int
    elbo: tuple[Tensor, ...]
    elbo_error: tuple[Tensor, ...]
    best: Best
    length: float
    program: PyroModel
    diverged: str = ""


@dataclass(frozen=True, slots=True)
class SVIEngine:
    """Fits a guide q by Adam on the reverse KL divergence KL(q ‖ posterior).

    Each step draws `num_particles` executions per binding from the guide, scores them under the
    target and follows the score-function gradient with a leave-one-out baseline (see
    `LeaveOneOutELBO`). Learning rates fall linearly to a tenth. Draws of the fitted guide come with
    their importance weights; log evidence is the ELBO, a lower bound.
    """

    settings: SVI
    target: Target
    stream: Stream
    objective: LeaveOneOutELBO = field(default_factory=LeaveOneOutELBO)

    def init(self) -> State:
        start = self.target.start(torch.arange(self.target.num_groups))
        if not bool((start.total_log_potential() > -math.inf).all()):
            raise zero_mass(self.target, "a requirement fails whatever is drawn")
        form = self._form()
        trained = Trained.start(form.trained())
        return State(
            form=form,
            trained=trained,
            num_done=0,
            elbo=(),
            elbo_error=(),
            best=Best.start(trained.values),
            length=length_of(trained.values),
            program=PyroModel(self.target),
        )

    def _form(self) -> Guide:
        """A guide of the kind that is fitted, as it is before the fit."""
        settings = self.settings
        return initialised(
            lambda: Guide(self.target, kind=settings.guide, lora_rank=settings.lora_rank),
            self.stream.child("guide"),
        )

    def is_done(self, state: State) -> bool:
        return bool(state.diverged) or state.num_done >= self.settings.num_steps

    def step(self, state: State) -> tuple[State, Info]:
        settings = self.settings
        parameters = state.form.trained()
        state.trained.fill(parameters)
        program = PyroGuide(state.form, name="guide")
        try:
            batch = isolated(
                lambda: self.objective.draw(state.program, program, settings.num_particles),
                self.stream.child("step", state.num_done),
            )
        except (RuntimeError, ValueError, InferenceError) as failure:
            # Weights that have run away break a language model in many ways.
            if state.num_done and _is_undefined(failure):
                return self._given_up(state, "the guide gave no probabilities any more")
            if state.num_done and length_of(state.trained.values) > 100.0 * (1.0 + state.length):
                return self._given_up(state, "its weights ran away")
            raise
        if state.num_done and not bool(torch.isfinite(batch.log_guide).all()):
            return self._given_up(state, "the guide gave no probabilities any more")
        self._require_finite(batch, state.program)
        trained = state.trained
        if batch.log_guide.requires_grad:
            self.objective.surrogate(batch).backward()  # type: ignore[no-untyped-call]
            trained = self._updated(state, parameters)
        log_weight = batch.log_weight.reshape(-1, settings.num_particles)
        elbo = log_weight.mean(-1).cpu()
        error = log_weight.std(-1).cpu() / math.sqrt(settings.num_particles)
        curve, errors = (*state.elbo, elbo), (*state.elbo_error, error)
        if not is_sound(trained.values, state.length):
            return self._given_up(state, "its weights ran away")
        at_end = state.num_done + 1 >= settings.num_steps
        left = state.best.is_left_by(curve, settings.num_steps)
        if left or (at_end and state.best.is_better_than_end(curve)):
            why = f"the ELBO fell from {state.best.elbo:.2f} to {float(elbo.mean()):.2f}"
            state = replace(state, elbo=curve, elbo_error=errors, num_done=state.num_done + 1)
            return self._given_up(state, why)
        new = replace(
            state,
            trained=trained,
            num_done=state.num_done + 1,
            elbo=curve,
            elbo_error=errors,
            best=state.best.after(trained.values, curve, errors),
        )
        message = f"ELBO {float(elbo.mean()):.2f} ± {float(error.mean()):.2f}"
        return new, Info(
            "fitting", new.num_done, settings.num_steps, message, self._num_tokens(batch)
        )

    def _given_up(self, state: State, why: str) -> tuple[State, Info]:
        """The state with the best guide so far, and no more steps."""
        trained = replace(state.trained, values=state.best.tensors)
        state = replace(state, trained=trained, diverged=why)
        return state, Info("fitting", state.num_done, self.settings.num_steps, "diverged")

    def _updated(self, state: State, parameters: Sequence[Tensor]) -> Trained:
        """What is trained after a step along the gradients of the parameters."""
        settings = self.settings
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        share = 1.0 - 0.9 * state.num_done / settings.num_steps
        groups = state.form.parameter_groups(
            lr=settings.starting_lr,
            table_lr=settings.table_lr,
            num_draws=settings.num_particles * self.target.num_groups,
        )
        rates = [(len(each.pop("params")), {**each, "lr": each["lr"] * share}) for each in groups]
        return state.trained.stepped([each.grad for each in parameters], rates)

    def _num_tokens(self, batch: Batch) -> int:
        return _execution_of(batch).traces.num_tokens()

    def _require_finite(self, batch: Batch, program: PyroModel) -> None:
        """No draw of the guide may have a posterior density of zero.

        Raises:
            InferenceError: LMP411, one has.
        """
        if bool(torch.isfinite(batch.log_weight).all()):
            return
        execution = _execution_of(batch)
        row = int((~torch.isfinite(batch.log_weight.reshape(-1))).nonzero()[0])
        broken = []
        for potential in self.target.model.potentials:
            site = batch.model_trace.nodes[program.factor_names[potential.label]]
            if float(site["log_prob"].expand(execution.shape).reshape(-1)[row]) == -math.inf:
                broken.append(potential)
        raise self._impossible(execution.traces, row, broken)

    def _impossible(self, traces: Traces, row: int, broken: Sequence[Potential]) -> InferenceError:
        labels = ", ".join(potential.label for potential in broken) or "the prior"
        return InferenceError(
            [
                Diagnostic(
                    "LMP411",
                    "error",
                    f"the guide drew an execution that {labels} gives no probability, which it"
                    " cannot avoid: the reverse KL is infinite",
                    span=broken[0].span if broken else None,
                    notes=tuple(
                        f"{name} = {value.listed()[row]!r}" for name, value in traces.values.items()
                    ),
                    help="use smc, mcmc or rejection; or turn the requirement into a factor",
                )
            ],
            self.target.model.sources,
        )

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        return by_binding(self.target, partial(self._of_group, state, self.guide(state)))

    def guide(self, state: State) -> Guide:
        """The guide of a state: one of its own, for the form is written to at every step."""
        fitted = self._form()
        state.trained.fill(fitted.trained())
        return fitted

    def _of_group(self, state: State, fitted: Guide, group: int) -> Draws:
        guide = FittedGuide(fitted, group)
        draws = guide.draw_scored(self.settings.num_samples, self.stream.child("draws", group))
        log_weight = draws.traces.log_density() - draws.log_guide
        self._require_alive(draws.traces, log_weight)
        weights = log_weight.cpu().numpy()
        elbo = Estimate.from_mean(weights, kind="lower bound")
        importance = Estimate.from_weights(weights)
        curve = np.array([float(value[group]) for value in state.elbo])
        errors = np.array([float(value[group]) for value in state.elbo_error])
        coverage = check_coverage(
            self.target,
            guide,
            weights,
            num_check_draws(state.num_done * self.settings.num_particles),
            self.stream.child("coverage", group),
        )
        return Draws(
            draws.traces,
            log_weight,
            elbo,
            unseen=_unseen(weight_bound(self.target, group), coverage, importance.value),
            diagnostics={
                "elbo": elbo.value,
                "elbo_standard_error": elbo.standard_error,
                "log_evidence_importance": importance.value,
                "log_evidence_importance_standard_error": importance.standard_error,
                "num_steps": state.num_done,
                "guide_coverage": coverage.to_dict(),
                "factors_before": dict(coverage.before),
            },
            warnings=[each for each in (_divergence(state), coverage.warning) if each],
            complete=not state.diverged,
            info={
                "elbo": curve,
                "elbo_standard_error": errors,
                "log_evidence_importance": importance,
            },
            guide=guide,
            sampler=lambda n, seed: self.fresh(guide, n, seed),
        )

    def _require_alive(self, traces: Traces, log_weight: Tensor) -> None:
        if bool(torch.isfinite(log_weight).all()):
            return
        row = int((~torch.isfinite(log_weight)).nonzero()[0])
        broken = [
            potential
            for potential in self.target.model.potentials
            if float(traces.log_potential[potential.label][row]) == -math.inf
        ]
        raise self._impossible(traces, row, broken)

    def fresh(self, guide: FittedGuide, n: int, seed: int) -> Posterior:
        """`n` unweighted draws of the guide, as a posterior of their own."""
        scored = guide.draw_scored(n, Stream.from_seed(seed).child("fresh draws"))
        self._require_alive(scored.traces, scored.traces.log_density() - scored.log_guide)
        draws = Draws(
            scored.traces,
            torch.zeros(n, dtype=torch.float64),
            None,
            "these are draws of the guide, not weighted to the posterior",
            guide=guide,
        )
        fresh = posterior_of(
            self.target,
            draws,
            guide.group,
            settings=self.settings,
            seed=seed,
            outcome=Outcome([draws], None, 0.0, scored.traces.num_tokens(), 0),
        )
        # Claims are about the posterior, which these draws are not weighted to.
        claims = [replace(each, verdict="undecided") for each in fresh.expectations]
        return fresh.replace(expectations=claims)


def _unseen(bound: WeightBound, coverage: Coverage, log_evidence: float) -> Unseen:
    """What the guide's draws may have missed: what draws of the prior find out of its reach, and
    what those have missed too. Where they cannot tell, intervals are of what the guide covers."""
    share = coverage.unseen
    if share >= 1.0:
        return Unseen(math.inf, reason=_of_the_guide(coverage.reason) or bound.reason)
    found = bound.unseen(log_evidence, coverage.num_draws)
    return Unseen(
        found.log_further,
        log_missing=math.log(max(share, 1e-300) / (1.0 - share)),
        reason=_of_the_guide(coverage.reason) or found.reason,
    )


def _of_the_guide(reason: str) -> str:
    return f"they would be of what the guide covers, and {reason}" if reason else ""


def _divergence(state: State) -> str:
    """What to say of a fit that was given up; nothing of one that was not."""
    if not state.diverged:
        return ""
    return (
        f"the fit diverged by step {state.num_done} ({state.diverged}) and was stopped there; the"
        f" guide is the best one before, after {state.best.step} steps: fit again with a smaller"
        " learning rate (lr, table_lr), or cut long gradients (max_grad_norm)"
    )


def _execution_of(batch: Batch) -> Execution:
    """What the guide drew."""
    return cast(Execution, batch.guide_trace.nodes["_RETURN"]["value"])


def _is_undefined(error: Exception) -> bool:
    """Whether a language model gave NaN."""
    return isinstance(error, InferenceError) and error.diagnostics[0].code == "LMP985"
