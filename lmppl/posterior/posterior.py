"""Weighted draws with everything that is known of them."""

from __future__ import annotations

import dataclasses
import importlib
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsIndex, TextIO, overload

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import closest
from lmppl.posterior import statistics
from lmppl.posterior.cells import Cells
from lmppl.posterior.chains import autocorrelation_ess
from lmppl.posterior.deferred import DeferredGuide
from lmppl.posterior.draw import Draw, TextDraw
from lmppl.posterior.estimate import Estimate, cluster_sums, log_mean_exp
from lmppl.posterior.expectation import ExpectationResult, Statistic, verdict_of
from lmppl.posterior.features import text_features
from lmppl.posterior.plain import ReadOnly, frozen_array, plain, readable, readonly
from lmppl.posterior.statistics import ANYTHING, Range, Sample
from lmppl.posterior.unseen import Unseen

Floats = NDArray[np.float64]
Function = Callable[[Any], Any]

_FIELDS = (
    "sites",
    "outputs",
    "tokens",
    "log_weights",
    "log_prior",
    "log_priors",
    "prompts",
    "log_potentials",
    "log_evidence",
    "log_evidence_reason",
    "clusters",
    "num_chains",
    "enumerated",
    "unseen",
    "ranges",
    "diagnostics",
    "warnings",
    "checks",
    "expectations",
    "method",
    "manifest",
    "complete",
    "info",
    "program",
    "evaluator",
    "sampler",
    "guide",
)

# How the arguments are kept that do not describe single draws.
_KEPT_APART: dict[str, Callable[[Any], Any]] = {
    "diagnostics": lambda value: plain(value or {}),
    "info": lambda value: plain(value or {}),
    "manifest": lambda value: plain(value or {}),
    "checks": lambda value: {name: bool(holds) for name, holds in (value or {}).items()},
    "warnings": tuple,
    "expectations": tuple,
    "complete": bool,
}

# What holds on to a model, and is neither saved nor pickled.
_FUNCTIONS = ("evaluator", "sampler", "guide")

_NO_GUIDE = (
    "the fitted guide was left out when this result was pickled: `sample` draws from these draws"
    " again; `save` keeps the guide"
)

# Squares of numbers beyond this, times a number of draws, may be infinite.
_HUGE = 1e140

# Diagnostics that describe a set of draws, and say nothing of others taken from it.
_OF_THESE_DRAWS = frozenset(
    (
        "ess max_weight pareto_k pareto_k_reason num_unique_draws r_hat_limit"
        " r_hat ess_bulk ess_tail chains num_chains_that_never_moved"
    ).split()
)


class Posterior:
    """Weighted draws from the posterior of a model, with evidence, diagnostics and a manifest.

    Built by an engine from plain data; nothing in it can be changed afterwards (`replace` makes a
    changed copy). All arguments are `[draws]` or by name `[draws]`:

    `sites` and `outputs` are the values of the latent choices and of the returned names (in
    order); `tokens` has, by text site, ids `[draws, length]` and lengths `[draws]`; `log_weights`
    are accepted unnormalised (nats, −inf is a dead draw) and kept normalised; `log_potentials`
    holds every factor and require by label, in nats; `log_priors` the log prior of every site,
    whose sum is `log_prior`. `prompts` has what each text continues: one string, or `[draws]`.

    What the draws owe each other decides their standard errors. `clusters` numbers the draws:
    equal numbers (the same SMC ancestor, the same run) may depend on each other. `num_chains`
    says instead that the draws are `[chains, draws]` flattened, and autocorrelation counts. With
    neither, draws are independent. `enumerated` says that the draws are the whole support with
    exact weights, so that expectations have no error at all. `unseen` says what the draws may have
    missed; without it they are taken for draws like any further ones. `ranges` has, by output, site
    or factor, the least and largest value that it can have.

    `program` is what a loaded posterior needs to evaluate expressions again: the source, where its
    files lie, and `texts` with what the token ids of each text do not tell, `[draws]`.

    `evaluator` maps an expression of the language to its values on the draws, and its
    `range_of(source)` and `cells_of(source)`, where it has them, to their range and `Cells`;
    `sampler` draws `(n, seed)` afresh from the fitted guide. Neither is saved.
    """

    __slots__ = ("_data", "_rows")

    def __init__(
        self,
        *,
        sites: Mapping[str, Sequence[Any] | NDArray[Any]],
        log_weights: Any,
        outputs: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
        tokens: Mapping[str, tuple[Any, Any]] | None = None,
        log_prior: Any = None,
        log_priors: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str | Sequence[str]] | None = None,
        log_potentials: Mapping[str, Any] | None = None,
        log_evidence: Estimate | None = None,
        log_evidence_reason: str = "",
        clusters: Any = None,
        num_chains: int | None = None,
        enumerated: bool = False,
        unseen: Unseen | None = None,
        ranges: Mapping[str, Range] | None = None,
        diagnostics: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
        checks: Mapping[str, bool] | None = None,
        expectations: Sequence[ExpectationResult] = (),
        method: str = "",
        manifest: Mapping[str, Any] | None = None,
        complete: bool = True,
        info: Mapping[str, Any] | None = None,
        program: Mapping[str, Any] | None = None,
        evaluator: Callable[[str], Any] | None = None,
        sampler: Callable[[int, int], Posterior] | None = None,
        guide: Any = None,
    ) -> None:
        log_w = frozen_array(log_weights, np.float64)
        if log_w.ndim != 1 or log_w.size == 0:
            raise ValueError(
                "a posterior needs at least one draw, and log weights of shape [draws]"
            )
        if np.isnan(log_w).any() or np.isposinf(log_w).any():
            raise ValueError("NaN or +inf among the log weights")
        if log_w.max() == -math.inf:
            raise ValueError("every draw has weight zero")
        log_total = log_mean_exp(log_w) + math.log(log_w.size)
        # Weights that are normalised to rounding stay to the bit, so that a copy is equal.
        normalised = log_w if abs(log_total) < 1e-12 else log_w - log_total
        if num_chains is not None and (num_chains < 1 or log_w.size % num_chains):
            raise ValueError(f"{log_w.size} draws cannot be {num_chains} chains of equal length")
        self._rows = log_w.size
        site_columns = {name: self._column(name, values) for name, values in sites.items()}
        self._data: dict[str, Any] = {
            "sites": site_columns,
            "outputs": (
                dict(site_columns)
                if outputs is None
                else {name: self._column(name, values) for name, values in outputs.items()}
            ),
            "tokens": {
                name: (
                    self._sized(name, frozen_array(ids, np.int64)),
                    self._sized(name, frozen_array(lengths, np.int64)),
                )
                for name, (ids, lengths) in (tokens or {}).items()
            },
            "log_weights": readonly(normalised),
            "log_prior": self._floats("log_prior", log_prior),
            "log_priors": {
                name: self._floats(name, values) for name, values in (log_priors or {}).items()
            },
            "prompts": {
                name: value if isinstance(value, str) else self._sized(name, tuple(value))
                for name, value in (prompts or {}).items()
            },
            "log_potentials": {
                label: self._floats(label, values)
                for label, values in (log_potentials or {}).items()
            },
            "log_evidence": log_evidence,
            "log_evidence_reason": log_evidence_reason,
            "clusters": (
                None
                if clusters is None
                else self._sized("clusters", frozen_array(clusters, np.int64))
            ),
            "num_chains": None if num_chains is None else int(num_chains),
            "enumerated": bool(enumerated),
            "unseen": unseen,
            "ranges": {
                name: (float(lower), float(upper))
                for name, (lower, upper) in (ranges or {}).items()
            },
            "diagnostics": plain(diagnostics or {}),
            "warnings": tuple(warnings),
            "checks": {name: bool(value) for name, value in (checks or {}).items()},
            "expectations": tuple(expectations),
            "method": method,
            "manifest": plain(manifest or {}),
            "complete": bool(complete),
            "info": plain(info or {}),
            "program": None if program is None else plain(program),
            "evaluator": evaluator,
            "sampler": sampler,
            "guide": guide,
        }

    def _column(self, name: str, values: Any) -> Any:
        """Numbers as a read-only array `[draws]`, everything else as a tuple of plain values."""
        if not isinstance(values, (list, tuple)):
            values = frozen_array(values)
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            return self._sized(name, values)
        column = [plain(value) for value in values]
        if column and all(isinstance(value, (bool, int, float)) for value in column):
            return self._sized(name, frozen_array(column))
        return self._sized(name, tuple(column))

    def _floats(self, name: str, values: Any) -> Floats | None:
        return None if values is None else self._sized(name, frozen_array(values, np.float64))

    def _sized(self, name: str, column: Any) -> Any:
        if len(column) != self._rows:
            raise ValueError(f"{name} has {len(column)} rows and the posterior {self._rows} draws")
        return column

    def replace(self, **changes: Any) -> Posterior:
        """A copy with some of the constructor's arguments changed."""
        if not changes.keys() <= _KEPT_APART.keys():
            return Posterior(**{**self._data, **changes})
        # The draws stay as they are, so there is nothing to check or to copy.
        copy = object.__new__(Posterior)
        copy._rows = self._rows
        kept = {name: _KEPT_APART[name](value) for name, value in changes.items()}
        copy._data = {**self._data, **kept}
        return copy

    def __copy__(self) -> Posterior:
        return self

    def __deepcopy__(self, memo: object) -> Posterior:
        # Nothing in it changes, so a copy is no use, and models are not copied.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: everything but the functions and the guide, which hold on to a model.

        Expressions can be evaluated again where the program was kept, as after `load_posterior`.
        """
        data = {**self._data, **dict.fromkeys(_FUNCTIONS)}
        if self._data["guide"] is not None and _NO_GUIDE not in self.warnings:
            data["warnings"] = (*self.warnings, _NO_GUIDE)
        # Compiling is done in a room above this one.
        return importlib.import_module("lmppl.reopening").unpickled, (data,)

    def fields(self) -> Mapping[str, Any]:
        """The constructor's arguments as they are kept, for saving and for `replace`."""
        return MappingProxyType(self._data)

    # What was drawn -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._rows

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
        if isinstance(key, slice):
            return [self.draw(index) for index in range(self._rows)[key]]
        if not isinstance(key, str):
            try:
                return self.draw(range(self._rows)[operator.index(key)])
            except IndexError:
                raise IndexError(f"there is no draw {key}: there are {self._rows}") from None
            except TypeError:
                raise TypeError(
                    "a posterior is indexed by a name, the number of a draw or a slice, not by"
                    f" {type(key).__name__}; `select` takes several indices"
                ) from None
        name = key
        for columns in (self._data["outputs"], self._data["sites"]):
            if name in columns:
                column = columns[name]
                return list(column) if isinstance(column, tuple) else column
        known = ", ".join(dict.fromkeys([*self._data["outputs"], *self._data["sites"]]))
        guess = closest(name, known.split(", "))
        maybe = f"; did you mean {guess!r}?" if guess else f"; it has {known}"
        raise KeyError(f"no value {name!r} in this posterior{maybe}")

    def __contains__(self, name: object) -> bool:
        return name in self._data["outputs"] or name in self._data["sites"]

    @property
    def names(self) -> tuple[str, ...]:
        """The returned names in order."""
        return tuple(self._data["outputs"])

    @property
    def site_names(self) -> tuple[str, ...]:
        """The names of the latent choices in program order."""
        return tuple(self._data["sites"])

    @property
    def potential_labels(self) -> tuple[str, ...]:
        """The labels of the factors and requires in program order."""
        return tuple(self._data["log_potentials"])

    @property
    def texts(self) -> list[str]:
        """The draws of the first text returned; of the first text site where none is returned.

        The value of a choice among strings is no text.
        """
        sites, drawn = self._data["sites"], self._data["tokens"]
        # Of draws that were put together by hand it is not known which strings were chosen.
        is_known = bool(drawn) or "language_models" in self._data["manifest"]
        choices = [column for name, column in sites.items() if is_known and name not in drawn]
        for name, column in (*self._data["outputs"].items(), *sites.items()):
            is_text = isinstance(column, tuple) and all(isinstance(v, str) for v in column)
            if name in drawn or (is_text and not any(column is c or column == c for c in choices)):
                return list(column)
        raise KeyError("this posterior has no text")

    def tokens(self, name: str | None = None) -> NDArray[np.int64]:
        """Token ids `[draws, length]` of a text, padded at the end; see `lengths`."""
        ids: NDArray[np.int64] = self._text(name)[0]
        return ids

    def lengths(self, name: str | None = None) -> NDArray[np.int64]:
        """The number of tokens of a text, `[draws]`, the end token counted."""
        lengths: NDArray[np.int64] = self._text(name)[1]
        return lengths

    def _text(self, name: str | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        texts = self._data["tokens"]
        if name is None and texts:
            name = next((output for output in self.names if output in texts), next(iter(texts)))
        if name not in texts:
            known = ", ".join(texts) or "none"
            raise KeyError(f"no tokens of a text {name!r}; those kept are of: {known}")
        pair: tuple[NDArray[np.int64], NDArray[np.int64]] = texts[name]
        return pair

    def draws(self) -> Iterator[Draw | TextDraw]:
        """The draws one by one, those of weight zero too.

        Where the program returns a single text, a draw is that text with the other values as
        attributes (`TextDraw`), else a mapping with attributes (`Draw`).
        """
        return (self.draw(index) for index in range(self._rows))

    def draw(self, index: int) -> Draw | TextDraw:
        """One draw by its index."""
        columns = {**self._data["sites"], **self._data["outputs"]}
        values = {name: _scalar(column[index]) for name, column in columns.items()}
        log_weight = float(self.log_weights[index])
        made = Draw(values, math.exp(log_weight), log_weight)
        if len(self.names) == 1 and isinstance(values[self.names[0]], str):
            return TextDraw(values[self.names[0]], made)
        return made

    # What the draws weigh -----------------------------------------------------------------------

    @property
    def log_weights(self) -> Floats:
        """Normalised log weights `[draws]` in nats; −inf is a dead draw."""
        log_w: Floats = self._data["log_weights"]
        return log_w

    @property
    def weights(self) -> Floats:
        """Normalised weights `[draws]`; they sum to one."""
        return np.asarray(np.exp(self.log_weights))

    @property
    def log_prior(self) -> Floats:
        """Log probability of each draw under the prior, `[draws]`, in nats."""
        return self._kept("log_prior")

    def log_potential(self, label: str) -> Floats:
        """The value of a factor or require on each draw, `[draws]`, in nats."""
        potentials = self._data["log_potentials"]
        if label not in potentials:
            known = ", ".join(potentials) or "none"
            raise KeyError(f"no potential {label!r} in this posterior; its labels are: {known}")
        values: Floats = potentials[label]
        return values

    @property
    def log_density(self) -> Floats:
        """Unnormalised log density of the posterior on each draw, `[draws]`: prior and
        potentials."""
        total = np.array(self.log_prior)
        for values in self._data["log_potentials"].values():
            total += values
        return total

    def _kept(self, name: str) -> Floats:
        values: Floats | None = self._data[name]
        if values is None:
            raise KeyError(
                f"this posterior does not keep the {name.replace('_', ' ')} of its draws"
            )
        return values

    @property
    def log_evidence(self) -> Estimate | None:
        """The log evidence in nats, or None: `log_evidence_reason` says why."""
        estimate: Estimate | None = self._data["log_evidence"]
        return None if estimate is None else self._drawn(estimate)

    def _drawn(self, estimate: Estimate) -> Estimate:
        """The estimate with the name of the random numbers that this posterior was drawn from."""
        seed = self._data["manifest"].get("seed")
        if seed is None or estimate.kind == "exact":
            return estimate
        return dataclasses.replace(estimate, drawn_from=frozenset({f"seed {seed}"}))

    @property
    def log_evidence_reason(self) -> str:
        """Why there is no log evidence; empty where there is one."""
        return str(self._data["log_evidence_reason"])

    def prompts(self, name: str | None = None) -> list[str]:
        """What each draw of a text continues, `[draws]`; of the first text by default."""
        kept = self._data["prompts"]
        if name is None and kept:
            name = next((output for output in self.names if output in kept), next(iter(kept)))
        if name not in kept:
            raise KeyError(f"no prompts of a text {name!r}; kept are: {', '.join(kept) or 'none'}")
        value = kept[name]
        return [value] * self._rows if isinstance(value, str) else list(value)

    @property
    def kl_to_prior(self) -> Estimate | None:
        """KL(posterior ‖ prior) in nats: the mean of all factors less the log evidence.

        None where there is no estimate of the evidence, as for chains. Keeping one prior draw in
        e^KL is as selective.
        """
        from lmppl.posterior.meaning import kl_to_prior

        return kl_to_prior(self)

    @property
    def kl_from_guide(self) -> Estimate | None:
        """KL(guide ‖ posterior) in nats, the gap between the evidence and the ELBO of svi, or None.

        Mass that the guide never visits is not in it.
        """
        from lmppl.posterior.meaning import kl_from_guide

        return kl_from_guide(self)

    def perplexity(self, site: str | None = None, *, confidence: float = 0.95) -> Estimate:
        """Perplexity per token of the draws under the prior, of one text or of all together.

        exp(E[−log prior] / E[tokens]), the end token counted.

        Raises: ValueError where there is no text, or its log prior was not kept.
        """
        from lmppl.posterior.meaning import perplexity

        return perplexity(self, site, confidence)

    def probabilities(self, name: str, *, confidence: float = 0.95) -> dict[Any, Estimate]:
        """The probability of every value of a choice or a returned name, likeliest first.

        Values of a `categorical` or `bernoulli` that no draw has are there with their intervals.

        Raises: KeyError for a name that is not there; ValueError for values that are no categories.
        """
        from lmppl.posterior.meaning import probabilities

        return probabilities(self, name, confidence)

    def prior_expectation(self, f: Function | str | Any, *, confidence: float = 0.95) -> Estimate:
        """The mean of f before the factors: under the prior, restricted to every `require`.

        A factor of −∞ rules out what a requirement would.
        `f` as in `expectation`; an expression may name the statistic itself, as
        `"quantile(sentiment(text), 0.9)"`. Only draws of exact (enumerated) and importance tell; of
        rejection and svi the mean of a factor is kept, by its label.

        Raises: ValueError for draws of another method.
        """
        from lmppl.posterior.meaning import prior_expectation

        return prior_expectation(self, f, confidence)

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """Equal numbers mark draws that may depend on each other, `[draws]`."""
        numbers: NDArray[np.int64] | None = self._data["clusters"]
        return numbers

    @property
    def num_chains(self) -> int | None:
        """The number of Markov chains that the draws are laid out in, or None."""
        number: int | None = self._data["num_chains"]
        return number

    @property
    def enumerated(self) -> bool:
        """Whether the draws are the whole support with exact weights."""
        return bool(self._data["enumerated"])

    @property
    def num_independent(self) -> float:
        """How many independent draws these are worth, of those that count in the weights; of chains
        by the slowest thing that can be told of them."""
        if self.num_chains is not None:
            return min(self._mixing(), float(self._rows))
        shares = cluster_sums(self.weights, self.clusters)
        return float(1.0 / np.sum(shares**2))

    @property
    def unseen(self) -> Unseen | None:
        """What the draws may have missed; None where a further draw is like those there are."""
        what: Unseen | None = self._data["unseen"]
        return what

    # What is known of the run -------------------------------------------------------------------

    @property
    def diagnostics(self) -> Mapping[str, Any]:
        """Numbers about the run by name."""
        return ReadOnly(self._data["diagnostics"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before trusting the draws, in plain words."""
        words: tuple[str, ...] = self._data["warnings"]
        return words

    @property
    def checks(self) -> Mapping[str, bool]:
        """Named checks that were made of the result."""
        return ReadOnly(self._data["checks"])

    @property
    def expectations(self) -> tuple[ExpectationResult, ...]:
        """Each `expect` of the file with its estimate and verdict."""
        results: tuple[ExpectationResult, ...] = self._data["expectations"]
        return results

    @property
    def info(self) -> Mapping[str, Any]:
        """Traces of the run: per-step effective sample sizes, an ELBO curve and the like."""
        return MappingProxyType(self._data["info"])

    @property
    def guide(self) -> Any:
        """The fitted guide, or None; that of a loaded posterior is loaded when it is first used."""
        guide = self._data["guide"]
        return guide.loaded() if isinstance(guide, DeferredGuide) else guide

    @property
    def method(self) -> str:
        """The name of the method that was run."""
        return str(self._data["method"])

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What was run: settings, seed, versions and digests; `json.dumps` takes it."""
        found: Mapping[str, Any] = readable(self._data["manifest"])
        return found

    @property
    def complete(self) -> bool:
        """False where the run was interrupted or ran out of its budget."""
        return bool(self._data["complete"])

    # Expectations -------------------------------------------------------------------------------

    def expectation(
        self, f: Function | str | Any, *, bounds: Range | None = None, confidence: float = 0.95
    ) -> Estimate:
        """The posterior mean of f with its standard error.

        `f` is a function of a draw (see `draws`), an expression of the language such as
        `"sentiment(text)"`, or its values `[draws]`. Where the expression asks for another
        statistic, as in an `expect` line, that is what is returned: `"std(sentiment(text))"`,
        `"quantile(sentiment(text), 0.9)"`, `"probability(short)"`.

        The mean is Σ W f over the normalised weights; the error is the delta method's for a
        self-normalised mean, summed by cluster; for chains it comes from the autocorrelation of f;
        for an enumerated posterior it is 0.

        The interval is Gaffke's, within the range of f: `bounds`, or what is known of an expression
        or a condition (see `lmppl.posterior.mean_bounds`). It counts with one more draw at the end
        of the range, of the largest weight that is possible, so that "never seen" does not become
        "impossible". Where the range is not known, it is taken to reach as far beyond the values
        as they are apart; values that are all alike then give an infinite interval.

        Raises: ValueError where f is not a finite number on a draw of positive weight.
        """
        return self.statistic(f, "mean", bounds=bounds, confidence=confidence)

    def factor_mean(self, label: str, *, confidence: float = 0.95) -> Estimate:
        """The posterior mean of a factor, in nats.

        Raises: ValueError where it is −∞ on a draw of positive weight, as no factor of a draw is.
        """
        bounds = self._data["ranges"].get(label)
        return self.expectation(self.log_potential(label), bounds=bounds, confidence=confidence)

    def statistic(
        self,
        f: Function | str | Any,
        statistic: Statistic = "mean",
        *,
        q: float | None = None,
        bounds: Range | None = None,
        confidence: float = 0.95,
    ) -> Estimate:
        """The mean, probability, quantile (at level `q`) or standard deviation of f.

        `f` and `bounds` as in `expectation`; see `lmppl.posterior.statistics` for the intervals.
        """
        if isinstance(f, str) and statistic == "mean":
            asked = getattr(self._data["evaluator"], "asked", None)
            if asked is not None:
                statistic, f, q = asked(f)
        x, known = self._numbers(f, statistic, bounds)
        cells = self._cells_of(f) if bounds is None else ()
        found = self._statistic(x, statistic, q, self._extended(known, x), confidence, cells)
        return self._drawn(found)

    def std(self, f: Function | str | Any, **options: Any) -> Estimate:
        """The posterior standard deviation of f; `statistic` has the options."""
        return self.statistic(f, "std", **options)

    def quantile(self, f: Function | str | Any, q: float, **options: Any) -> Estimate:
        """The value that f is below with posterior probability q; `statistic` has the options."""
        return self.statistic(f, "quantile", q=q, **options)

    def probability(self, condition: Function | str | Any, **options: Any) -> Estimate:
        """The posterior probability of a condition; `statistic` has the options."""
        return self.statistic(condition, "probability", **options)

    def _numbers(
        self, f: Function | str | Any, statistic: Statistic, bounds: Range | None
    ) -> tuple[Floats, Range]:
        """The values of f `[draws]`, 0 where the weight is, and the range that is known of it."""
        values = self.values_of(f)
        is_condition = values.dtype.kind == "b"
        if statistic == "probability" and not is_condition:
            raise ValueError("a probability is of something that is true or false")
        x = values.astype(np.float64)
        alive = self.log_weights > -math.inf
        if not np.isfinite(x[alive]).all():
            raise ValueError("the function is not a finite number on every draw")
        if bounds is None:
            bounds = (0.0, 1.0) if is_condition else self._range_of(f)
        return np.where(alive, x, 0.0), bounds

    def _range_of(self, f: Function | str | Any) -> Range:
        if not isinstance(f, str):
            return ANYTHING
        ranges: dict[str, Range] = self._data["ranges"]
        if f.strip() in ranges and f.strip() in self:
            return ranges[f.strip()]
        range_of = getattr(self._data["evaluator"], "range_of", None)
        return ANYTHING if range_of is None else range_of(f)

    def _cells_of(self, f: Function | str | Any) -> tuple[Cells, ...]:
        """What an expression can be where draws are heavy, as far as its program tells."""
        cells_of = getattr(self._data["evaluator"], "cells_of", None)
        return cells_of(f) if isinstance(f, str) and cells_of is not None else ()

    def _statistic(
        self,
        x: Floats,
        statistic: Statistic,
        q: float | None,
        bounds: Range,
        confidence: float,
        cells: tuple[Cells, ...],
    ) -> Estimate:
        sample = dataclasses.replace(self._sample(), cells=cells)
        alive = x[sample.alive]
        largest = float(np.abs(alive).max())
        if largest > _HUGE:
            # Squares would be infinite; everything here scales with the values.
            scale = 2.0 ** (math.frexp(largest)[1] - 1)
            smaller = bounds[0] / scale, bounds[1] / scale
            return self._statistic(x / scale, statistic, q, smaller, confidence, ()) * scale
        # Values outside of a range that was given widen it.
        bounds = min(bounds[0], float(alive.min())), max(bounds[1], float(alive.max()))
        if statistic == "quantile":
            if q is None or not 0.0 <= q <= 1.0:
                raise ValueError(f"a quantile needs a level q in [0, 1], not {q}")
            return statistics.quantile(sample, x, q, bounds, confidence)
        if statistic == "std":
            return statistics.standard_deviation(sample, x, bounds, confidence)
        return statistics.mean(sample, x, bounds, confidence)

    def _extended(self, known: Range, x: Floats) -> Range:
        """The range with what is not known of it assumed, where the draws say anything of it."""
        sample = self._sample()
        return known if sample.is_single else statistics.extended(known, x[sample.alive])

    def _sample(self) -> Sample:
        return Sample(
            self.weights, self.clusters, self.num_chains, self.enumerated, self.unseen, self._mixing
        )

    def _mixing(self) -> float:
        """The smallest effective sample size of what can be told of the chains' draws."""
        chains = self.num_chains or 1
        sizes = [autocorrelation_ess(x.reshape(chains, -1)) for x in text_features(self).values()]
        if self._data["log_prior"] is not None:
            sizes.append(autocorrelation_ess(self.log_density.reshape(chains, -1)))
        known = [size for size in sizes if not math.isnan(size)]
        return min(known) if known else float(chains)

    def values_of(self, f: Function | str | Any) -> NDArray[Any]:
        """The values of f on the draws, `[draws]`, boolean where they are conditions.

        A function is called on draws of positive weight only; the others read as 0.
        """
        if isinstance(f, str):
            values = frozen_array(self._evaluate(f))
        elif callable(f):
            alive = np.flatnonzero(self.log_weights > -math.inf)
            results = [plain(f(self.draw(int(index)))) for index in alive]
            wrong = next((r for r in results if not isinstance(r, (bool, int, float))), None)
            if wrong is not None or None in results:
                raise ValueError(f"the function of a draw returned {wrong!r}, which is no number")
            dtype = np.bool_ if all(isinstance(r, bool) for r in results) else np.float64
            values = np.zeros(self._rows, dtype=dtype)
            values[alive] = results
        else:
            values = frozen_array(f)
        if values.shape != (self._rows,) or values.dtype.kind not in "biuf":
            raise ValueError(
                f"expected one number for each of {self._rows} draws, got shape {values.shape}"
            )
        return values

    def _evaluate(self, source: str) -> Any:
        evaluator = self._data["evaluator"]
        if evaluator is not None:
            return evaluator(source)
        name = source.strip()
        if name in self:
            return self[name]
        raise ValueError(
            f"cannot evaluate {source!r}: a posterior that was saved or pickled without its program"
            f" knows the names {', '.join([*self.names])}; give a Python function of a draw instead"
        )

    def judge(
        self,
        label: str,
        source: str,
        statistic: Statistic,
        values: Function | str | Any,
        operator: str,
        bound: float,
        *,
        q: float | None = None,
        bounds: Range | None = None,
        confidence: float = 0.99,
    ) -> ExpectationResult:
        """Whether a claim `statistic(values) operator bound` holds of the posterior.

        `values` and `bounds` as in `expectation`. It holds, or fails, where the interval at
        `confidence` lies on one side of the bound, and is undecided otherwise: also where the
        interval rests on an assumed range, or on draws that cannot have seen all that matters.
        """
        bases = self.claim_estimates(statistic, values, q=q, bounds=bounds, confidence=confidence)
        return self.verdict_on(label, source, statistic, bases, operator, bound)

    def claim_estimates(
        self,
        statistic: Statistic,
        values: Function | str | Any,
        *,
        q: float | None = None,
        bounds: Range | None = None,
        cells: tuple[Cells, ...] | None = None,
        confidence: float = 0.99,
    ) -> tuple[Estimate, Estimate]:
        """What a claim is judged by: the estimate that is shown, and one that assumes no range.

        `cells` are those of the expression, by default what its program tells.
        """
        x, known = self._numbers(values, statistic, bounds)
        if cells is None:
            cells = self._cells_of(values) if bounds is None else ()
        extended = self._extended(known, x)
        shown = self._statistic(x, statistic, q, extended, confidence, cells)
        if extended == known:
            return shown, shown
        return shown, self._statistic(x, statistic, q, known, confidence, cells)

    def verdict_on(
        self,
        label: str,
        source: str,
        statistic: Statistic,
        bases: tuple[Estimate, Estimate],
        operator: str,
        bound: float,
    ) -> ExpectationResult:
        """The verdict of `judge`, from what `claim_estimates` gave."""
        shown, strict = bases
        verdict, reason = verdict_of(shown, operator, bound), ""
        if verdict != "undecided" and shown.kind != "exact":
            if self.unseen is not None and self.unseen.reason:
                reason = self.unseen.reason
            elif verdict_of(strict, operator, bound) == "undecided":
                reason = "the range of its values is not known: declare that of the reward"
        return ExpectationResult(
            label=label,
            source=source,
            estimate=shown,
            verdict="undecided" if reason else verdict,
            statistic=statistic,
            operator=operator,
            bound=float(bound),
            reason=reason,
        )

    # Fewer, other or fresh draws ----------------------------------------------------------------

    def resample(self, n: int | None = None, seed: int = 0) -> Posterior:
        """`n` unweighted draws, independent given these ones; as many as there are by default.

        They are not better than the weighted draws they come from: standard errors know which of
        them are copies.
        """
        return self.select(self.resampled_indices(n, seed), weighted=False)

    def resampled_indices(self, n: int | None = None, seed: int = 0) -> NDArray[np.int64]:
        """Which draws `resample` takes, `[n]`."""
        count = self._rows if n is None else n
        if count < 1:
            raise ValueError(f"cannot draw {count} times")
        cumulative = np.cumsum(self.weights)
        points = np.random.Generator(np.random.Philox(seed)).random(count) * cumulative[-1]
        points = np.minimum(points, np.nextafter(cumulative[-1], 0.0))
        return np.asarray(np.searchsorted(cumulative, points, side="right"), dtype=np.int64)

    def select(self, indices: Any, *, weighted: bool = True) -> Posterior:
        """The draws at some indices, in that order, with their weights or with equal ones.

        `indices` may also be a truth value for each draw, `[draws]`.

        Raises: IndexError, TypeError where they are none of these draws; ValueError for no draw.
        """
        rows = self._rows_at(indices)
        if self.enumerated and not weighted:
            clusters = None
        elif self.num_chains is not None:
            clusters = (np.arange(self._rows) // (self._rows // self.num_chains))[rows]
        else:
            clusters = (np.arange(self._rows) if self.clusters is None else self.clusters)[rows]
        data = self._data
        log_weights = self.log_weights[rows] if weighted else np.zeros(rows.size)
        evaluator = data["evaluator"]
        return self.replace(
            sites={name: _rows_of(column, rows) for name, column in data["sites"].items()},
            outputs={name: _rows_of(column, rows) for name, column in data["outputs"].items()},
            tokens={name: (ids[rows], ns[rows]) for name, (ids, ns) in data["tokens"].items()},
            log_weights=log_weights,
            log_prior=None if data["log_prior"] is None else data["log_prior"][rows],
            log_priors={name: x[rows] for name, x in data["log_priors"].items()},
            prompts={
                name: value if isinstance(value, str) else _rows_of(value, rows)
                for name, value in data["prompts"].items()
            },
            log_potentials={name: x[rows] for name, x in data["log_potentials"].items()},
            clusters=clusters,
            num_chains=None,
            enumerated=False,
            unseen=self._unseen_beside(rows) if weighted else self.unseen,
            program=_program_of(data["program"], rows),
            diagnostics={
                name: value
                for name, value in data["diagnostics"].items()
                if name not in _OF_THESE_DRAWS
            },
            evaluator=None if evaluator is None else _Selected(evaluator, rows),
        )

    def _rows_at(self, indices: Any) -> NDArray[np.int64]:
        given = np.asarray(indices)
        if given.dtype.kind == "b":
            if given.shape != (self._rows,):
                raise IndexError(f"{given.size} truth values for {self._rows} draws")
            return np.flatnonzero(given)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError("draws are selected by their numbers, or by a truth value for each")
        return given.astype(np.int64)

    def _unseen_beside(self, rows: NDArray[np.int64]) -> Unseen | None:
        """What may have been missed, relative to what only these draws weigh."""
        log_kept = float(np.logaddexp.reduce(self.log_weights[np.unique(rows % self._rows)]))
        # All of them weigh 1 but for rounding; of draws of weight zero nothing is made.
        if self.unseen is None or not -math.inf < log_kept < -1e-9:
            return self.unseen
        return dataclasses.replace(
            self.unseen,
            log_further=self.unseen.log_further - log_kept,
            log_missing=self.unseen.log_missing - log_kept,
        )

    def sample(self, n: int, seed: int = 0) -> Posterior:
        """`n` fresh draws from the fitted guide; without a guide, `resample(n, seed)`."""
        sampler = self._data["sampler"]
        if sampler is None:
            return self.resample(n, seed)
        fresh: Posterior = sampler(n, seed)
        return fresh

    # For people and for other tools -------------------------------------------------------------

    def summary(self, num_draws: int = 8, width: int | None = None) -> str:
        """A plain text for people: draws with weights, evidence, effective sample size, claims,
        warnings with advice."""
        from lmppl.posterior.summary import summarise

        return summarise(self, num_draws=num_draws, width=width)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"<Posterior of {self._rows} draws by {self.method or 'unknown'}{state}>"

    def _repr_html_(self) -> str:
        from lmppl.posterior.html import fragment

        return fragment(self)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Writes a self-contained HTML page about the result."""
        from lmppl.posterior.html import write_report

        write_report(self, path)

    def to_pandas(self) -> Any:
        """A data frame with a row for each draw: returned values, sites, weights, log densities.

        Raises: ImportError where pandas is not installed (`pip install lmppl[pandas]`).
        """
        from lmppl.posterior.export import to_pandas

        return to_pandas(self)

    def to_arviz(self, *, weighted: bool = False) -> Any:
        """ArviZ data with every numeric value and the log density, `[chain, draw]`.

        ArviZ's statistics know no weights: weighted draws are resampled (seed 0), so that its
        means are right. `sample_stats` keeps the `log_weight` of the draw that each is a copy of,
        and its `draw_index`. With `weighted=True` the draws stay as they are, and whoever uses
        them must use `log_weight`. The attributes say which, and hold the log evidence.

        Raises: ImportError where arviz is not installed (`pip install lmppl[arviz]`).
        """
        from lmppl.posterior.export import to_arviz

        return to_arviz(self, weighted=weighted)

    def to_jsonl(self, path: str | os.PathLike[str] | TextIO) -> None:
        """One JSON object a line for each draw; non-finite numbers are the strings "-Infinity",
        "Infinity" and "NaN"."""
        from lmppl.posterior.export import to_jsonl

        to_jsonl(self, path)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the posterior to a directory as JSON and safetensors, all of it or nothing.

        A fitted guide is saved beside it where it can be; functions are not saved. A result that
        was saved there before is replaced.

        Raises: FileExistsError where lmppl did not write all that is in the directory.
        """
        from lmppl.posterior.storage import save_posterior

        save_posterior(self, directory)


class _Selected:
    """The values of expressions on some of the draws."""

    def __init__(self, evaluator: Callable[[str], Any], rows: NDArray[np.int64]) -> None:
        self.evaluator, self.rows = evaluator, rows

    def __call__(self, source: str) -> NDArray[Any]:
        return np.asarray(self.evaluator(source))[self.rows]

    def asked(self, source: str) -> tuple[Statistic, str, float | None]:
        asked = getattr(self.evaluator, "asked", None)
        return ("mean", source, None) if asked is None else asked(source)

    def range_of(self, source: str) -> Range:
        range_of = getattr(self.evaluator, "range_of", None)
        return ANYTHING if range_of is None else range_of(source)

    def cells_of(self, source: str) -> tuple[Cells, ...]:
        cells_of = getattr(self.evaluator, "cells_of", None)
        return () if cells_of is None else cells_of(source)


def _rows_of(column: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(column, tuple):
        return [column[row] for row in rows]
    return column[rows]


def _program_of(program: Any, rows: NDArray[np.int64]) -> Any:
    if program is None:
        return None
    texts = program["texts"].items()
    kept = {name: {key: x[rows] for key, x in columns.items()} for name, columns in texts}
    return {**program, "texts": kept}


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
