"""Whether claims hold: by an estimate that is shown, and by one that assumes no range."""

from __future__ import annotations

from lmppl.posterior.cells import Cells
from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.estimate import Estimate
from lmppl.posterior.expectation import ExpectationResult, Statistic, verdict_of
from lmppl.posterior.questions import Question, cells_of, estimated, extended, numbers
from lmppl.posterior.statistics import Range


def judge(
    draws: WeightedDraws,
    label: str,
    source: str,
    statistic: Statistic,
    values: Question,
    operator: str,
    bound: float,
    *,
    q: float | None = None,
    bounds: Range | None = None,
    confidence: float = 0.99,
) -> ExpectationResult:
    """Whether a claim `statistic(values) operator bound` holds, at a confidence.

    `bounds` is the range of the values, where it is known.
    """
    bases = claim_estimates(draws, statistic, values, q=q, bounds=bounds, confidence=confidence)
    return verdict_on(draws, label, source, statistic, bases, operator, bound)


def claim_estimates(
    draws: WeightedDraws,
    statistic: Statistic,
    values: Question,
    *,
    q: float | None = None,
    bounds: Range | None = None,
    cells: tuple[Cells, ...] | None = None,
    confidence: float = 0.99,
) -> tuple[Estimate, Estimate]:
    """What a claim is judged by: the estimate that is shown, and one that assumes no range.

    `cells` are those of the expression, by default what its program tells.
    """
    x, known = numbers(draws, values, statistic, bounds)
    if cells is None:
        cells = cells_of(draws, values) if bounds is None else ()
    assumed = extended(draws, known, x)
    shown = estimated(draws, x, statistic, q, assumed, confidence, cells)
    if assumed == known:
        return shown, shown
    return shown, estimated(draws, x, statistic, q, known, confidence, cells)


def verdict_on(
    draws: WeightedDraws,
    label: str,
    source: str,
    statistic: Statistic,
    bases: tuple[Estimate, Estimate],
    operator: str,
    bound: float,
) -> ExpectationResult:
    """Whether `statistic operator bound` holds, from what `claim_estimates` gave.

    It holds, or fails, where the interval of the estimate lies on one side of the bound, and is
    undecided otherwise: also where the interval rests on an assumed range, or on draws that cannot
    have seen all that matters.
    """
    shown, strict = bases
    verdict, reason = verdict_of(shown, operator, bound), ""
    if verdict != "undecided" and not shown.is_exact:
        if draws.unseen is not None and draws.unseen.reason:
            reason = draws.unseen.reason
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
