"""What a surrogate expects of the texts of a site: made of their requirements, and corrected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.following import Asked, Followed, log_range, weights_of
from lmppl.density.steering.surrogate import Outlook, SurrogateLookahead
from lmppl.density.target import Target
from lmppl.density.text_automaton import weighted_automaton
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import TablesTooLarge, backward, corrected
from lmppl.finite.building import AutomatonTooLarge
from lmppl.finite.columns import ColumnLevels, column_levels
from lmppl.finite.prior import FiniteStateLM
from lmppl.lm.protocol import Prompt
from lmppl.records import brief

# The tokens of a prompt.
Encode = Callable[[Prompt], Sequence[int]]

# What the tables of one automaton may take in memory, in bytes, which bounds the time that they
# take as well: some seconds; and up to which they are made anew when a pilot has corrected them.
# Beyond the latter a surrogate has tables of those states alone that texts are mostly in.
MOST_BYTES = 1 << 27
_MOST_CORRECTED = 1 << 26

# Every kind of tokens that an automaton tells apart takes a product by each table: with more of
# them, as of a list of hundreds of words, tables would take longer than the run.
_MOST_CLASSES = 256

# Where texts weigh as large a share, and more, of the most that a text can weigh, that is found
# without looking ahead: the effective sample size is at least that share of the draws, and what no
# draw of the prior showed is bounded by it, which nothing bounds that a surrogate does not propose.
LIKELY = math.log(0.25)
_LIKELY_IN_WORDS = (
    "most texts meet the requirements as it is",
    "most texts weigh much, of the most that they can, as it is",
)

# A power alone is looked ahead to where as large a share of its weight, and more, is on texts that
# end before they must: where none ends, drawing from p^(1 + c s) does as well.
EARLY = 0.25
_NONE_ENDS = "hardly any text of that power ends before it must"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a surrogate expects of texts that one automaton follows.

    `automaton` has the weights of the target; `log_value` `[T + 1, S, A]` is what the surrogate
    expects of them (float32, but for a prior that is its own surrogate, `is_prior`), where the
    moves of the automaton may be more or less likely than it believes by itself: by e^c with
    `correction` `[A, C]` (None: 0), and then as likely together as before. `log_shares` `[V]` are
    how likely tokens are wherever they stand, where that is known: a large automaton may then have
    tables of some states alone.
    `labels` are those of the factors among what is weighed; with an `exponent` α they take every
    text's own probability to the power α − 1, so that tokens are weighed by the power α of theirs.
    """

    prior: FiniteStateLM
    automaton: WeightedAutomaton
    log_value: Tensor | ColumnLevels
    correction: Tensor | None = None
    log_shares: Tensor | None = None
    labels: frozenset[str] = frozenset()
    is_prior: bool = False
    exponent: float = 1.0

    __repr__ = brief

    @classmethod
    def of(
        cls,
        prior: FiniteStateLM,
        automaton: WeightedAutomaton,
        max_tokens: int,
        correction: Tensor | None = None,
        log_shares: Tensor | None = None,
        keep: torch.dtype = torch.float32,
        exponent: float = 1.0,
    ) -> Expected:
        """By one pass from the end of texts to their beginning, in tables of the type `keep`.

        Raises:
            TablesTooLarge: they would take more than `MOST_BYTES`, or half of that with
                `log_shares`.
            ValueError: the prior has no sums of such powers, or a surrogate's tables would take
                long.
        """
        if log_shares is not None and automaton.num_classes > _MOST_CLASSES:
            raise ValueError(
                f"its automaton tells {automaton.num_classes} kinds of tokens apart, so that tables"
                " for looking ahead would take longer than the texts"
            )
        log_value: Tensor | ColumnLevels
        powered, weighed, evened = prior, automaton, correction
        if exponent != 1.0:
            # Powers of probabilities do not come to 1 as it is.
            powered, evened = prior.powered(exponent), None
            weighed = automaton if correction is None else corrected(automaton, correction)[0]
        size = 4 * (max_tokens + 1) * prior.num_states * automaton.num_states
        if log_shares is None or size <= _MOST_CORRECTED:
            tables = backward(
                powered, weighed, max_tokens, budget=MOST_BYTES, keep=keep, correction=evened
            )
            log_value = tables.log_value
        else:
            log_value = column_levels(
                powered,
                weighed,
                max_tokens,
                log_shares,
                budget=_MOST_CORRECTED,
                correction=evened,
            )
        return cls(prior, automaton, log_value, correction, log_shares, exponent=exponent)

    @property
    def max_tokens(self) -> int:
        return len(self.log_value) - 1

    def corrected(self, correction: Tensor) -> Expected:
        """With other corrections, `[A, C]`; the same where that takes long."""
        value = self.log_value
        num_bytes = value.nbytes if isinstance(value, Tensor) else value.num_bytes
        if num_bytes > _MOST_CORRECTED and self.log_shares is None:
            return self
        where = self.prior, self.automaton, self.max_tokens
        try:
            found = Expected.of(*where, correction, self.log_shares, exponent=self.exponent)
        except TablesTooLarge:
            # With corrections texts may be in more states.
            return self
        return replace(found, labels=self.labels)

    def sharpened(self, degree: float) -> Expected:
        """(E w^degree)^(1/degree) in the place of E w, the weight w that texts are to have.

        Half of what is wrong of the surrogate goes in with degree 2, a sixteenth with 16, while
        the weight counts in full: the higher, the nearer is that to the most that can be had from
        a beginning, however likely. Where texts weigh 0 or 1 it is a root of what is expected.
        """
        value = self.log_value
        if not self.automaton.is_plain and self.exponent == 1.0:
            try:
                value = Expected.of(
                    self.prior,
                    self.automaton.to_power(degree),
                    self.max_tokens,
                    self.correction,
                    self.log_shares,
                ).log_value
            except TablesTooLarge:
                value = self.log_value
        return replace(self, log_value=value * (1.0 / degree))

    def log_starts(self, beliefs: Tensor) -> Tensor:
        """`[n]` float64: the log of what is expected of the empty text under beliefs `[n, …]`."""
        start = self.automaton.start(beliefs.shape[0])
        return self.prior.log_expected(beliefs, self.log_value[-1], start).double()

    def log_start(self, beliefs: Tensor) -> float:
        """The log of what is expected of the empty text, on average over beliefs `[n, …]`."""
        return float(self.log_starts(beliefs).logsumexp(0)) - math.log(beliefs.shape[0])

    def outlook(self, beliefs: Tensor, power: float = 1.0) -> Outlook:
        """ψ for texts that begin with these beliefs `[n, …]`."""
        if self.is_prior:
            # What is deemed impossible is so.
            floor = (-math.inf,) * (self.max_tokens + 1)
            return Outlook(self.prior, self.automaton, self.log_value, floor, power)
        highest = float(self.log_value[-1].amax())
        start = max(self.log_start(beliefs), highest - 1e4)
        return Outlook.of(self.prior, self.automaton, self.log_value, start, power)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a surrogate expects of the texts of a site, where executions ask for different things.

    `each[which[row]]` is that of a row, None where there is nothing to be looked ahead to;
    `beliefs` `[rows, …]` are the surrogate's after the prompts. `asked` has, for each, the binding
    and what is asked in it. `why` says in words what speaks against it where one is None, and
    `too_large` whether that was the size of tables somewhere, which fewer states may mend.
    """

    each: tuple[Expected | None, ...]
    asked: tuple[Asked, ...]
    which: Tensor
    beliefs: Tensor
    why: tuple[str, ...] = ()
    too_large: bool = False

    __repr__ = brief

    @property
    def is_empty(self) -> bool:
        return all(expected is None for expected in self.each)

    @property
    def labels(self) -> frozenset[str]:
        """The factors that are looked ahead to in all rows."""
        used = torch.unique(self.which).tolist()
        each = [None if (one := self.each[n]) is None else one.labels for n in used]
        known = [labels for labels in each if labels is not None]
        return frozenset.intersection(*known) if len(known) == len(used) > 0 else frozenset()

    def select(self, indices: Tensor) -> Expectations:
        """For the rows `indices`."""
        return replace(self, which=self.which[indices], beliefs=self.beliefs[indices])

    def of_rows(
        self, target: Target, rows: SiteRows, prior: FiniteStateLM, encode: Encode
    ) -> Expectations:
        """For other executions, with one more at the end for those that ask for none of these."""
        known = {asked: number for number, asked in enumerate(self.asked)}
        here, which = weights_of(target, rows)
        numbers = [known.get(asked, len(self.each)) for asked in here]
        return replace(
            self,
            each=(*self.each, None),
            asked=(*self.asked, (-1, Followed(), False)),
            which=torch.tensor(numbers, device=which.device)[which],
            beliefs=_beliefs(rows, prior, encode),
        )

    def corrected(self, corrections: Sequence[Tensor | None]) -> Expectations:
        """With other corrections, one for each."""
        pairs = zip(self.each, corrections, strict=True)
        return replace(
            self,
            each=tuple(
                old if old is None or new is None else old.corrected(new) for old, new in pairs
            ),
        )

    def log_start(self, number: int) -> float:
        """What is expected of the empty texts of the rows of one, on average."""
        expected = self.each[number]
        return 0.0 if expected is None else expected.log_start(self.beliefs[self.which == number])

    def without_late(self, found: Sequence[float]) -> Expectations:
        """Without the expectations of a power alone where less than `EARLY` of its weight is on
        texts that end before they must. What those weigh is expected; `found` is, for each, the log
        of what others were seen to weigh."""
        each, why = list(self.each), self.why
        for number, (expected, (_, asked, _)) in enumerate(zip(each, self.asked, strict=True)):
            beliefs = self.beliefs[self.which == number]
            if expected is None or not asked.is_power or not beliefs.shape[0]:
                continue
            share = max(_share_early(expected, beliefs), 1e-300)
            others = found[number] - expected.log_start(beliefs) - math.log(share)
            if others > math.log(1.0 / EARLY - 1.0):
                each[number], why = None, (*self.why, _NONE_ENDS)
        return replace(self, each=tuple(each), why=why)

    def steering(self, powers: Sequence[float]) -> SurrogateLookahead:
        """ψ for the rows, with a power for each."""
        outlooks: list[Outlook | None] = []
        for number, (expected, power) in enumerate(zip(self.each, powers, strict=True)):
            beliefs = self.beliefs[self.which == number]
            if expected is None or not beliefs.shape[0]:
                outlooks.append(None)
            else:
                outlooks.append(expected.outlook(beliefs, power))
        return SurrogateLookahead(tuple(outlooks), self.which, self.beliefs)


def expectations(
    target: Target,
    rows: SiteRows,
    prior: FiniteStateLM,
    encode: Encode,
    log_shares: Tensor | None = None,
    likely: float = LIKELY,
    is_prior: bool = False,
    early: float = EARLY,
) -> Expectations:
    """What a surrogate expects of the texts of executions at a site.

    Nothing where the log of what it expects of a whole text, relative to the most that a text can
    weigh, is above `likely`, nor of a power alone where less than `early` of its weight is on texts
    that end before they must. Bindings have their own, though they be alike: what is found of one
    is not to depend on others. `is_prior`: the surrogate is the prior itself. `log_shares` `[V]`
    are how likely it deems tokens wherever they stand (see `Expected`).
    """
    stage = target.stages[rows.number].text
    assert stage is not None
    asked, which = weights_of(target, rows)
    beliefs = _beliefs(rows, prior, encode)
    known: dict[tuple[Followed, bool], tuple[Expected | None, str, bool]] = {}
    found: list[Expected | None] = []
    why: list[str] = []
    for number, (group, weight, strip) in enumerate(asked):
        if (weight, strip) not in known:
            known[weight, strip] = _expected(stage, weight, strip, prior, log_shares, is_prior)
        expected, reason, _ = known[weight, strip]
        if expected is not None:
            own = beliefs[which == number]
            share = expected.log_start(own)
            if expected.labels:
                share -= _highest(target, group, weight)
            if share > likely:
                reason = _LIKELY_IN_WORDS[bool(expected.labels)]
                expected = None
            elif early > 0.0 and weight.is_power and _share_early(expected, own) < early:
                expected, reason = None, _NONE_ENDS
        found.append(expected)
        why.append(reason)
    reasons = tuple(dict.fromkeys(filter(None, why)))
    too_large = any(too_large for _, _, too_large in known.values())
    return Expectations(tuple(found), asked, which, beliefs, reasons, too_large)


def _highest(target: Target, group: int, asked: Followed) -> float:
    """The most that a text can weigh by factors that are followed, in nats, but for the constant.

    Infinite where that is not known.
    """
    if asked.in_part:
        return math.inf  # ranges are those of whole factors
    return log_range(target, asked.labels, group) - asked.weight.form.constant


def _share_early(expected: Expected, beliefs: Tensor) -> float:
    """The share of the weight that is on texts that end before they must, by the surrogate."""
    automaton = expected.automaton
    endless = replace(
        automaton, log_final=automaton.log_final.masked_fill(automaton.ended, -math.inf)
    )
    others = Expected.of(
        expected.prior,
        endless,
        expected.max_tokens,
        expected.correction,
        expected.log_shares,
        exponent=expected.exponent,
    )
    return -math.expm1(min(0.0, others.log_start(beliefs) - expected.log_start(beliefs)))


def _beliefs(rows: SiteRows, prior: FiniteStateLM, encode: Encode) -> Tensor:
    """What the surrogate believes after the prompt of each row, `[rows, …]`."""
    prompts = rows.prompts
    distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    place = torch.tensor([distinct[prompt] for prompt in prompts], device=prior.device)
    return prior.begin([tuple(encode(prompt)) for prompt in distinct])[place]


def _expected(
    stage: TextStage,
    weight: Followed,
    strip: bool,
    prior: FiniteStateLM,
    log_shares: Tensor | None,
    is_prior: bool,
) -> tuple[Expected | None, str, bool]:
    """What is expected of texts of a weight, or why it is not looked ahead to, and whether tables
    were too large.

    Without the factors where they make the automaton too large: those are scored on texts as far
    as they go.
    """
    if weight.is_empty:
        return None, "nothing is asked of it that an automaton follows", False
    reason, too_large = "", False
    for tried in dict.fromkeys((weight, weight.without_factors())):
        if tried.is_empty:
            break
        try:
            automaton = weighted_automaton(stage, tried.weight, strip)
            exponent = 1.0 + tried.weight.form.power
            expected = _of_prior(prior, automaton, stage.max_tokens, exponent) if is_prior else None
            expected = expected or Expected.of(
                prior, automaton, stage.max_tokens, None, log_shares, exponent=exponent
            )
            return replace(expected, labels=tried.labels), "", too_large
        except (AutomatonTooLarge, TablesTooLarge, ValueError) as error:
            reason = reason or str(error)
            too_large = too_large or isinstance(error, TablesTooLarge)
    return None, reason, too_large


def _of_prior(
    prior: FiniteStateLM, automaton: WeightedAutomaton, max_tokens: int, exponent: float
) -> Expected | None:
    """What a prior expects of its own texts, as precisely as can be; None: that is too large."""
    try:
        found = Expected.of(prior, automaton, max_tokens, keep=torch.float64, exponent=exponent)
    except TablesTooLarge:
        return None
    return replace(found, is_prior=True)
