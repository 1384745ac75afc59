"""`lmppl explain`: what a code means, or whether a method would run a program."""

from __future__ import annotations

import re
from dataclasses import replace

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import show, show_page

_CODE = re.compile(r"(?:LMP)?(\d+)", re.IGNORECASE)


def explain(arguments: Arguments) -> int:
    """`lmppl explain CODE` or `lmppl explain FILE [--method M]`; 3 where the method refuses."""
    code = _CODE.fullmatch(arguments.subject)
    if code is not None:
        return _explain_code(f"LMP{code[1]}")
    from lmppl.cli.batches import require_one
    from lmppl.cli.programs import load_program
    from lmppl.cli.values import read_externs, read_options, read_parameters
    from lmppl.models import BoundModel
    from lmppl.pipeline import explain as explain_method
    from lmppl.unmet import unmet

    require_one(arguments, "explain")
    compiled = load_program(arguments.subject, allow=arguments.allow_path)
    values = read_parameters(compiled.model, arguments.param, arguments.data)
    # A plan needs neither externs nor all of the data: nothing is run.
    bound = BoundModel(compiled, values, read_externs(compiled.model, arguments.extern))
    plan = explain_method(
        bound,
        method=arguments.method,
        infer=arguments.infer,
        **read_options(arguments.set),
    )
    if plan.supported:
        found = unmet(bound)
        errors = tuple(each for each in found if each.severity == "error")
        warnings = tuple(each for each in found if each.severity == "warning")
        plan = replace(plan, refusals=errors, warnings=(*plan.warnings, *warnings))
    show(f"{plan}\n")
    return Exit.FINE if plan.supported else Exit.INFERENCE


def _explain_code(code: str) -> int:
    from lmppl.errors.explanations import codes, explanation

    page = explanation(code)
    if page is None:
        near = [known for known in codes() if known[:4] == code[:4]]
        hint = f"; there are {', '.join(near)}" if near else ""
        raise UsageError(f"there is no diagnostic {code}{hint}")
    show_page(str(page))
    return Exit.FINE
