"""The face of weighted draws: what a person, a notebook or another tool asks of them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, SupportsIndex, TextIO, overload

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior import claims, export, html, meaning, questions, selection
from lmppl.posterior.deferred import DeferredGuide
from lmppl.posterior.draw import Draw, TextDraw
from lmppl.posterior.draws import KINDS, WeightedDraws
from lmppl.posterior.estimate import Estimate
from lmppl.posterior.expectation import (
    MEAN,
    PROBABILITY,
    QUANTILE,
    STD,
    ExpectationResult,
    Statistic,
)
from lmppl.posterior.plain import ReadOnly, readable
from lmppl.posterior.questions import Question
from lmppl.posterior.statistics import Range
from lmppl.posterior.storage import save_draws
from lmppl.posterior.summary import summarise
from lmppl.posterior.unseen import Unseen

Floats = NDArray[np.float64]

# Compiling the program of a posterior that was pickled is done in a room above this one.
_UNPICKLES = "lmppl.reopening:unpickled"
_NO_GUIDE = (
    "the fitted guide was left out when this result was pickled: `sample` draws from these draws"
    " again; `save` keeps the guide"
)


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Posterior:
    """Weighted draws from the posterior of a model, with evidence, diagnostics and a manifest.

    Made from the fields of `WeightedDraws`, which say what each of them is; nothing in it can be
    changed afterwards (`replace` makes a changed copy). `data` has the draws as they are kept.
    """

    data: WeightedDraws

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "data", WeightedDraws(**fields))

    @classmethod
    def of(cls, draws: WeightedDraws) -> Posterior:
        """The posterior of these draws."""
        made = object.__new__(cls)
        object.__setattr__(made, "data", draws)
        return made

    def replace(self, **changes: Any) -> Posterior:
        """A copy with some fields changed."""
        return Posterior.of(self.data.replace(**changes))

    def __copy__(self) -> Posterior:
        return self  # Nothing in it changes, and models are not copied.

    def __deepcopy__(self, memo: object) -> Posterior:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: all that is saved, but for the guide."""
        kept = {k: getattr(self.data, k) for k, kind in KINDS.items() if kind.is_saved}
        if self.data.guide is not None and _NO_GUIDE not in self.warnings:
            kept["warnings"] = (*self.warnings, _NO_GUIDE)
        module, _, name = _UNPICKLES.partition(":")
        return getattr(importlib.import_module(module), name), (kept,)

    # What was drawn -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Draw | TextDraw]:
        """The draws one by one; see `draws`."""
        return self.draws()

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Draw | TextDraw]: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Draw | TextDraw: ...
    def __getitem__(self, key: str | slice | SupportsIndex) -> Any:
        """The values of a returned name or of a site, `[draws]`: strings as a list, numbers as an
        array. By a number, that draw, and by a slice a list of draws, with the weights that they
        have here; `select` makes a posterior of some draws."""
        return self.data.column(key) if isinstance(key, str) else selection.picked(self.data, key)

    def __contains__(self, name: object) -> bool:
        return name in self.data

    @property
    def names(self) -> tuple[str, ...]:
        """The returned names in order."""
        return tuple(self.data.outputs)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The names of the latent choices in program order."""
        return tuple(self.data.sites)

    @property
    def potential_labels(self) -> tuple[str, ...]:
        """The labels of the factors and requires in program order."""
        return tuple(self.data.log_potentials)

    @property
    def texts(self) -> list[str]:
        """The draws of the first text returned; of the first text site where none is returned."""
        return self.data.first_text()

    def tokens(self, name: str | None = None) -> NDArray[np.int64]:
        """Token ids `[draws, length]` of a text, padded at the end; see `lengths`."""
        return self.data.text(name)[0]

    def lengths(self, name: str | None = None) -> NDArray[np.int64]:
        """The number of tokens of a text, `[draws]`, the end token counted."""
        return self.data.text(name)[1]

    def draws(self) -> Iterator[Draw | TextDraw]:
        """The draws one by one, those of weight zero too: a text with the rest as its attributes
        (`TextDraw`) where the program returns a single text, else a mapping (`Draw`)."""
        return (self.draw(index) for index in range(len(self)))

    def draw(self, index: int) -> Draw | TextDraw:
        """One of `draws`, by its index."""
        return self.data.draw(index)

    # What the draws weigh -----------------------------------------------------------------------

    @property
    def log_weights(self) -> Floats:
        """Normalised log weights `[draws]` in nats; −inf is a dead draw."""
        return self.data.log_weights

    @property
    def weights(self) -> Floats:
        """Normalised weights `[draws]`; they sum to one."""
        return self.data.weights

    @property
    def log_prior(self) -> Floats:
        """Log probability of each draw under the prior, `[draws]`, in nats."""
        return self.data.log_prior_of_draws()

    def log_potential(self, label: str) -> Floats:
        """The value of a factor or require on each draw, `[draws]`, in nats."""
        return self.data.log_potential(label)

    @property
    def log_density(self) -> Floats:
        """Unnormalised log density of each draw, `[draws]`: prior and potentials."""
        return self.data.log_density

    @property
    def log_evidence(self) -> Estimate | None:
        """The log evidence in nats, or None: `log_evidence_reason` says why."""
        return None if self.data.log_evidence is None else self.data.drawn(self.data.log_evidence)

    @property
    def log_evidence_reason(self) -> str:
        """Why there is no log evidence; empty where there is one."""
        return self.data.log_evidence_reason

    def prompts(self, name: str | None = None) -> list[str]:
        """What each draw of a text continues, `[draws]`; of the first text by default."""
        return self.data.prompts_of(name)

    @property
    def kl_to_prior(self) -> Estimate | None:
        """KL(posterior ‖ prior) in nats: the mean of all factors less the log evidence. None
        where there is no estimate of that, as for chains. One prior draw in e^KL is kept."""
        return meaning.kl_to_prior(self.data)

    @property
    def kl_from_guide(self) -> Estimate | None:
        """KL(guide ‖ posterior) in nats, the gap between the evidence and the ELBO of svi, or None.
        Mass that the guide never visits is not in it."""
        return meaning.kl_from_guide(self.data)

    def perplexity(self, site: str | None = None, *, confidence: float = 0.95) -> Estimate:
        """Perplexity per token of the draws under the prior: exp(E[−log prior] / E[tokens])."""
        return meaning.perplexity(self.data, site, confidence)

    def probabilities(self, name: str, *, confidence: float = 0.95) -> dict[Any, Estimate]:
        """The probability of every value of a choice or a returned name, likeliest first."""
        return meaning.probabilities(self.data, name, confidence)

    def prior_expectation(self, f: Question, *, confidence: float = 0.95) -> Estimate:
        """The mean of f under the prior, restricted to every `require`. Draws of exact and
        importance tell; of rejection and svi the mean of a factor is kept, by its label."""
        return meaning.prior_expectation(self.data, f, confidence)

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """Equal numbers mark draws that may depend on each other, `[draws]`."""
        return self.data.clusters

    @property
    def num_chains(self) -> int | None:
        """The number of Markov chains that the draws are laid out in, or None."""
        return self.data.num_chains

    @property
    def enumerated(self) -> bool:
        """Whether the draws are the whole support with exact weights."""
        return self.data.enumerated

    @property
    def num_independent(self) -> float:
        """How many independent draws these are worth, chains by what is slowest in them."""
        return questions.num_independent(self.data)

    @property
    def unseen(self) -> Unseen | None:
        """What the draws may have missed; None where a further draw is like those there are."""
        return self.data.unseen

    # What is known of the run -------------------------------------------------------------------

    @property
    def diagnostics(self) -> Mapping[str, Any]:
        """Numbers about the run by name."""
        return ReadOnly(self.data.diagnostics)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before trusting the draws, in plain words."""
        return self.data.warnings

    @property
    def checks(self) -> Mapping[str, bool]:
        """Named checks that were made of the result."""
        return ReadOnly(self.data.checks)

    @property
    def expectations(self) -> tuple[ExpectationResult, ...]:
        """Each `expect` of the file with its estimate and verdict."""
        return self.data.expectations

    @property
    def info(self) -> Mapping[str, Any]:
        """Traces of the run: per-step effective sample sizes, an ELBO curve and the like."""
        return MappingProxyType(dict(self.data.info))

    @property
    def guide(self) -> Any:
        """The fitted guide, or None; that of a loaded posterior is loaded when it is first used."""
        guide = self.data.guide
        return guide.loaded() if isinstance(guide, DeferredGuide) else guide

    @property
    def method(self) -> str:
        """The name of the method that was run."""
        return self.data.method

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What was run: settings, seed, versions and digests; `json.dumps` takes it."""
        return ReadOnly(readable(self.data.manifest))

    @property
    def complete(self) -> bool:
        """False where the run was interrupted or ran out of its budget."""
        return self.data.complete

    # Expectations -------------------------------------------------------------------------------

    def expectation(
        self, f: Question, *, bounds: Range | None = None, confidence: float = 0.95
    ) -> Estimate:
        """The posterior mean of f with its standard error and an interval.

        `f` is a function of a draw (see `draws`), an expression of the language such as
        `"sentiment(text)"`, or its values `[draws]`. Where the expression asks for another
        statistic, as in an `expect` line, that is what is returned: `"std(sentiment(text))"`.
        `bounds` is the range of f; `lmppl.posterior.questions` has the mathematics.

        Raises: ValueError where f is not a finite number on a draw of positive weight.
        """
        return self.statistic(f, MEAN, bounds=bounds, confidence=confidence)

    def factor_mean(self, label: str, *, confidence: float = 0.95) -> Estimate:
        """The posterior mean of a factor, in nats."""
        return questions.factor_mean(self.data, label, confidence)

    def statistic(
        self,
        f: Question,
        statistic: Statistic = MEAN,
        *,
        q: float | None = None,
        bounds: Range | None = None,
        confidence: float = 0.95,
    ) -> Estimate:
        """The mean, probability, quantile (at level `q`) or standard deviation of f."""
        return questions.statistic(
            self.data, f, statistic, q=q, bounds=bounds, confidence=confidence
        )

    def std(self, f: Question, **options: Any) -> Estimate:
        """The posterior standard deviation of f; `statistic` has the options."""
        return self.statistic(f, STD, **options)

    def quantile(self, f: Question, q: float, **options: Any) -> Estimate:
        """The value that f is below with posterior probability q; `statistic` has the options."""
        return self.statistic(f, QUANTILE, q=q, **options)

    def probability(self, condition: Question, **options: Any) -> Estimate:
        """The posterior probability of a condition; `statistic` has the options."""
        return self.statistic(condition, PROBABILITY, **options)

    def values_of(self, f: Question) -> NDArray[Any]:
        """The values of f on the draws, `[draws]`, boolean where they are conditions."""
        return questions.values_of(self.data, f)

    def judge(self, *claim: Any, **options: Any) -> ExpectationResult:
        """Whether a claim holds: `lmppl.posterior.claims.judge` of these draws."""
        return claims.judge(self.data, *claim, **options)

    # Fewer, other or fresh draws ----------------------------------------------------------------

    def resample(self, n: int | None = None, seed: int = 0) -> Posterior:
        """`n` unweighted draws, some of them copies, which standard errors know; else as many."""
        return self.select(selection.resampled_indices(self.data, n, seed), weighted=False)

    def select(self, indices: Any, *, weighted: bool = True) -> Posterior:
        """The draws at some indices, in that order, with their weights or with equal ones;
        `indices` may also be a truth value for each draw, `[draws]`."""
        return Posterior.of(selection.selected(self.data, indices, weighted=weighted))

    def sample(self, n: int, seed: int = 0) -> Posterior:
        """`n` fresh draws from the fitted guide; without a guide, `resample(n, seed)`."""
        sampler: Callable[[int, int], Posterior] | None = self.data.sampler
        return self.resample(n, seed) if sampler is None else sampler(n, seed)

    # For people and for other tools -------------------------------------------------------------

    def summary(self, num_draws: int = 8, width: int | None = None) -> str:
        """A plain text for people: draws, evidence, effective sample size, claims, warnings."""
        return summarise(self.data, num_draws=num_draws, width=width)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"<Posterior of {len(self)} draws by {self.method or 'unknown'}{state}>"

    def _repr_html_(self) -> str:
        return html.fragment(self.data)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Writes a self-contained HTML page about the result."""
        html.write_report(self.data, path)

    def to_pandas(self) -> Any:
        """A data frame (of pandas) with a row for each draw: values, weights, log densities."""
        return export.to_pandas(self.data)

    def to_arviz(self, *, weighted: bool = False) -> Any:
        """ArviZ data with every numeric value and the log density, `[chain, draw]`.

        ArviZ's statistics know no weights: weighted draws are resampled (seed 0), so that its
        means are right. With `weighted=True` they stay as they are, and whoever uses them must use
        the `log_weight` of `sample_stats`. The attributes say which, and hold the log evidence.
        """
        return export.to_arviz(self.data, weighted=weighted)

    def to_jsonl(self, path: str | os.PathLike[str] | TextIO) -> None:
        """One JSON object a line for each draw; "-Infinity", "Infinity", "NaN" are strings."""
        export.to_jsonl(self.data, path)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes all of it, or nothing, to a directory, in place of what was saved there before.

        Raises: FileExistsError where lmppl did not write all that is in the directory.
        """
        save_draws(self.data, directory)
