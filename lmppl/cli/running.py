"""`lmppl run`: infer, show, save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lmppl.cli.batches import bind_all, check_all_destinations, deliver_all, is_batch
from lmppl.cli.delivering import check_destinations, deliver
from lmppl.cli.outcome import Exit
from lmppl.cli.parsing import Arguments
from lmppl.cli.programs import load_program
from lmppl.cli.streams import say
from lmppl.cli.threads import use_threads
from lmppl.cli.values import read_externs, read_options, read_parameters, require_complete
from lmppl.errors import InferenceError
from lmppl.inference.listening import listening
from lmppl.progress import ProgressEvent


def run(arguments: Arguments) -> int:
    """`lmppl run FILE`: 0; 130 with what there is where Ctrl-C ended it; 3 with the result in
    another place where it could not be saved as asked."""
    if is_batch(arguments.data):
        return _run_batch(arguments)
    check_destinations(arguments)
    compiled = load_program(arguments.file, allow=arguments.allow_path)
    bound = bind(compiled, arguments)
    with interruptible() as was_interrupted:
        posterior = infer_once(
            bound,
            arguments,
            method=arguments.method,
            infer=arguments.infer,
            was_interrupted=was_interrupted,
        )
    code = deliver(posterior, arguments)
    return Exit.INTERRUPTED if was_interrupted() and code == Exit.FINE else code


def _run_batch(arguments: Arguments) -> int:
    """The same for every line of the data, in one batch."""
    compiled = load_program(arguments.file, allow=arguments.allow_path)
    bound = bind_all(compiled, arguments)
    check_all_destinations(arguments, len(bound))
    with interruptible() as was_interrupted:
        posteriors = infer_once(
            bound,
            arguments,
            method=arguments.method,
            infer=arguments.infer,
            was_interrupted=was_interrupted,
        )
    code = deliver_all(posteriors, arguments)
    return Exit.INTERRUPTED if was_interrupted() and code == Exit.FINE else code


def bind(compiled: Any, arguments: Arguments) -> Any:
    """The program with the parameters and externs of the command line.

    Raises: UsageError for what is missing or unreadable; LmpError for values that do not fit.
    """
    values = read_parameters(compiled.model, arguments.param, arguments.data)
    externs = read_externs(compiled.model, arguments.extern)
    require_complete(compiled.model, values, externs)
    return compiled(**values, **externs)


def infer_once(
    bound: Any,
    arguments: Arguments,
    *,
    method: str | None,
    infer: str | None,
    was_interrupted: Callable[[], bool],
) -> Any:
    """One run with the command line's options, with its progress on standard error.

    The posterior of a bound program, or a list of them for a list.

    Raises: LmpError for options that do not fit the method; InferenceError; KeyboardInterrupt
        where Ctrl-C came before there was anything to return.
    """
    from lmppl import pipeline

    with listening(not arguments.quiet) as listener:
        try:
            options = _options(bound, arguments, method, infer)
            if listener is not None:
                listener(ProgressEvent("loading", 0, None, "libraries"))
            use_threads(arguments.threads)
            return pipeline.infer(
                bound,
                method=method,
                infer=infer,
                progress=listener or False,
                budget=arguments.budget,
                **options,
            )
        except InferenceError:
            if was_interrupted():
                raise KeyboardInterrupt from None
            raise


def _options(
    bound: Any, arguments: Arguments, method: str | None, infer: str | None
) -> dict[str, Any]:
    """`--set`, and the options that have a name of their own, which win."""
    options = read_options(arguments.set)
    for name in ("seed", "device", "dtype"):
        value = getattr(arguments, name)
        if value is not None:
            options[name] = value
    if arguments.num_samples is not None:
        options[_num_draws_option(bound, method, infer)] = arguments.num_samples
    return options


def _num_draws_option(bound: Any, method: str | None, infer: str | None) -> str:
    """What the method calls the number of its draws: `num_particles` of smc, for instance."""
    from lmppl import pipeline

    one = bound[0] if isinstance(bound, list) else bound
    settings = pipeline.explain(one, method=method, infer=infer).settings
    return settings.num_draws_option or "num_samples"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Notes a Ctrl-C that the engine turns into a partial result; yields whether there was one."""
    seen = threading.Event()
    # Only the main thread may set a handler, and `nohup`'s choice to ignore is respected.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def note(number: int, frame: FrameType | None) -> None:
        is_first = not seen.is_set()
        seen.set()
        if is_first:
            # The signal may have come while this very stream was being written to.
            with suppress(RuntimeError):
                say("\ninterrupted: finishing with what there is (Ctrl-C again to stop at once)")
        raise KeyboardInterrupt

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
