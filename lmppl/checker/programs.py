"""A whole file: its declarations, its one model, and what is left unused."""

from __future__ import annotations

import os
from collections.abc import Iterable

from lmppl.checker.analysis import Analysis, Annotations
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
from lmppl.files import Folder, ProgramFiles, Unreadable
from lmppl.inference.declared import foreseen, infer_mistakes
from lmppl.ir.expr import RewardCall
from lmppl.ir.model import Facts, InferSpec, Model, Potential
from lmppl.records import replace
from lmppl.syntax import ast


def analyse(program: ast.Program, files: ProgramFiles, *, pedantic: bool = False) -> Analysis:
    """All that is known of a program: its model, what is wrong with it, and what stands where.

    A file has exactly one `model`; an imported file may have one too, which is left aside. Files
    that the program names are found relative to the folder of `files`, those of an imported file
    relative to that file. `pedantic` adds heuristics (6xx) to the warnings, which otherwise are
    certain. What its own `infer` lines will be refused for is among the warnings: the model may
    well be inferred by another method. Nothing is raised.
    """
    report = Report(program.path, program.source)
    annotations = Annotations()
    place = Place(files)
    file = FileChecker(program, place, report, annotations, _opened(program, files))
    warn_of_reordering(program, report)
    file.check_declarations()
    infers = check_infers(program, file.expressions.check, report)
    report.diagnostics += infer_mistakes(infers)
    node = _the_model(program, report)
    model: Model | None = None
    if node is not None:
        body = ModelChecker(node, file).check()
        _warn_unused(file, report, program)
        model = _assemble(program, node, body, file, infers, files)
        check_divisors(model, report)
        report.diagnostics.extend(check_constraints(model, {}))
        model = _with_facts(model)
        if not report.has_errors:
            warn_of_late_judgement(model, report)
            if pedantic:
                add_heuristics(model, report)
            report.diagnostics += foreseen(model)
    report.silence(program.path, program.allowances)
    return Analysis(model, report.sorted(), report.sources, annotations.symbols, annotations.types)


def check(
    program: ast.Program,
    *,
    base_dir: str = ".",
    allow: Iterable[str | os.PathLike[str]] = (),
    pedantic: bool = False,
) -> tuple[Model, tuple[Diagnostic, ...]]:
    """The model that a program denotes, and the warnings about it, as `analyse` finds them.

    The files that it names lie beneath `base_dir` or a folder of `allow`.

    Raises:
        LmpError: all errors, and the warnings among them, in the order of the text.
    """
    analysis = analyse(program, program_files(base_dir, allow), pedantic=pedantic)
    return analysis.checked(), analysis.diagnostics


def program_files(base_dir: str, allow: Iterable[str | os.PathLike[str]] = ()) -> Folder:
    """What a program in a directory may read: its own folder, and those that the host allows.

    Raises:
        LmpError: LMP119, an allowed path is no path.
    """
    try:
        return Folder.of(base_dir, allow)
    except Unreadable as problem:
        message = f"a folder of the program {problem.reason}"
        raise LmpError([Diagnostic("LMP119", "error", message)]) from None


def _opened(program: ast.Program, files: ProgramFiles) -> tuple[str, ...]:
    """The real path of the main file, which nothing that it imports may import."""
    if program.path is None:
        return ()
    return (os.path.realpath(os.path.join(files.base, os.path.basename(program.path))),)


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
    files: ProgramFiles,
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
        base_dir=files.base,
        allow=files.roots[1:],
        digest="",
        span=node.head_span,
    )
    return replace(model, digest=model_digest(model, file.reader.digests))


def _with_facts(model: Model) -> Model:
    def facts(potential: Potential) -> Facts:
        nodes = model.nodes(potential.expr, potential.when)
        called = {node.reward for node in nodes if isinstance(node, RewardCall)}
        # Nothing is known of a reward whose declaration was reported.
        known = called <= model.rewards.keys()
        return facts_of(model, potential, {}) if known else potential.facts

    return replace(model, potentials=tuple(replace(p, facts=facts(p)) for p in model.potentials))


_UNUSED = {
    "reward": ("LMP201", "the reward `{}` is never used"),
    "function": ("LMP201", "the extern function `{}` is never used"),
    "language model": ("LMP201", "the extern language model `{}` is never used"),
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
