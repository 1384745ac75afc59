"""What no text of the program's language models can meet, before anything is inferred."""

from __future__ import annotations

from collections.abc import Mapping

from lmppl.builtins import distribution_of
from lmppl.checker import check_binding, without_scalars
from lmppl.errors import Diagnostic, InferenceError
from lmppl.ir.model import Model, Site
from lmppl.models import BoundModel

_MISSING_EXTERN = "LMP133"


def unmet(bound: BoundModel) -> list[Diagnostic]:
    """What no text of its language models can meet (LMP305, LMP942), for which they are loaded.

    Nothing is loaded, and nothing said, where no text is required to be anything, where data or
    language models of the host are missing, or where a model is not on this machine.

    Raises:
        InferenceError: a language model is here and cannot be loaded.
    """
    model, values = bound.model, {n: without_scalars(v) for n, v in bound.values.items()}
    problems = check_binding(model, values, bound.externs)
    # A reward or function of the host is not needed to know what can be written.
    if any(each.code != _MISSING_EXTERN for each in problems) or not _requires_of_texts(model):
        return []
    if not all(_is_at_hand(model, site, bound.externs) for site in model.text_sites):
        return []
    from lmppl.density.binding import bind
    from lmppl.fence import within

    try:
        target = within(lambda: bind(model, [values], bound.externs, rewards=False))
    except InferenceError as error:
        if all(each.code in ("LMP305", "LMP942") for each in error.diagnostics):
            return list(error.diagnostics)
        raise
    return [Diagnostic("LMP305", "warning", each) for each in target.ruled_out.get(0, ())]


def _requires_of_texts(model: Model) -> bool:
    texts = {site.name for site in model.text_sites}
    required = [p for p in model.potentials if p.kind == "require"]
    return any(texts & model.sites_of(each.expr, each.when) for each in required)


def _is_at_hand(model: Model, site: Site, externs: Mapping[str, object]) -> bool:
    """Whether the language model of a text site can be had without asking for it elsewhere."""
    from lmppl.lm.names import is_at_hand

    distribution = site.distribution
    if distribution.extern is not None:
        return distribution.extern in externs
    models = distribution_of(distribution).accepting("model")
    names = [getattr(distribution.argument(each.name), "value", None) for each in models]
    return all(isinstance(name, str) and is_at_hand(name, model.base_dir) for name in names)
