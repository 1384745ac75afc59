"""How values are shown inside an f-string, while checking and while running."""

from __future__ import annotations

from lmppl.errors import InternalError


def format_value(value: object) -> str:
    """A value as an f-string shows it: 3, 0.25, true, the string itself; arrays with commas.

    Reals are shown with up to 12 significant digits and no trailing zeros: 2.0 is `2`.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.12g}"
        case list() | tuple():
            return ", ".join(format_value(each) for each in value)
    raise InternalError(f"a {type(value).__name__} cannot be shown in a string")
