"""`lmppl surrogate`: fits the small model that looks ahead in the place of a language model."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import show
from lmppl.cli.threads import use_threads
from lmppl.files import in_words
from lmppl.inference.listening import listening
from lmppl.progress import ProgressEvent

if TYPE_CHECKING:
    from lmppl.surrogates import Surrogate

_LEAST_SAMPLES = 20


def surrogate(arguments: Arguments) -> int:
    """Draws texts of a language model, fits its surrogate, keeps it, and says how good it is."""
    samples = arguments.num_samples
    if samples is not None and samples < _LEAST_SAMPLES:
        raise UsageError(f"--num-samples: a surrogate needs at least {_LEAST_SAMPLES} texts")
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        _require_writable(out)
    with listening(not arguments.quiet) as listener:
        if listener is not None:
            listener(ProgressEvent("loading", 0, None, "libraries"))
        from lmppl.lm.loading import load_language_model
        from lmppl.surrogates import Sampling, make_surrogate
        from lmppl.surrogates.finding import MOST_TOKENS, NUM_SAMPLES, keep, key_of

        use_threads(arguments.threads)
        lm = load_language_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
        prompts = list(arguments.prompt) or [""]
        sampling = Sampling(
            samples or NUM_SAMPLES, arguments.tokens or MOST_TOKENS, arguments.seed or 0
        )
        made = make_surrogate(lm, prompts, sampling, progress=listener)
        place = keep(lm, made, key_of(lm, prompts, sampling), out)
    show(_in_words(lm.name, made, place))
    return Exit.FINE


def _require_writable(directory: Path) -> None:
    """That it can be written to is tried before anything is drawn.

    Raises: UsageError where it cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(f"--out: {directory} cannot be written: {in_words(error)}") from error


def _in_words(name: str, made: Surrogate, place: Path | None) -> str:
    report, model = made.report, made.model
    held_out = "unknown" if math.isnan(report.held_out) else f"{report.held_out:.3f} nats per token"
    order = int(model.level.max()) + 1
    rows = [
        ("texts drawn", f"{report.num_texts:,} ({report.num_tokens:,} tokens)"),
        ("contexts", f"up to {order - 1} tokens, {model.num_states:,} of them"),
        ("counted pairs", f"{len(model.token):,}"),
        ("held-out texts", held_out),
        ("the model itself", f"{report.entropy:.3f} nats per token"),
        ("seconds", f"{report.drawing_seconds:.1f} drawing, {report.fitting_seconds:.1f} fitting"),
        ("kept in", "nowhere: the cache cannot be written" if place is None else str(place)),
    ]
    if place is not None:
        rows.insert(-1, ("size", f"{place.stat().st_size / 1e3:,.0f} kB"))
    return f"surrogate of {name}\n" + "".join(f"  {what:<18}{value}\n" for what, value in rows)
