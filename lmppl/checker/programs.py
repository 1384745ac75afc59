"""A whole file: its declarations, its one model, and what is left unused."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import replace

from lmppl.checker.analysis import Annotations
from lmppl.checker.body import Body
from lmppl.checker.constraints import check_constraints
from lmppl.checker.declarations import FileChecker
from lmppl.checker.digests import model_digest
from lmppl.checker.divisors import check_divisors
from lmppl.checker.files import Place
from lmppl.checker.heuristics import add_heuristics
from lmppl.checker.infers import check_infers
from lmppl.checker.judging import warn_of_late_judgement
from lmppl.checker.reordering import warn_of_reordering
from lmppl.checker.report import Report
from lmppl.checker.scope import Symbol
from lmppl.checker.statements import ModelChecker
from lmppl.errors import Diagnostic, Label, LmpError
from lmppl.evaluation.facts import facts_of
from lmppl.files import Folder, Unreadable
from lmppl.ir.model import InferSpec, Model
from lmppl.syntax import ast


def check(
    program: ast.Program,
    *,
    base_dir: str = ".",
    allow: Iterable[str | os.PathLike[str]] = (),
    pedantic: bool = False,
) -> tuple[Model, tuple[Diagnostic, ...]]:
    """The model that a program denotes, and the warnings about it.

    A file has exactly one `model`; an imported file may have one too, which is left aside. Files
    that the program names are found relative to `base_dir`, those of an imported file relative to
    that file; they lie beneath `base_dir` or a folder of `allow`. `pedantic` adds heuristics (6xx)
    to the warnings, which otherwise are certain.

    Raises:
        LmpError: all errors, and the warnings among them, in the order of the text.
    """
    text = program.source
    report = Report(program.path, text)
    opened: tuple[str, ...] = ()
    if program.path is not None:
        opened = (os.path.realpath(os.path.join(base_dir, os.path.basename(program.path))),)
    try:
        folder = Folder.of(base_dir, allow)
    except Unreadable as problem:
        message = f"a folder of the program {problem.reason}"
        raise LmpError([Diagnostic("LMP119", "error", message)], {program.path: text}) from None
    file = FileChecker(program, Place(folder), report, Annotations(), opened)
    warn_of_reordering(program, report)
    file.check_declarations()
    infers = check_infers(program, file.expressions.check, report)
    node = _the_model(program, report)
    model: Model | None = None
    if node is not None:
        body = ModelChecker(node, file).check()
        _warn_unused(file, report, program)
        model = _assemble(program, node, body, file, infers, folder)
        check_divisors(model, report)
        report.diagnostics.extend(check_constraints(model, {}))
        if not report.has_errors:
            model = _with_facts(model)
            warn_of_late_judgement(model, report)
        if pedantic and not report.has_errors:
            add_heuristics(model, report)
    report.silence(program.path, program.allowances)
    report.raise_errors()
    assert model is not None
    return model, report.sorted()


# Errors about what is missing, which may stand in what could not be read.
_ABSENCES = frozenset(("LMP101", "LMP111", "LMP116", "LMP201", "LMP220", "LMP223"))


def check_remains(
    program: ast.Program,
    lost: Container[str],
    declares: bool,
    *,
    base_dir: str = ".",
    allow: Iterable[str | os.PathLike[str]] = (),
) -> tuple[Diagnostic, ...]:
    """The errors in what is left of a program that has syntax errors elsewhere.

    `lost` are the words of what was left out: what seems not to exist may be declared there. With
    `declares`, under another name too: then only a name that is almost a known one is unknown.
    """
    try:
        check(program, base_dir=base_dir, allow=allow)
    except LmpError as failure:
        return tuple(
            each
            for each in failure.diagnostics
            if each.severity == "error" and not _is_doubtful(each, program.source, lost, declares)
        )
    return ()


def _is_doubtful(diagnostic: Diagnostic, source: str, lost: Container[str], declares: bool) -> bool:
    if diagnostic.code not in _ABSENCES:
        return False
    span = diagnostic.span
    if span is None or diagnostic.code not in ("LMP101", "LMP111"):
        return True
    help = diagnostic.help or ""
    if diagnostic.code == "LMP101":
        is_vague = not help.startswith("did you mean")
    else:
        is_vague = help.startswith("to have a value of that name")
        if not is_vague:
            return False
    return source[span.start : span.end] in lost or (declares and is_vague)


def infer_specs(program: ast.Program) -> tuple[InferSpec, ...]:
    """The `infer` lines of a program that did not check; problems in them are left aside."""
    report = Report(program.path, program.source)
    file = FileChecker(program, Place(Folder.of(".")), report, Annotations())
    return check_infers(program, file.expressions.check, report)


def _the_model(program: ast.Program, report: Report) -> ast.Model | None:
    models = program.models
    if not models:
        report.error(
            "LMP220",
            replace(
                program.span, end=program.span.start, end_line=1, end_column=1, column=1, line=1
            )
            if not program.items
            else program.items[-1].span,
            "the file has no model",
            help='write one: `model m(prompt: string) { text ~ lm("builtin:stories",'
            " prompt=prompt, max_tokens=40) return text }`",
        )
        return None
    for extra in models[1:]:
        report.error(
            "LMP221",
            extra.name_span,
            "a file has one model",
            labels=[Label(models[0].name_span, "the first one")],
            help="put each model into a file of its own, and what they share into a third that"
            " both import",
        )
    return models[0]


def _assemble(
    program: ast.Program,
    node: ast.Model,
    body: Body,
    file: FileChecker,
    infers: tuple[InferSpec, ...],
    folder: Folder,
) -> Model:
    model = Model(
        name=node.name,
        parameters=body.parameters,
        sites=tuple(body.sites),
        lets=tuple(body.lets),
        potentials=tuple(body.potentials),
        outputs=tuple(body.outputs),
        expectations=tuple(body.expectations),
        rewards=dict(file.rewards),
        externs=dict(file.externs),
        infers=infers,
        source=program.source,
        path=program.path,
        base_dir=folder.base,
        allow=folder.roots[1:],
        digest="",
        span=node.head_span,
    )
    return replace(model, digest=model_digest(model, file.reader.digests))


def _with_facts(model: Model) -> Model:
    return replace(
        model,
        potentials=tuple(
            replace(potential, facts=facts_of(model, potential, {}))
            for potential in model.potentials
        ),
    )


_UNUSED = {
    "reward": ("LMP201", "the reward `{}` is never used"),
    "function": ("LMP201", "the extern function `{}` is never used"),
    "lm": ("LMP201", "the extern language model `{}` is never used"),
    "parameter": ("LMP202", "the parameter `{}` is never used"),
    "site": ("LMP203", "the choice `{}` is drawn, and nothing depends on it"),
    "let": ("LMP204", "`{}` is never used"),
    "constant": ("LMP204", "`{}` is never used"),
    "import": ("LMP204", "nothing of the import `{}` is used"),
}


def _warn_unused(file: FileChecker, report: Report, program: ast.Program) -> None:
    for symbol in file.scope:
        if symbol.used or symbol.kind not in _UNUSED or symbol.span.path != program.path:
            continue
        code, message = _UNUSED[symbol.kind]
        report.warning(
            code,
            symbol.span,
            message.format(symbol.name),
            help=_advice(symbol),
        )


def _advice(symbol: Symbol) -> str:
    allow = f"take it out, or keep it with `# lmp: allow {_UNUSED[symbol.kind][0]}`"
    if symbol.kind == "site":
        return f"return it, use it, or {allow}"
    return f"use it, or {allow}"
