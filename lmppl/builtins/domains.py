"""Whether numbers that a draw gives for an argument are among those that it may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.signature import Argument
from lmppl.errors import Diagnostic, InferenceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def within_domain(owner: str, argument: Argument, given: Any, num_rows: int) -> NDArray[np.float64]:
    """What was given for an argument of `owner`, as `[rows]`.

    Raises:
        InferenceError: a value is outside the domain of the argument (LMP927).
    """
    import numpy as np

    values = np.broadcast_to(np.asarray(given, dtype=np.float64), (num_rows,))
    for value in np.unique(values).tolist():
        if not argument.allows(value):
            message = f"{owner}() needs {argument.name} {argument.domain}, not {value:g}"
            raise InferenceError([Diagnostic("LMP927", "error", message)])
    return values
