"""The language models that come with the package, by name; free of torch."""

from __future__ import annotations

from pathlib import Path

BUILTIN = Path(__file__).parent / "builtin"


def builtin_models() -> tuple[str, ...]:
    """The names of the models that come with the package, such as `builtin:stories`."""
    return tuple(sorted(f"builtin:{path.parent.name}" for path in BUILTIN.glob("*/config.json")))
