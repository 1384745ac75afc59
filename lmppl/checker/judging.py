"""Requirements that are judged on finished texts only: said before anything runs."""

from __future__ import annotations

from collections.abc import Set

from lmppl.builtins import source_of
from lmppl.checker.report import Report
from lmppl.evaluation.facts import stand_ins, texts_read
from lmppl.evaluation.powers import floors
from lmppl.inference.methods import method_named
from lmppl.ir.expr import Binary, Expr, ExternCall, RewardCall
from lmppl.ir.model import Model, Potential


def warn_of_late_judgement(model: Model, report: Report) -> None:
    """LMP310 for every `require` on a text that no automaton can follow while the text grows."""
    methods = [method_named(spec.method) for spec in model.infers]
    if methods and not any(method is None or method.steers for method in methods):
        return
    for potential in model.potentials:
        if potential.kind != "require" or potential.facts.decidable != "end":
            continue
        reason = _reason(model, potential, report)
        # Without an `infer` line it is run by a method that does.
        if all(method is not None and method.follows_log_prob for method in methods) and (
            _asks_of_log_prob_alone(model, potential.expr, texts_read(model, potential))
        ):
            continue
        if reason is not None:
            report.warning(
                "LMP310",
                potential.span,
                "this is judged on finished texts only",
                label=reason,
                notes=[
                    "it steers no token: draws that break it are thrown away when they are complete"
                ],
            )


def _asks_of_log_prob_alone(model: Model, expr: Expr, texts: Set[str]) -> bool:
    found = model.resolve(expr)
    if isinstance(found, Binary) and found.operator == "and":
        sides = (found.left, found.right)
        return all(_asks_of_log_prob_alone(model, side, texts) for side in sides)
    return any(floors(model, found, name) for name in texts)


def _reason(model: Model, potential: Potential, report: Report) -> str | None:
    """Why it is judged late; None where that hangs on values that are not known."""
    from lmppl.automata.language import when_decidable
    from lmppl.automata.predicates import reads_only_text
    from lmppl.evaluation.constraints import hindrance, required_predicate

    texts = sorted(texts_read(model, potential))
    if len(texts) > 1:
        return f"it asks about {' and '.join(f'`{name}`' for name in texts)} together"
    (site,) = texts
    known = stand_ins(model)
    blocked = hindrance(model, potential, site, known)
    if blocked is not None:
        return _reason_of(blocked, model, report)
    predicate = required_predicate(model, potential, site, {})
    if predicate is not None and reads_only_text(predicate) and when_decidable(predicate) == "end":
        return "its automaton would be too large"
    return None


def _reason_of(blocked: Expr, model: Model, report: Report) -> str:
    text = report.text(blocked.span)
    if isinstance(blocked, RewardCall):
        if source_of(model.rewards[blocked.reward].source).countable is None:
            return f"`{blocked.reward}` scores finished texts"
    if isinstance(blocked, ExternCall):
        return f"`{blocked.function}` is a function of the host"
    return f"no automaton follows `{text}`"
