"""From the command line to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from lmppl.cli.arguments import COMMANDS
from lmppl.cli.outcome import Exit, UsageError, exit_code
from lmppl.cli.parsing import usage_message
from lmppl.cli.streams import forget_output, open_streams, say, say_diagnostics
from lmppl.errors import InternalError, LmpError

# Set by the shell that asks what may follow; see docs/reference/cli.md.
COMPLETION = "_LMPPL_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; see `Exit`."""
    open_streams()
    try:
        if arguments is None:
            if COMPLETION in os.environ:
                return _complete(os.environ[COMPLETION])
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as ended:
        # Help and version end in this way.
        return ended.exit_code
    except click.UsageError as error:
        _say_usage(error)
        return Exit.USAGE
    except UsageError as error:
        say(f"error: {error}")
        return Exit.USAGE
    except LmpError as error:
        say_diagnostics(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        say("interrupted before there was anything to show")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has left, as `head` does; Python must not complain when it closes the stream.
        forget_output()
        return Exit.FINE
    except InternalError as error:
        say(str(error))
        return Exit.INFERENCE
    except OSError as error:
        say(f"error: {error}")
        return Exit.INFERENCE
    except Exception:
        import traceback

        traceback.print_exc()
        say("error: this is a bug in lmppl or in a function that was given to it (see above)")
        return Exit.INFERENCE


def _run(arguments: list[str]) -> int:
    # Not click's own `main`: it would turn an interrupted run and a closed pipe into its own
    # exit codes.
    with COMMANDS.make_context("lmppl", arguments) as context:
        return int(COMMANDS.invoke(context))


def _say_usage(error: click.UsageError) -> None:
    if error.ctx is None:
        say(f"lmppl: error: {usage_message(error)}")
        return
    say(error.ctx.get_usage())
    say(f"{error.ctx.command_path}: error: {usage_message(error)}")


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(COMMANDS, {}, "lmppl", COMPLETION, instruction)
