"""Weighted draws with everything that is known of them, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import closest
from lmppl.posterior import kinds, shapes
from lmppl.posterior.draw import Draw, TextDraw
from lmppl.posterior.estimate import Estimate
from lmppl.posterior.kinds import FieldKind

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightedDraws:
    """Weighted draws from the posterior of a model, with evidence, diagnostics and a manifest.

    Made from whatever an engine hands over, and kept as read-only arrays and plain values: how, its
    kind says (see `kinds`), as it says what is saved of it. Everything is `[draws]` or by name
    `[draws]`:

    `sites` and `outputs` are the values of the latent choices and of the returned names (in
    order; without `outputs` the sites are returned); `tokens` has, by text site, ids
    `[draws, length]` and lengths `[draws]`; `log_weights` are accepted unnormalised (nats, −inf is
    a dead draw) and kept normalised; `log_potentials` holds every factor and require by label, in
    nats; `log_priors` the log prior of every site, whose sum is `log_prior`. `prompts` has what
    each text continues: one string, or `[draws]`.

    What the draws owe each other decides their standard errors. `clusters` numbers the draws:
    equal numbers (the same SMC ancestor, the same run) may depend on each other. `num_chains`
    says instead that the draws are `[chains, draws]` flattened, and autocorrelation counts. With
    neither, draws are independent. `enumerated` says that the draws are the whole support with
    exact weights, so that expectations have no error at all; `from_prior` that they are draws of
    the prior, restricted or not, which the potentials alone weigh. `unseen` says what the draws may
    have missed; without it they are taken for draws like any further ones. `ranges` has, by output,
    site or factor, the least and largest value that it can have.

    `program` is what a loaded posterior needs to evaluate expressions again: the source, where its
    files lie, and `texts` with what the token ids of each text do not tell, `[draws]`.

    `evaluator` maps an expression of the language to its values on the draws, and its
    `range_of(source)`, `cells_of(source)` and `asked(source)`, where it has them, to their range,
    `Cells`, and the statistic that is asked for; `sampler` draws `(n, seed)` afresh from the fitted
    `guide`. They hold on to a model, and are neither pickled nor, but for the guide, saved.
    """

    sites: kinds.Columns
    outputs: kinds.Columns = None  # type: ignore[assignment]  # the sites, in the end
    tokens: kinds.Tokens = field(default_factory=dict)
    log_weights: kinds.LogWeights
    log_prior: kinds.OptionalFloats = None
    log_priors: kinds.FloatsByName = field(default_factory=dict)
    prompts: kinds.Prompts = field(default_factory=dict)
    log_potentials: kinds.FloatsByName = field(default_factory=dict)
    log_evidence: kinds.OptionalEstimate = None
    log_evidence_reason: kinds.Text = ""
    clusters: kinds.Clusters = None
    num_chains: kinds.NumChains = None
    enumerated: kinds.Flag = False
    from_prior: kinds.Flag = False
    unseen: kinds.OptionalUnseen = None
    ranges: kinds.Ranges = field(default_factory=dict)
    diagnostics: kinds.Plain = field(default_factory=dict)
    warnings: kinds.Sentences = ()
    checks: kinds.Checks = field(default_factory=dict)
    expectations: kinds.Expectations = ()
    method: kinds.Text = ""
    manifest: kinds.Plain = field(default_factory=dict)
    complete: kinds.Flag = True
    info: kinds.Plain = field(default_factory=dict)
    program: kinds.Program = None
    evaluator: kinds.Evaluator = None
    sampler: kinds.Sampler = None
    guide: kinds.Guide = None

    def __post_init__(self) -> None:
        if self.outputs is None:
            object.__setattr__(self, "outputs", self.sites)
        # First the weights: the others are as many as they.
        self._keep(["log_weights", *(name for name in KINDS if name != "log_weights")])

    def _keep(self, names: list[str]) -> None:
        for name in names:
            size = len(self.log_weights) if name != "log_weights" else 0
            object.__setattr__(self, name, KINDS[name].keep(name, getattr(self, name), size))

    def replace(self, **changes: Any) -> WeightedDraws:
        """A copy with some fields changed."""
        if "log_weights" in changes or not changes.keys() <= KINDS.keys():
            return dataclasses.replace(self, **changes)
        # As many draws as before: what stays need not be checked or copied.
        copy = object.__new__(WeightedDraws)
        for name in KINDS:
            object.__setattr__(copy, name, changes.get(name, getattr(self, name)))
        copy._keep(list(changes))
        return copy

    def __repr__(self) -> str:
        return f"<WeightedDraws: {len(self)} of {', '.join(self.sites)}>"

    def __len__(self) -> int:
        return len(self.log_weights)

    def __contains__(self, name: object) -> bool:
        return name in self.outputs or name in self.sites

    @property
    def weights(self) -> Floats:
        """Normalised weights `[draws]`; they sum to one."""
        return np.asarray(np.exp(self.log_weights))

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which draws have positive weight, `[draws]`."""
        return np.asarray(self.log_weights > -math.inf)

    def column(self, name: str) -> Any:
        """The values of a returned name or of a site, `[draws]`: numbers as an array, else a list.

        Raises: KeyError where there is no such name.
        """
        for columns in (self.outputs, self.sites):
            if name in columns:
                found = columns[name]
                return list(found) if isinstance(found, tuple) else found
        known = list(dict.fromkeys([*self.outputs, *self.sites]))
        guess = closest(name, known)
        maybe = f"; did you mean {guess!r}?" if guess else f"; it has {', '.join(known)}"
        raise KeyError(f"no value {name!r} in this posterior{maybe}")

    def first_text(self) -> list[str]:
        """The draws of the first text returned; of the first text site where none is returned.

        Raises: KeyError where there is no text. The value of a choice among strings is none.
        """
        # Of draws that were put together by hand it is not known which strings were chosen.
        is_known = bool(self.tokens) or "language_models" in self.manifest
        choices = [x for name, x in self.sites.items() if is_known and name not in self.tokens]
        for name, column in (*self.outputs.items(), *self.sites.items()):
            is_text = isinstance(column, tuple) and all(isinstance(v, str) for v in column)
            if name in self.tokens or (
                is_text and not any(column is c or column == c for c in choices)
            ):
                return list(column)
        raise KeyError("this posterior has no text")

    def text(self, name: str | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids `[draws, length]` and lengths `[draws]` of a text; the first one for None."""
        texts = self.tokens
        if name is None and texts:
            name = next((output for output in self.outputs if output in texts), next(iter(texts)))
        if name is None or name not in texts:
            known = ", ".join(texts) or "none"
            raise KeyError(f"no tokens of a text {name!r}; those kept are of: {known}")
        return texts[name]

    def prompts_of(self, name: str | None) -> list[str]:
        """What each draw of a text continues, `[draws]`; of the first text for None."""
        kept = self.prompts
        if name is None and kept:
            name = next((output for output in self.outputs if output in kept), next(iter(kept)))
        if name is None or name not in kept:
            raise KeyError(f"no prompts of a text {name!r}; kept are: {', '.join(kept) or 'none'}")
        value = kept[name]
        return [value] * len(self) if isinstance(value, str) else list(value)

    def draw(self, index: int) -> Draw | TextDraw:
        """One draw by its index; a text with the rest beside it where one text is returned."""
        columns = {**self.sites, **self.outputs}
        values = {name: _scalar(column[index]) for name, column in columns.items()}
        log_weight = float(self.log_weights[index])
        made = Draw(values, math.exp(log_weight), log_weight)
        if len(self.outputs) == 1 and isinstance(text := values[next(iter(self.outputs))], str):
            return TextDraw(text, made)
        return made

    def log_prior_of_draws(self) -> Floats:
        """Log probability of each draw under the prior, `[draws]`, in nats.

        Raises: KeyError where it was not kept.
        """
        if self.log_prior is None:
            raise KeyError("this posterior does not keep the log prior of its draws")
        return self.log_prior

    def log_potential(self, label: str) -> Floats:
        """The value of a factor or require on each draw, `[draws]`, in nats."""
        if label not in self.log_potentials:
            known = ", ".join(self.log_potentials) or "none"
            raise KeyError(f"no potential {label!r} in this posterior; its labels are: {known}")
        return self.log_potentials[label]

    @property
    def log_density(self) -> Floats:
        """Unnormalised log density of the posterior on each draw, `[draws]`: prior and factors."""
        total = np.array(self.log_prior_of_draws())
        for values in self.log_potentials.values():
            total += values
        return total

    @property
    def total_log_potential(self) -> Floats:
        """The sum of all factors on each draw, `[draws]`, 0 on draws of weight zero."""
        total = np.zeros(len(self))
        for values in self.log_potentials.values():
            total += values
        return np.where(self.alive, total, 0.0)

    def drawn(self, estimate: Estimate) -> Estimate:
        """The estimate with the name of the random numbers that these draws were made with."""
        seed = self.manifest.get("seed")
        if seed is None or estimate.is_exact:
            return estimate
        return dataclasses.replace(estimate, drawn_from=frozenset({f"seed {seed}"}))


_HINTS = get_type_hints(WeightedDraws, include_extras=True)
KINDS: Mapping[str, FieldKind] = {
    each.name: _HINTS[each.name].__metadata__[0] for each in fields(WeightedDraws)
}


def fields_read(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of draws that were saved, from what stands in a file.

    Raises: ValueError naming the first field that is not what draws are saved with.
    """
    unknown = [name for name in found if name not in KINDS]
    if unknown:
        raise ValueError(f"there is no field {unknown[0]!r}")
    for name in _IN_EVERY_FILE:
        if name not in found:
            raise ValueError(f"the field {name} is missing")
    shapes.floats("log_weights", found["log_weights"])
    size = len(found["log_weights"])
    for name, value in found.items():
        KINDS[name].check(name, value, size)
    return {name: KINDS[name].read(value) for name, value in found.items()}


# Other fields were added later, and may be missing from what an older version saved.
_IN_EVERY_FILE = ("sites", "log_weights", "log_evidence", "expectations", "warnings")


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
