"""Names that the static half needs too: of models in the package, and of settings; no torch."""

from __future__ import annotations

from pathlib import Path

# The ways of computing single tokens; see `lmppl.lm.forward.ForwardSettings`.
STEPPINGS = ("none", "step", "cuda-graph")

BUILTIN = Path(__file__).parent / "builtin"


def builtin_models() -> tuple[str, ...]:
    """The names of the models that come with the package, such as `builtin:stories`."""
    return tuple(sorted(f"builtin:{path.parent.name}" for path in BUILTIN.glob("*/config.json")))


def is_at_hand(source: str, base_dir: str) -> bool:
    """Whether a model is on this machine under that name, and nothing has to be asked for it."""
    return source in builtin_models() or (Path(base_dir) / Path(source).expanduser()).is_dir()
