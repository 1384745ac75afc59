"""`lmppl models` and `lmppl methods`."""

from __future__ import annotations

import textwrap
from dataclasses import fields

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import show
from lmppl.errors import closest


def models(arguments: Arguments) -> int:
    """The language models that need no download, and what else may be named."""
    from lmppl.lm.names import builtin_models

    lines = [f"{name}\n" for name in builtin_models()]
    lines.append(
        "\nBesides these, lm(...) takes a local directory of a Hugging Face language model, or a\n"
        "hub id with revision=...; markov(...), ngram(...) and hmm(...) read files; an\n"
        "extern lm comes from Python.\n"
    )
    show("".join(lines))
    return Exit.FINE


def methods(arguments: Arguments) -> int:
    """All methods with their summaries, or one with its options."""
    from lmppl.inference import METHODS, method_named
    from lmppl.inference.settings import option_default

    if arguments.method is None:
        width = max(len(method.name) for method in METHODS)
        show("".join(f"{method.name:<{width}}  {method.summary}\n" for method in METHODS))
        return Exit.FINE
    method = method_named(arguments.method)
    if method is None:
        names = [each.name for each in METHODS]
        guess = closest(arguments.method, names)
        hint = f"did you mean {guess}?" if guess else f"the methods are {', '.join(names)}"
        raise UsageError(f"there is no method {arguments.method!r}; {hint}")
    lines = [f"{method.name}: {method.summary}", ""]
    for setting in fields(method):
        lines.append(f"  {setting.name} = {option_default(setting)!r}")
        lines.extend(
            textwrap.wrap(
                _documentation(setting.metadata),
                88,
                initial_indent="      ",
                subsequent_indent="      ",
            )
        )
    show("\n".join(lines) + "\n")
    return Exit.FINE


def _documentation(metadata: object) -> str:
    assert hasattr(metadata, "get")
    parts = [str(metadata.get("doc", ""))]
    choices = metadata.get("choices")
    if choices:
        parts.append("one of " + ", ".join(choices))
    return "; ".join(filter(None, parts))
