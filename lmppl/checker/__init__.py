"""Program → Model: names, types, ranges and facts of every factor, all problems at once.

    model, warnings = check(parse(source, path), base_dir=directory)

Nothing here loads a tensor library; files that the program names are read, models are not loaded.
"""

from lmppl.checker.binding import check_binding
from lmppl.checker.constraints import check_constraints
from lmppl.checker.description import describe
from lmppl.checker.fragments import check_expression, check_query
from lmppl.checker.programs import check, check_remains, infer_specs
from lmppl.checker.report import without_allowed
from lmppl.checker.scalars import without_scalars

__all__ = [
    "check",
    "check_binding",
    "check_constraints",
    "check_expression",
    "check_query",
    "check_remains",
    "describe",
    "infer_specs",
    "without_allowed",
    "without_scalars",
]
