"""From the command line to an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from lmppl.cli.arguments import parse_arguments
from lmppl.cli.outcome import Exit, UsageError, exit_code
from lmppl.cli.streams import say, say_diagnostics
from lmppl.errors import InternalError, LmpError

_COMMANDS = {
    "check": "lmppl.cli.programs:check",
    "fmt": "lmppl.cli.programs:fmt",
    "info": "lmppl.cli.programs:info",
    "explain": "lmppl.cli.explaining:explain",
    "run": "lmppl.cli.running:run",
    "compare": "lmppl.cli.comparing:compare",
    "bench": "lmppl.cli.bench:bench",
    "models": "lmppl.cli.listing:models",
    "methods": "lmppl.cli.listing:methods",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; see `Exit`."""
    try:
        parsed = parse_arguments(arguments)
        module, _, name = _COMMANDS[parsed.command].partition(":")
        code = int(getattr(importlib.import_module(module), name)(parsed))
        sys.stdout.flush()
        return code
    except SystemExit as exit_:
        # argparse ends help, version and wrong usage in this way.
        return exit_.code if isinstance(exit_.code, int) else int(Exit.USAGE)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FINE
    except InternalError as error:
        say(str(error))
        return Exit.INFERENCE
    except OSError as error:
        say(f"error: {error}")
        return Exit.INFERENCE
    except Exception:
        traceback.print_exc()
        say("error: this is a bug in lmppl or in a function that was given to it (see above)")
        return Exit.INFERENCE
