"""What becomes of a result: shown and saved, and not lost where it cannot be saved as asked."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import say, show_summary, width_of

if TYPE_CHECKING:
    from lmppl.posterior import NoPosterior, Posterior


# How the files begin that are written for --jsonl and --report.
_DRAWS = (b'{"values": ', b'{"binding": ')
_PAGE = (b"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",)


def check_destinations(arguments: Arguments) -> None:
    """Finds out before hours of work that its result cannot be written.

    Raises: UsageError.
    """
    for path in (arguments.out, arguments.jsonl, arguments.report):
        if path is not None and "\0" in path:
            raise UsageError(f"{path!r} has a null character in it, as no file name may")
    jsonl, report = arguments.jsonl, arguments.report
    if jsonl and report and os.path.realpath(jsonl) == os.path.realpath(report):
        raise UsageError(f"the draws and the report cannot both be written to {jsonl}")
    try:
        if arguments.out is not None:
            # With it come numpy and scipy: seconds in which a first word has not been said yet.
            from lmppl.posterior.ownership import check_destination

            check_destination(arguments.out)
        for path, starts in ((arguments.jsonl, _DRAWS), (arguments.report, _PAGE)):
            if path is not None and path != "-":
                if path.endswith(os.sep):
                    raise UsageError(f"{path} is no name of a file")
                _check_file(Path(path), arguments.out)
                _check_replaced(Path(path), starts, (arguments.file, arguments.data))
    except OSError as error:
        raise UsageError(str(error)) from error


def _check_file(path: Path, out: str | None) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"there is no directory {parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a directory")
    if out is not None and Path(os.path.realpath(out)) in Path(os.path.realpath(path)).parents:
        raise UsageError(f"{path} lies in {out}, where only the saved posterior may be")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{path} cannot be written to")
    if not path.exists() or path.is_file():
        # The file is written beside its place and moved there.
        descriptor, name = tempfile.mkstemp(prefix=".lmppl-", dir=parent)
        os.close(descriptor)
        os.unlink(name)


def _check_replaced(path: Path, starts: tuple[bytes, ...], read: tuple[str | None, ...]) -> None:
    """Only what lmppl wrote there before is replaced, and nothing that this run reads."""
    if not path.is_file():
        return
    if any(each is not None and _is_same(path, each) for each in read):
        raise UsageError(f"{path} is read by this run, which would write over it")
    with path.open("rb") as file:
        found = file.read(256)
    if found and not found.startswith(starts):
        raise UsageError(
            f"{path} holds something that lmppl did not write: move it away, or choose another name"
        )


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def deliver(posterior: Posterior, arguments: Arguments, *, to_stderr: bool = False) -> int:
    """Saves first, so that a closed pipe loses nothing, then shows; 3 where saving failed.

    The summary goes to standard error where the draws, or those of others, go to standard output.
    """
    failed = []
    for path, save, done in _wanted(posterior, arguments):
        try:
            save(path)
            say(f"{done} {path}")
        except (Exception, KeyboardInterrupt) as error:
            failed.append(f"error: could not write {path}: {error or type(error).__name__}")
    for message in failed:
        say(message)
    if failed:
        _rescue(posterior)
    to_stdout = arguments.jsonl == "-"
    if not arguments.quiet:
        to_stderr = to_stderr or to_stdout
        stream = sys.stderr if to_stderr else sys.stdout
        summary = posterior.summary(num_draws=arguments.show, width=width_of(stream))
        if to_stderr:
            say(summary.rstrip("\n"))
        else:
            show_summary(summary)
    if to_stdout:
        try:
            posterior.to_jsonl(sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            say(f"error: could not write to standard output: {error}")
            _rescue(posterior)
            return Exit.INFERENCE
    return Exit.INFERENCE if failed else Exit.FINE


def deliver_together(posteriors: Sequence[Posterior | NoPosterior], path: str) -> int:
    """Writes the draws of several posteriors as JSON lines, `binding` saying whose each is."""
    from lmppl.posterior import Posterior
    from lmppl.posterior.export import bindings_to_jsonl

    try:
        draws = [each.data if isinstance(each, Posterior) else None for each in posteriors]
        bindings_to_jsonl(draws, sys.stdout if path == "-" else path)
        if path != "-":
            say(f"draws written to {path}")
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"error: could not write {'to standard output' if path == '-' else path}: {error}")
        for posterior in posteriors:
            if isinstance(posterior, Posterior):
                _rescue(posterior)
        return Exit.INFERENCE
    return Exit.FINE


def _wanted(
    posterior: Posterior, arguments: Arguments
) -> list[tuple[str, Callable[[str], None], str]]:
    """Every file that was asked for, how it is written, and what to say then."""
    wanted: list[tuple[str, Callable[[str], None], str]] = []
    if arguments.out is not None:
        wanted.append((arguments.out, posterior.save, "saved to"))
    if arguments.jsonl is not None and arguments.jsonl != "-":
        wanted.append((arguments.jsonl, posterior.to_jsonl, "draws written to"))
    if arguments.report is not None:
        wanted.append((arguments.report, posterior.report, "report written to"))
    return wanted


def _rescue(posterior: Posterior) -> None:
    """Saves a result to a new directory, wherever there is room for one; if need be without its
    guide, which is by far the largest part."""
    kept = [(posterior, "the result")]
    if posterior.data.guide is not None:
        bare = posterior.replace(guide=None, sampler=None)
        kept.append((bare, "the result without its guide"))
    for each, what in kept:
        for place in dict.fromkeys((tempfile.gettempdir(), str(Path.home()), os.getcwd())):
            directory = _saved_in(place, each)
            if directory is not None:
                how = "read it with lmppl.load_posterior"
                say(f"{what} is saved to {directory} instead ({how})")
                return
    say("error: the result could not be saved anywhere else either; it is only shown")


def _saved_in(place: str, posterior: Posterior) -> str | None:
    """The new directory in `place` that a posterior was saved to; None where that failed."""
    try:
        directory = tempfile.mkdtemp(prefix="lmppl-result-", dir=place)
    except OSError:
        return None
    try:
        posterior.save(directory)
        return directory
    except Exception:
        # Whatever a library raises: the summary is still to be shown.
        shutil.rmtree(directory, ignore_errors=True)
        return None
