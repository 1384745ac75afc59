"""Models by name: built in, in a directory, or on the hub. Nothing of them is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from lmppl.checker.files import Place
from lmppl.checker.report import Report
from lmppl.errors import Span, closest
from lmppl.lm.names import builtin_models

_BUILTIN = "builtin:"
# What the hub allows as an id: an owner and a name, or a name alone.
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_model_name(
    name: str, span: Span, place: Place, report: Report, *, is_pinned: bool, may_be_builtin: bool
) -> str:
    """The id or path of a model as the main file would write it.

    Refuses what no package has (LMP232); warns of directories that are not there (LMP233) and of
    hub ids without a revision (LMP501).
    """
    if name.startswith(_BUILTIN):
        _check_builtin(name, span, report, builtin_models() if may_be_builtin else ())
        return name
    if os.path.isdir(place.on_disk(os.path.expanduser(name))):
        return place.from_main(name)
    # A path that says that it is one may well be filled later, on another machine.
    is_explicit = name.startswith((".", "/", "~", "\\"))
    is_path = is_explicit or not _HUB_ID.fullmatch(name)
    if is_pinned and not is_path:
        return name
    meant = _directory_meant(name, place)
    if meant or (is_path and not is_explicit):
        report.warning(
            "LMP233",
            span,
            f"there is no directory `{name}`" + ("" if is_path else ", so this is a hub id"),
            notes=["paths are relative to the file that they are written in"],
            help=f"did you mean `{meant}`?" if meant else None,
        )
    elif not is_path:
        report.warning(
            "LMP501",
            span,
            f"no revision of `{name}` is pinned",
            notes=["what a hub id stands for can change, and the posterior with it"],
            help='pin it: `revision="…"` with a commit',
        )
    return place.from_main(name) if is_path else name


def _check_builtin(name: str, span: Span, report: Report, known: Iterable[str]) -> None:
    known = tuple(known)
    if name in known:
        return
    near = closest(name, known)
    report.error(
        "LMP232",
        span,
        f"no model `{name}` comes with lmppl" if known else "only language models are built in",
        notes=[f"there is {', '.join(f'`{each}`' for each in known)}"] if known else (),
        help=f"did you mean `{near}`?" if near else None,
    )


def _directory_meant(name: str, place: Place) -> str | None:
    """A directory beside the one that is named, under a name that is almost the same."""
    parent, last = os.path.split(os.path.normpath(name))
    parts = [part for part in parent.split(os.sep) if part]
    found = os.sep if os.path.isabs(name) else ""
    for part in (*parts, last):
        where = place.on_disk(os.path.expanduser(found)) if found else place.files.base
        try:
            inside = [each.name for each in os.scandir(where) if each.is_dir()]
        except (OSError, ValueError):
            return None
        here = part if part in inside or part in (".", "..", "~") else closest(part, inside)
        if here is None:
            return None
        found = os.path.join(found, here)
    return found
