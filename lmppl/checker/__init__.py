"""Program → Model: names, types, ranges and facts of every factor, all problems at once.

    model, warnings = check(parse(source, path), base_dir=directory)

Nothing here loads a tensor library; files that the program names are read, models are not loaded.
"""

from lmppl.checker.analysis import Analysis
from lmppl.checker.binding import check_binding
from lmppl.checker.constraints import check_constraints
from lmppl.checker.description import describe
from lmppl.checker.fragments import Language, check_expression, check_query
from lmppl.checker.programs import analyse, check, program_files
from lmppl.checker.scalars import without_scalars
from lmppl.checker.texts import analyse_text

__all__ = [
    "Analysis",
    "Language",
    "analyse",
    "analyse_text",
    "check",
    "check_binding",
    "check_constraints",
    "check_expression",
    "check_query",
    "describe",
    "program_files",
    "without_scalars",
]
